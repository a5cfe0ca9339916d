"""One radiometric photo as a rig: thermal cameras with a visible lens store how their two pictures lie."""

from contextlib import suppress

import numpy as np

from fusion_hub.image.inputs import read_luminance
from fusion_hub.image.picture import Picture
from fusion_hub.image.radiometric import Thermogram
from fusion_hub.rigs.calibrator import RigCalibrator
from fusion_hub.rigs.features import corners, transform
from fusion_hub.rigs.refine import score
from fusion_hub.rigs.rig import Rig, RigError
from fusion_hub.rigs.search import best_shift
from fusion_hub.rigs.views import Views

FARTHEST = 0.12  # of the visible width that a corner may move from where the camera places it
PARALLAX = 0.04  # the same for a shift, which near things need
GAIN = 0.02  # of the score by which a shift must be better


def photo_rig(thermogram: Thermogram) -> Rig:
    """How the infrared picture of a photo lies in its visible one.

    The camera's own geometry holds for one distance. It is refined on the photo itself where that is sure, otherwise
    shifted where a small shift, as nearer things need, fits better. Else `frames` of the rig is 0.

    Raises:
        RigError: the photo has no visible picture, or says nothing of the geometry and cannot be aligned with
            confidence.
    """
    if thermogram.visible is None:
        raise RigError("the photo holds no visible picture")
    visible = read_luminance({"bytes": thermogram.visible, "path": None}, "visible")
    infrared = read_luminance(Picture(thermogram.counts, white=65535.0), "infrared")
    sizes = (visible.shape[0], visible.shape[1]), (infrared.shape[0], infrared.shape[1])
    stated = _stated(thermogram, *sizes)
    calibrator = RigCalibrator(start=stated)
    calibrator.add_luminance(visible, infrared)
    if stated is None:
        return calibrator.estimate()
    with suppress(RigError):
        found = calibrator.estimate()
        if _moved(found, stated) < FARTHEST:
            return found
    views = Views([(visible, infrared)])
    place = views.to_canvas(stated.homography)
    shifted = best_shift(views, place, side=320) @ place
    with suppress(RigError):
        found = Rig(views.from_canvas(shifted), *sizes, frames=1)
        if _moved(found, stated) < PARALLAX and score(views, shifted) > score(views, place) + GAIN:
            return found
    return stated


def _stated(thermogram: Thermogram, visible_size: tuple[int, int], infrared_size: tuple[int, int]) -> Rig | None:
    """The geometry in the file; None where there is none, or an impossible one."""
    homography = thermogram.overlay_homography(visible_size)
    with suppress(RigError):
        return None if homography is None else Rig(homography, visible_size, infrared_size)
    return None


def _moved(one: Rig, other: Rig) -> float:
    """Largest distance of the corners of the infrared picture under two rigs, in visible widths."""
    points = corners(one.infrared_size)
    distances = transform(points, one.homography) - transform(points, other.homography)
    return float(np.hypot(*distances.T).max()) / one.visible_size[1]
