"""Sample pairs: registered pictures of the promised kinds, for every bundled model's modality."""

import numpy as np
from PIL import Image

from fusion_hub.data import sample_pairs
from fusion_hub.pipelines.checkpoints import PRETRAINED


def test_sample_pairs() -> None:
    pairs = {pair.name: pair for pair in sample_pairs()}
    assert list(pairs) == ["night", "day", "smoke", "glare", "raw16", "ct", "pet", "spect"]
    for pair in pairs.values():
        visible, infrared = Image.open(pair.visible), Image.open(pair.infrared)
        assert visible.size == infrared.size
        assert visible.mode == ("L" if pair.name == "ct" else "RGB")
        assert infrared.mode == ("I;16" if pair.name == "raw16" else "L")
        assert pair.model in PRETRAINED and pair.description.endswith(".")
    counts = np.asarray(Image.open(pairs["raw16"].infrared))
    assert 7000 <= counts.min() < counts.max() <= 9000 and len(np.unique(counts)) > 1000
