"""Pictures and luminance: the only room that reads, scales, rounds and writes samples.

`io` reads and writes any file, `tiff` the TIFF family, `luminance` says which sample value is black and which white,
and what is questionable about a picture.
"""
