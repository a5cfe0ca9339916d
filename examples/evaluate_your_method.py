"""Measure a fusion method of your own beside the baselines: `python examples/evaluate_your_method.py FOLDER OUTPUT`.

Replace `fuse` by your method. If you have its fused images as files, no code is needed:
`fusion-hub evaluate --model NAME=their/folder --data FOLDER --output OUTPUT`.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_hub import FusionImageProcessor, PairedDataset
from fusion_hub.data import Pair
from fusion_hub.evaluation import EvaluationSet, Method, evaluate

processor = FusionImageProcessor()


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Your method: two luminance images `(H, W)` in [0, 1] in, one out. Here the brighter of the two, dimmed."""
    return 0.9 * np.maximum(visible, infrared)


def fuse_pair(pair: Pair, dataset_name: str) -> Image.Image:
    visible, infrared, _ = processor.preprocess(pair.visible, pair.infrared)
    fused = fuse(visible[0, 0].numpy(), infrared[0, 0].numpy())
    return Image.fromarray(np.floor(fused.clip(0, 1) * 255 + 0.5).astype(np.uint8))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="folder of pairs")
parser.add_argument("output", type=Path, help="folder of the report")
parser.add_argument("--pairs", type=int, help="measure the first N pairs only")
options = parser.parse_args()

pairs = PairedDataset.open(options.folder)[: options.pairs]
dataset = EvaluationSet.of(options.folder.name, pairs, complete=options.pairs is None)
# What is measured already is not measured again, unless the fingerprint changes: here, with any change of this file.
version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
method = Method("mine", kind="model", fuse=fuse_pair, details={"sha256": version}, fingerprint=version)
print(evaluate([method], [dataset], output=options.output).markdown)
