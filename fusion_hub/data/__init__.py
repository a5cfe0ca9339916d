"""Paired images: where they lie on disk or on the Hub, training crops from them, and generated scenes.

    from fusion_hub.data import PairedDataset
    pairs = PairedDataset.open("data/msrs", split="test")
    print(pairs.check())

Names are loaded when first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_hub.data.crops import CropSource, PairCrops
    from fusion_hub.data.generated import GeneratedPair, generate_scene, generated_pairs
    from fusion_hub.data.layouts import file_pair
    from fusion_hub.data.pairs import Overlap, Pair, PairedDataset, PairReport
    from fusion_hub.data.pictures import source_file

_HOME = {
    "CropSource": "crops",
    "GeneratedPair": "generated",
    "Overlap": "pairs",
    "Pair": "pairs",
    "PairCrops": "crops",
    "PairReport": "pairs",
    "PairedDataset": "pairs",
    "generate_scene": "generated",
    "file_pair": "layouts",
    "generated_pairs": "generated",
    "source_file": "pictures",
}

__all__ = [
    "CropSource",
    "GeneratedPair",
    "Overlap",
    "Pair",
    "PairCrops",
    "PairReport",
    "PairedDataset",
    "file_pair",
    "generate_scene",
    "generated_pairs",
    "source_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
