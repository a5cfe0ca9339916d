"""Fuse one pair: `python examples/fuse_pair.py [VISIBLE INFRARED]`. Without files it fuses a drawn pair."""

import argparse

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.data import sample_pairs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("visible", nargs="?", help="color or gray image; CT, PET or SPECT")
parser.add_argument("infrared", nargs="?", help="thermal image of the same view and size; MRI")
parser.add_argument("--model", default="difffusenet-msrs", help="bundled name, folder or Hub id")
parser.add_argument("--output", default="fused.png")
options = parser.parse_args()
if (options.visible is None) != (options.infrared is None):
    parser.error("give both images, or none to fuse a drawn pair")

visible, infrared = options.visible, options.infrared
if visible is None:
    night = sample_pairs()[0]
    visible, infrared = night.visible, night.infrared

pipe = DiffFuseNetPipeline.from_pretrained(options.model)
fused = pipe(visible=visible, infrared=infrared).images[0]
fused.save(options.output)
print(f"{options.output}: {fused.width} x {fused.height} pixels, {fused.mode}")
