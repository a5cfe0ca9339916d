"""Draw docs/before_after.jpg, the picture at the top of the README: `python docs/before_after.py`."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.data import generate_scene
from fusion_hub.data.synthetic import Kind

SCENES: tuple[Kind, ...] = ("night_street", "smoke")
TITLES = ("Visible", "Infrared", "Fused")
WIDTH, HEIGHT, GAP, HEADER = 400, 300, 6, 34

pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
sheet = Image.new("RGB", (3 * WIDTH + 2 * GAP, HEADER + len(SCENES) * (HEIGHT + GAP) - GAP), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
for column, title in enumerate(TITLES):
    draw.text((column * (WIDTH + GAP) + WIDTH / 2, HEADER / 2), title, fill="#0f172a", font=font, anchor="mm")
for row, kind in enumerate(SCENES):
    scene = generate_scene(seed=0, kind=kind)
    fused = pipe(visible=scene.visible, infrared=scene.infrared).images[0]
    for column, image in enumerate((scene.visible, scene.infrared, np.asarray(fused))):
        tile = Image.fromarray(image).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        sheet.paste(tile, (column * (WIDTH + GAP), HEADER + row * (HEIGHT + GAP)))
sheet.save(Path(__file__).with_name("before_after.jpg"), quality=88)
