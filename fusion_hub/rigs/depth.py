"""How far objects at other distances than the calibrated one are off: one homography fits one distance."""

import math


def parallax(baseline: float, focal: float, distance: float, calibrated: float = math.inf) -> float:
    """Displacement between two parallel cameras, in visible pixels.

    d = f B |1 / Z - 1 / Z0|: the disparity f B / Z of a point at the depth Z (Hartley and Zisserman, "Multiple View
    Geometry in Computer Vision", 2004) less that of the depth Z0 which the rig was calibrated at.

    Args:
        baseline: distance B of the two lenses, in meters.
        focal: focal length f of the visible camera in pixels: width / (2 tan(horizontal field of view / 2)).
        distance: depth Z of an object in meters, above 0.
        calibrated: depth Z0 of the scene that the rig was calibrated on, in meters.

    Raises:
        ValueError: a length that is not positive.

    Examples:
        >>> round(parallax(baseline=0.05, focal=554, distance=5, calibrated=20), 1)
        4.2
    """
    for name, value in (("baseline", baseline), ("focal", focal), ("distance", distance), ("calibrated", calibrated)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    return focal * baseline * abs(1 / distance - 1 / calibrated)


def focal_in_pixels(width: int, field_of_view: float) -> float:
    """Focal length of a camera in pixels from the width of its picture and its horizontal field of view in degrees.

    Examples:
        >>> round(focal_in_pixels(640, 60))
        554
    """
    if not 0 < field_of_view < 180:
        raise ValueError(f"field_of_view={field_of_view} must be an angle between 0 and 180 degrees")
    return width / (2 * math.tan(math.radians(field_of_view) / 2))
