"""Fuse every pair of a folder: `python examples/fuse_folder.py FOLDER OUTPUT`.

FOLDER may have any layout that `PairedDataset` knows, such as `vis/` and `ir/` with files of equal names. The command
`fusion-hub fuse` does the same and can be interrupted and resumed.
"""

import argparse
from pathlib import Path

from fusion_hub import DiffFuseNetPipeline, PairedDataset, save_image

BATCH = 4

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("output", type=Path)
parser.add_argument("--model", default="difffusenet-msrs", help="bundled name, folder or Hub id")
options = parser.parse_args()

pairs = PairedDataset.open(options.folder)
print(pairs.check())
pipe = DiffFuseNetPipeline.from_pretrained(options.model)
options.output.mkdir(parents=True, exist_ok=True)
for start in range(0, len(pairs), BATCH):
    batch = list(pairs[start : start + BATCH])
    fused = pipe([pair.visible for pair in batch], [pair.infrared for pair in batch]).images
    for pair, image in zip(batch, fused, strict=True):
        save_image(image, options.output / f"{pair.name}.png")
print(f"{len(pairs)} fused images in {options.output}")
