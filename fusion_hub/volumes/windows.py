"""Windows: the physical values of a volume that become black and white, one pair for all of its slices."""

import numpy as np
import SimpleITK as sitk

from fusion_hub.volumes.volume import Volume, VolumeError

PRESETS: dict[str, tuple[float, float]] = {
    "brain": (0, 80),
    "subdural": (-20, 180),
    "bone": (-500, 1500),
    "lung": (-1350, 150),
    "soft-tissue": (-160, 240),
    "mediastinum": (-125, 225),
    "abdomen": (-150, 250),
}
"""Of CT, in HU."""
RULES = ("full", "percentile", "uptake")
SUV_WINDOW = (0.0, 10.0)
_HEAD = (1.0, 99.5)  # percentiles inside the head, of MR
_UPTAKE = 99.9


def choose_window(volume: Volume, wanted: str | tuple[float, float] | None = None) -> tuple[float, float]:
    """Black and white of a volume.

    Args:
        volume: to show.
        wanted: LOW and HIGH as a pair or as text; a preset of CT; "full" (smallest to largest value), "percentile"
            (1 to 99.5 inside the head or body), "uptake" (0 to the percentile 99.9). None: the volume's own `window`;
            else "brain" for CT, 0 to 10 for SUV, "uptake" for other PET and SPECT, "percentile" for everything else.

    Raises:
        VolumeError: unknown, not rising, a CT preset for values that are not HU, or nothing of the volume within it.
    """
    rule = wanted if wanted is not None else volume.window if volume.window is not None else _default(volume)
    low, high = _limits(volume, rule)
    values = volume.array
    if not low < high:
        raise VolumeError(f"the window {low:g},{high:g} is empty: give two rising numbers LOW,HIGH")
    least, most = float(values.min()), float(values.max())
    if most <= low or least >= high:
        unit = f" {volume.unit}" if volume.unit else ""
        raise VolumeError(
            f"the window {low:g},{high:g} leaves nothing of a volume with values {least:g} to {most:g}{unit}: give "
            "values within these"
        )
    return low, high


def apply_window(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values of any shape mapped from the window to [0, 1], clipped, float32.

    Examples:
        >>> apply_window(np.array([-10.0, 20.0, 80.0, 900.0]), (0, 80)).tolist()
        [0.0, 0.25, 1.0, 1.0]
    """
    low, high = window
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def _default(volume: Volume) -> str | tuple[float, float]:
    if volume.modality == "CT" and volume.unit == "HU":
        return "brain"
    if volume.unit == "SUV":
        return SUV_WINDOW
    return "uptake" if volume.modality in ("PT", "NM") else "percentile"


def _limits(volume: Volume, rule: str | tuple[float, float]) -> tuple[float, float]:
    if not isinstance(rule, str):
        low, high = rule
        return float(low), float(high)
    if rule in PRESETS:
        if volume.modality not in ("CT", None) or volume.unit not in ("HU", ""):
            kind = volume.modality or volume.unit
            raise VolumeError(
                f"the window {rule!r} is for CT in HU, not for {kind}: give LOW,HIGH or {', '.join(RULES)}"
            )
        return PRESETS[rule]
    values = volume.array
    if rule == "full":
        return float(values.min()), float(values.max())
    if rule == "uptake":
        positive = values[values > 0]
        return 0.0, float(np.percentile(positive, _UPTAKE)) if positive.size else 0.0
    if rule == "percentile":
        low, high = (float(limit) for limit in np.percentile(values[_inside(volume)], _HEAD))
        return (low, high) if low < high else (float(values.min()), float(values.max()))
    try:
        low, high = map(float, rule.split(","))
    except ValueError:
        names = ", ".join([*PRESETS, *RULES])
        raise VolumeError(f"the window {rule!r} is unknown: give LOW,HIGH or one of {names}") from None
    if not -np.inf < low < high < np.inf:
        raise VolumeError(f"the window {rule!r} does not rise: give two finite numbers LOW,HIGH")
    return low, high


def _inside(volume: Volume) -> np.ndarray:
    """The head or body, `(S, R, C)` bool: above half of Otsu's threshold, since dark tissue lies below it."""
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(volume.image)
    least = float(volume.array.min())
    inside = volume.array > least + 0.5 * (threshold.GetThreshold() - least)
    return inside if inside.any() else np.ones_like(inside)
