"""Two cameras that are not registered: the homography from the infrared to the visible picture.

    from fusion_hub.rigs import align

    alignment = align([(visible, infrared)])    # luminance in [0, 1], (H, W) and (h, w)
    if alignment.sure:
        print(alignment.homography)
    else:
        print(alignment.why)

OpenCV is needed: `pip install 'fusion-hub[rigs]'`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
