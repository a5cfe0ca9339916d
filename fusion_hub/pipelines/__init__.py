"""Pipelines: images in, images out; their checkpoints, and how these are loaded, checked and saved.

Public names are listed in `__init__.pyi` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
