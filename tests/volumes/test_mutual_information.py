"""Mutual information of two volumes: known values, the same in both directions and in every orientation."""

import numpy as np
import pytest

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra `medical`)")

from fusion_hub.volumes import registration  # noqa: E402
from fusion_hub.volumes.mutual_information import BINS, Similarity, mutual_information, sample  # noqa: E402

RANDOM = np.random.default_rng(0)


def test_known_values() -> None:
    levels = np.repeat(np.arange(BINS) / (BINS - 1), BINS)
    assert mutual_information(levels, levels) == pytest.approx(np.log(BINS))
    assert mutual_information(levels, 1 - levels) == pytest.approx(np.log(BINS))
    assert mutual_information(levels, np.tile(levels[::BINS], BINS)) == pytest.approx(0, abs=1e-12)


def test_values_of_two_gaussian_variables() -> None:
    """-ln(1 - r^2) / 2 (Cover, Thomas, Elements of Information Theory, chapter 8); bins and samples cost a little."""
    for correlation in (0.5, 0.9):
        covariance = [[1, correlation], [correlation, 1]]
        values = 0.5 + RANDOM.multivariate_normal((0, 0), covariance, 200_000).T / 8
        wanted = -np.log(1 - correlation**2) / 2
        assert mutual_information(*values) == pytest.approx(wanted, rel=0.06)


def volume(seed: int) -> sitk.Image:
    noise = np.random.default_rng(seed).uniform(size=(12, 14, 16)).astype(np.float32)
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 2.0)
    image = sitk.RescaleIntensity(image, 0.0, 1.0)
    image.SetSpacing((2.0, 2.0, 2.0))
    return image


def similarity(first: sitk.Image, second: sitk.Image) -> Similarity:
    return Similarity(*(sample(image, image > -1, 10_000, seed) for seed, image in enumerate((first, second))))


def test_both_directions_count_the_same() -> None:
    first, second = volume(0), volume(1)
    turn = sitk.Euler3DTransform((12.0, 12.0, 12.0), 0.1, -0.2, 0.1, (3.0, -2.0, 1.0))
    matrix, offset = registration._matrix(turn)
    back = np.linalg.inv(matrix), -np.linalg.inv(matrix) @ offset
    one = similarity(first, second)
    assert one((matrix, offset)) == pytest.approx(Similarity(one.moving, one.fixed)(back), abs=1e-9)


def test_a_small_overlap_is_no_way_out() -> None:
    image = volume(0)
    measure = similarity(image, image)
    shifts = (0.0, 8.0, 16.0, 24.0, 30.0, 100.0)
    values = [measure((np.eye(3), np.array([shift, 0.0, 0.0]))) for shift in shifts]
    assert values[-1] == 0
    assert max(values[1:]) < values[0] / 2


@pytest.mark.parametrize("affine", [False, True])
def test_the_maximum_is_found(affine: bool) -> None:
    image = volume(0)
    measure, center = similarity(image, sitk.Sqrt(image)), np.full(3, 12.0)
    turn = sitk.Euler3DTransform(center.tolist(), 0.02, -0.02, 0.03, (1.0, -1.5, 1.0))
    matrix, offset = measure.maximize(registration._matrix(turn), center, 1.0, 1e-6, affine)
    assert np.abs(image.GetSize() @ matrix.T + offset - image.GetSize()).max() < 0.2
    assert np.abs(matrix - np.eye(3)).max() < 0.02


def test_masks_do_not_depend_on_the_orientation() -> None:
    """Voxels of the fine grid lie exactly between those of the grid on which the tissue is found."""
    array = np.zeros((30, 34, 38), np.float32)
    array[6:24, 7:27, 8:30] = RANDOM.uniform(50, 100, (18, 20, 22))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((3.0, 3.0, 4.0))
    counts = []
    for angles in np.radians(RANDOM.uniform(-30, 30, (6, 3))):
        image.SetDirection(sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles.tolist()).GetMatrix())
        image.SetOrigin(RANDOM.uniform(-50, 50, 3).tolist())
        subject = registration._prepare(image, registration._tissue(image, "fixed"))
        counts.append([int(sitk.GetArrayViewFromImage(mask).sum()) for mask in subject.masks])
    assert all(count == counts[0] for count in counts)
