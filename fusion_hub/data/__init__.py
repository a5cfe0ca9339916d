"""Paired images: folders, metadata files, the Hub; boxes and class maps; training crops; synthetic scenes.

    from fusion_hub.data import PairedDataset

    pairs = PairedDataset.open("data/msrs", split="test")
    print(pairs.check())

Public names are listed in `__init__.pyi` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
