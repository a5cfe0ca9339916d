"""Differences between pictures fused in tiles and whole, in gray levels, and the time that tiles cost.

    python benchmarks/tile_seams.py --model red-small-msrs --data ../shared/data --tiles 0 352

Pairs: LLVIP (1280x1024) and the raw RoadScene pictures, enlarged to 1700x1400. A tile of 0 is the automatic one. Needs
memory for the whole picture: about 8 GiB for red-small-msrs.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

from fusion_hub import FusionPipeline
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.image.tiling import tile_windows

LARGE = (1700, 1400)
LLVIP = ("190001", "200004")
ROADSCENE = ("FLIR_04319", "FLIR_06307")


def pairs(data: Path) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Luminance of a picture and its partner, which is stretched to the same size where it is a raw one."""
    files: list[tuple[str, Path, str, tuple[int, int] | None]] = [
        (name, data / "llvip" / "test", "jpg", None) for name in LLVIP
    ]
    files += [(name, data / "roadscene" / "raw", "png", LARGE) for name in ROADSCENE]
    for name, folder, ending, size in files:
        images = (Image.open(folder / "vis" / f"{name}.jpg"), Image.open(folder / "ir" / f"{name}.{ending}"))
        visible, infrared = (image.convert("L").resize(size or images[0].size) for image in images)
        yield name, visible, infrared


def main() -> None:
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", required=True, help="bundled name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with llvip and roadscene")
    parser.add_argument("--tiles", type=int, nargs="+", default=[0], help="sides in pixels; 0: the automatic one")
    parser.add_argument("--pictures", nargs="+", default=[*LLVIP, *ROADSCENE], help="names of the pictures to use")
    parser.add_argument("--overlap", type=int, help="pixels that tiles share, in place of the automatic number")
    arguments = parser.parse_args()
    keep_freed_memory()
    pipeline: Any = FusionPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    print(
        "| picture | size | tile | overlap | largest difference | pixels above 1 | pixels computed, x image "
        "| time, x whole |\n" + "|---" * 8 + "|"
    )
    for name, visible, infrared in pairs(arguments.data):
        if name not in arguments.pictures:
            continue
        began = time.perf_counter()
        whole = pipeline(visible, infrared, tile=0, output_type="np").images
        seconds = time.perf_counter() - began
        for side in arguments.tiles:
            tile = side or pipeline.tile_rules.automatic_side
            overlap = pipeline.tile_rules.overlap(tile) if arguments.overlap is None else arguments.overlap
            began = time.perf_counter()
            tiled = pipeline(visible, infrared, tile=tile, tile_overlap=arguments.overlap, output_type="np").images
            ratio = (time.perf_counter() - began) / seconds
            levels = 255 * np.abs(tiled - whole)
            size = f"{visible.width}x{visible.height}"
            windows = tile_windows(visible.height, visible.width, tile, overlap, pipeline.tile_rules.geometry.grid)
            computed = sum(window.height * window.width for window in windows) / (visible.height * visible.width)
            print(
                f"| {name} | {size} | {tile} | {overlap} | {levels.max():.2f} | {(levels > 1).sum()} | {computed:.2f} "
                f"| {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
