"""Draw docs/before_after.jpg, the picture at the top of the README: `python docs/before_after.py`."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.data import sample_pairs

ROWS = ("night", "smoke", "pet")
TITLES = ("Visible or PET", "Infrared or MRI", "Fused")
WIDTH, HEIGHT, GAP, HEADER = 400, 300, 6, 34

pairs = {pair.name: pair for pair in sample_pairs()}
sheet = Image.new("RGB", (3 * WIDTH + 2 * GAP, HEADER + len(ROWS) * (HEIGHT + GAP) - GAP), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
for column, title in enumerate(TITLES):
    draw.text((column * (WIDTH + GAP) + WIDTH / 2, HEADER / 2), title, fill="#0f172a", font=font, anchor="mm")
for row, name in enumerate(ROWS):
    pair = pairs[name]
    pipe = DiffFuseNetPipeline.from_pretrained(pair.model)
    fused = pipe(visible=pair.visible, infrared=pair.infrared).images[0]
    for column, image in enumerate((Image.open(pair.visible), Image.open(pair.infrared), fused)):
        tile = ImageOps.pad(image.convert("RGB"), (WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        sheet.paste(tile, (column * (WIDTH + GAP), HEADER + row * (HEIGHT + GAP)))
sheet.save(Path(__file__).with_name("before_after.jpg"), quality=88)
