"""Time to read and scale pairs: JPEG pairs of RoadScene, and one 4096 x 4096 pair of 16-bit TIFFs.

    python benchmarks/reading.py --data ../shared/data

Prints the least of several runs on one thread: wall clock and processor seconds. To compare two versions of the
package, run it with PYTHONPATH set to each in turn on an idle machine, and quote the ratio.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch

from fusion_hub import FusionImageProcessor, PairedDataset

SIDE = 4096


def least(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Wall clock and processor seconds of the quickest run."""
    found = []
    for _ in range(runs):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        work()
        after = resource.getrusage(resource.RUSAGE_SELF)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((time.perf_counter() - start, busy))
    return min(wall for wall, _ in found), min(busy for _, busy in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    processor = FusionImageProcessor()
    pairs = [
        (p.visible_source, p.infrared_source) for p in PairedDataset.open(arguments.data / "roadscene", split="test")
    ]
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
            wall, busy = least(work, arguments.runs)
            print(f"{name}: {wall:.3f} s wall, {busy:.3f} s processor")


if __name__ == "__main__":
    main()
