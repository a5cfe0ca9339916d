"""Video: two files, folders of frames, streams or cameras, paired by time and fused frame by frame.

`frames` turns decoded frames into pictures and back, `sources` reads, `pairing` finds the infrared frame of each
visible one, `display_range` keeps black and white of the infrared steady, `fusion` runs a pipeline over the pairs,
`writers` encodes. Public names are listed in `__init__.pyi` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
