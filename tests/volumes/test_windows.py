"""Windows: one pair of values for a whole volume."""

import numpy as np
import pytest
import SimpleITK as sitk

from fusion_hub import volumes

HEAD = np.random.default_rng(0).normal(0, 3, (8, 40, 40)).clip(0).astype(np.float32)
HEAD[:, 8:32, 8:32] += np.linspace(300, 900, 24, dtype=np.float32)


def volume(values: np.ndarray = HEAD, modality: volumes.Modality | None = "MR", unit: str = "") -> volumes.Volume:
    return volumes.Volume(sitk.GetImageFromArray(values), modality, unit)


def test_defaults_by_modality() -> None:
    assert volumes.choose_window(volume(HEAD - 1000, "CT", "HU"), (-500, 200)) == (-500, 200)
    assert volumes.choose_window(volume(HEAD, "CT", "HU")) == volumes.PRESETS["brain"]
    assert volumes.choose_window(volume(HEAD / 100, "PT", "SUV")) == (0, 10)
    low, high = volumes.choose_window(volume(HEAD, "PT", "Bq/ml"))
    assert low == 0 and 850 < high <= HEAD.max()


def test_mr_is_judged_inside_the_head() -> None:
    low, high = volumes.choose_window(volume())
    assert 290 < low < 330 and 880 < high < 910  # air, most of the voxels, has no say


def test_names_and_numbers() -> None:
    ct = volume(HEAD - 500, "CT", "HU")
    assert volumes.choose_window(ct, "bone") == (-500, 1500) and volumes.choose_window(ct, "-10, 90.5") == (-10, 90.5)
    assert volumes.choose_window(ct, "full") == (HEAD.min() - 500, HEAD.max() - 500)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("5,5", "does not rise"),
        ("a,b", "unknown"),
        ("nan,4", "does not rise"),
        ("bone", "for CT in HU"),
        ("5000,6000", "nothing of"),
    ],
)
def test_windows_that_cannot_be(wanted: str, words: str) -> None:
    with pytest.raises(volumes.VolumeError, match=words):
        volumes.choose_window(volume(), wanted)


def test_values_are_clipped_and_never_scaled_by_slice() -> None:
    scaled = volumes.apply_window(HEAD, (300, 900))
    assert scaled.dtype == np.float32 and scaled.min() == 0 and scaled.max() == 1
    assert np.array_equal(scaled[3], volumes.apply_window(HEAD[3], (300, 900)))
