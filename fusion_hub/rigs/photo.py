"""One radiometric photo as a rig: thermal cameras with a visible lens store how their two pictures lie."""

import numpy as np

from fusion_hub.image.inputs import read_luminance
from fusion_hub.image.picture import Picture
from fusion_hub.image.radiometric import Thermogram
from fusion_hub.rigs.calibrator import RigCalibrator
from fusion_hub.rigs.features import corners, transform
from fusion_hub.rigs.rig import Rig, RigError

FARTHEST = 0.12  # of the visible width that a corner may move from where the camera places it


def photo_rig(thermogram: Thermogram) -> Rig:
    """How the infrared picture of a photo lies in its visible one.

    The camera's own geometry holds for one distance. It is refined on the photo itself where that is sure; `frames` of
    the rig is 0 where it is not.

    Raises:
        RigError: the photo has no visible picture, or says nothing of the geometry and cannot be aligned with
            confidence.
    """
    if thermogram.visible is None:
        raise RigError("the photo holds no visible picture")
    visible = read_luminance({"bytes": thermogram.visible, "path": None}, "visible")
    infrared = read_luminance(Picture(thermogram.counts, white=65535.0), "infrared")
    sizes = (visible.shape[0], visible.shape[1]), (infrared.shape[0], infrared.shape[1])
    start = thermogram.overlay_homography(sizes[0])
    stated = None
    if start is not None:
        try:
            stated = Rig(start, *sizes)
        except RigError:  # impossible geometry
            stated = None
    calibrator = RigCalibrator(start=stated)
    calibrator.add_luminance(visible, infrared)
    try:
        found = calibrator.estimate()
    except RigError:
        if stated is None:
            raise
        return stated
    if stated is not None:
        moved = transform(corners(sizes[1]), found.homography) - transform(corners(sizes[1]), stated.homography)
        if np.hypot(*moved.T).max() > FARTHEST * sizes[0][1]:
            return stated
    return found
