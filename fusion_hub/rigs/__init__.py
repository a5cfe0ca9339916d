"""Two cameras that are not registered: how the infrared one looks into the picture of the visible one.

    from fusion_hub.rigs import Rig, RigCalibrator

    calibrator = RigCalibrator()
    for visible, infrared in pairs:            # of one fixed rig: paths, PIL images, arrays
        calibrator.add(visible, infrared)
    calibrator.estimate().save("rig.json")     # RigError where it is not sure

    aligned = Rig.load("rig.json").warp(infrared_array)    # a masked array on the visible grid
    fused = pipe(visible, infrared, rig="rig.json").images[0]

OpenCV is needed: `pip install 'fusion-hub[rigs]'`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
