"""Pictures and luminance: the only room that reads, scales, rounds, pads and crops pixels.

`io` reads and writes files, `tiff` the TIFF family, `picture` holds what was read, `luminance` scales samples to
[0, 1] and finds what is questionable, `processor` turns pairs of pictures into tensors and back, `tiling` pads and
cuts, `colors` lays PET and SPECT in their own colors over MRI. Public names are listed in `__init__.pyi` and imported
on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
