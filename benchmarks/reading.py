"""Time to read and scale pairs: JPEG pairs of RoadScene, and one 4096 x 4096 pair of 16-bit TIFFs.

    python benchmarks/reading.py --data ../shared/data

Prints the least of several runs on one thread: wall clock and processor seconds. To compare two versions of the
package, run it with PYTHONPATH set to each in turn on an idle machine, and quote the ratio.
"""

import tempfile
from pathlib import Path

import common
import numpy as np
import tifffile
import torch

from fusion_hub import FusionImageProcessor, PairedDataset

SIDE = 4096


def main() -> None:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    processor = FusionImageProcessor()
    dataset = PairedDataset.open(arguments.data / "roadscene", split="test")
    pairs = [(pair.visible_source, pair.infrared_source) for pair in dataset]
    y, x = np.mgrid[:SIDE, :SIDE]
    scene = ((np.sin(x / 200) + np.cos(y / 300) + 2) * 16000).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "visible.tif"), Path(folder, "infrared.tif")
        tifffile.imwrite(large[0], scene, metadata=None)
        tifffile.imwrite(large[1], (2600 + scene // 500).astype(np.uint16), metadata=None)
        for name, work in (
            (f"{len(pairs)} RoadScene pairs", lambda: [processor.preprocess(*pair) for pair in pairs]),
            (f"one pair of {SIDE} x {SIDE} 16-bit TIFFs", lambda: processor.preprocess(*large)),
        ):
            ((walls, processors),) = common.time_in_turn([work], arguments.runs, warm_up=0)
            print(f"{name}: {min(walls):.3f} s wall, {min(processors):.3f} s processor")


if __name__ == "__main__":
    main()
