"""Registration of volumes: known motions are found, failures are recognized, transforms are kept."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra `medical`)")

from fusion_hub.volumes import VolumeError, registration  # noqa: E402
from fusion_hub.volumes.registration import (  # noqa: E402
    Registration,
    checkerboard,
    load_transform,
    overlap_share,
    register,
    save_transform,
)


def head(modality: str, size: int = 32, spacing: float = 6.0, depth: int = 24) -> sitk.Image:
    """Ellipsoids: skull, brain, two ventricles, one lesion; gray values by modality."""
    z, y, x = (np.arange(n)[(...,) + (None,) * k] for n, k in ((depth, 2), (size, 1), (size, 0)))
    mm = [(axis - (n - 1) / 2) * spacing for axis, n in ((z, depth), (y, size), (x, size))]

    def ball(center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        return sum(((m - c) / r) ** 2 for m, c, r in zip(mm, center, radii, strict=True)) < 1

    parts = [
        ball((0, 0, 0), (62, 88, 70)),
        ball((0, 0, 0), (54, 79, 61)),
        ball((8, 5, -16), (14, 36, 9)),
        ball((8, 5, 16), (14, 30, 9)),
        ball((-15, -40, 25), (18, 16, 20)),
        ball((-30, 45, 0), (18, 22, 35)),
    ]
    values = {"MR": (60, 140, 240, 240, 200, 110), "CT": (1000, 35, 8, 8, 60, 42)}[modality]
    volume = np.full((depth, size, size), {"MR": 5.0, "CT": -1000.0}[modality])
    for part, value in zip(parts, values, strict=True):
        volume[part] = value
    volume += np.random.default_rng(len(modality)).normal(0, 4, volume.shape)
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([-(n - 1) / 2 * spacing for n in image.GetSize()])
    return image


def elsewhere(image: sitk.Image, motion: sitk.Transform) -> sitk.Image:
    """The image on a grid that is turned by `motion`: only its header changes."""
    moved = sitk.Image(image)
    matrix = np.reshape(motion.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    moved.SetDirection(matrix.ravel().tolist())
    moved.SetOrigin(motion.TransformPoint(image.GetOrigin()))
    return moved


def error(found: sitk.Transform, motion: sitk.Transform, points: np.ndarray) -> float:
    apart = [np.subtract(found.TransformPoint(p), motion.TransformPoint(p)) for p in points.tolist()]
    return float(np.linalg.norm(apart, axis=1).mean())


CORNERS = np.array(np.meshgrid((-40.0, 40.0), (-40.0, 40.0), (-40.0, 40.0))).reshape(3, -1).T
MOTION = sitk.Euler3DTransform((0.0, 0.0, 0.0), *np.radians((12.0, -9.0, 14.0)), (18.0, -14.0, 300.0))


@pytest.fixture(scope="module", autouse=True)
def few_points() -> Iterator[None]:
    """Shapes this simple need fewer points, which saves time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "SAMPLES", (5_000, 8_000, 10_000))
        yield


@pytest.fixture(scope="module")
def found() -> Registration:
    return register(head("MR"), elsewhere(head("CT"), MOTION), starts=1)


def test_a_known_motion_is_found_across_modalities_and_scanners(found: Registration) -> None:
    assert error(found.transform, MOTION, CORNERS) < 1.5
    assert found.trustworthy and found.reason == ""
    assert found.quality > found.chance >= 1 and found.overlap > 0.9 and found.disagreement < 5


def test_the_same_input_gives_the_same_transform(found: Registration) -> None:
    again = register(head("MR"), elsewhere(head("CT"), MOTION), starts=1)
    assert again.transform.GetParameters() == found.transform.GetParameters()


def test_affine_finds_a_scale() -> None:
    moving = head("CT")
    moving.SetSpacing([6.0 * 1.06, 6.0, 6.0 * 0.95])
    words: list[str] = []
    result = register(head("MR"), moving, "affine", starts=1, report=words.append)
    matrix = np.reshape(result.transform.GetMatrix(), (3, 3))
    assert np.abs(matrix - np.diag((1.06, 1.0, 0.95))).max() < 0.03
    assert len(words) == 4


def test_noise_is_not_trusted() -> None:
    """Blobs of one shape that say nothing about what is in them or how they are turned."""
    balls = []
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        grid = np.indices((24, 24, 24)) - 11.5
        noise = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(random.normal(size=(24, 24, 24))), 1.0)
        ball = 40 * ((grid**2).sum(0) < 100) * (1 + 2 * sitk.GetArrayFromImage(noise))
        image = sitk.GetImageFromArray(ball.astype(np.float32))
        image.SetSpacing([7.0] * 3)
        balls.append(image)
    result = register(*balls, starts=1)
    assert not result.trustworthy
    assert result.reason


def test_a_turn_far_outside_the_search_is_not_trusted() -> None:
    """A quarter turn about the axis from ear to ear: the places that are compared first turn by 20 degrees.

    One of the two searches finds it all the same.
    """
    motion = sitk.Euler3DTransform((0.0, 0.0, 0.0), np.radians(90.0), 0.0, 0.0, (10.0, 0.0, 0.0))
    result = register(head("MR"), elsewhere(head("CT"), motion), starts=1)
    assert result.disagreement > 20
    assert not result.trustworthy and "mm away" in result.reason


def test_a_small_field_of_view_is_recognized() -> None:
    result = register(head("MR"), head("CT")[:, :, :10], starts=1)
    assert result.overlap < 0.5
    assert not result.trustworthy and "field of view" in result.reason


def flat(value: float) -> sitk.Image:
    image = head("MR") * 0 + value
    return sitk.Cast(image, sitk.sitkFloat32)


def holed() -> sitk.Image:
    image = head("MR")
    image[3, 4, 5] = float("nan")
    return image


def spaced(spacing: float) -> sitk.Image:
    image = head("CT")
    image.SetSpacing([spacing] * 3)
    return image


def body() -> sitk.Image:
    image = head("CT")
    image.SetSpacing([18.0] * 3)
    return image


@pytest.mark.parametrize(
    ("moving", "words"),
    [
        (lambda: head("CT")[:, :, 4], "the moving image is 2-D with 1 value per voxel"),
        (lambda: sitk.Compose([head("CT")] * 3), "3-D with 3 values per voxel"),
        (lambda: head("CT")[:, :, 4:6], "32 x 32 x 2 voxels: registration needs at least 4"),
        (lambda: flat(7.0), "the moving volume is 7 everywhere"),
        (holed, "1 voxels of the moving volume are not finite"),
        (body, "l of tissue and the moving one .* l: crop both"),
        (lambda: spaced(600.0), r"the moving volume is 19\.2 x 19\.2 x 14\.4 m: check that its spacing is in mm"),
        (lambda: spaced(0.1), "nothing of 6 ml or more stands out from .* the moving volume, 3 x 3 x 2 mm"),
        (lambda: sitk.Cast(head("CT"), sitk.sitkComplexFloat32), "holds complex of 32-bit float"),
        (lambda: sitk.Cast(head("CT"), sitk.sitkFloat64) * 1e300, "of the moving volume are not finite"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_one_sentence(moving: Callable[[], sitk.Image], words: str) -> None:
    with pytest.raises(VolumeError, match=words):
        register(head("MR"), moving())


def test_options_are_checked() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"kind": "elastic"}, "kind is 'elastic'"),
        ({"starts": 0}, "starts is 0"),
        ({"starts": 1.5}, "starts is 1.5"),
        ({"seed": -1}, "seed is -1"),
    )
    for options, words in cases:
        with pytest.raises(VolumeError, match=words):
            register(head("MR"), head("CT"), **options)


def test_a_slab_of_four_thin_slices() -> None:
    fixed, moving = (head(modality)[:, :, 10:14] for modality in ("MR", "CT"))
    for image in (fixed, moving):
        image.SetSpacing((6.0, 6.0, 1.0))
    assert error(register(fixed, moving, starts=1).transform, sitk.Euler3DTransform(), CORNERS) < 3


def test_no_array_is_a_view_of_an_image_that_is_gone() -> None:
    """A view does not keep its image: with an image that has no name, it shows memory that was freed."""
    folder = Path(registration.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("GetArrayViewFromImage"):
                assert not any(isinstance(inner, ast.Call) for inner in ast.walk(node.args[0])), ast.unparse(node)


def test_overlap_in_space() -> None:
    fixed, away = head("MR"), elsewhere(head("CT"), MOTION)
    assert overlap_share(fixed, fixed) == 1
    assert overlap_share(fixed, away) == 0
    assert overlap_share(fixed, away, MOTION) == pytest.approx(1)


def test_a_transform_is_kept_exactly(tmp_path: Path) -> None:
    path = tmp_path / "to" / "transform.tfm"
    for transform in (MOTION, sitk.AffineTransform([1.1, 0.1, 0, 0, 0.9, 0, 0.2, 0, 1], [1 / 3, 2, 3])):
        save_transform(transform, path)
        assert error(load_transform(path), transform, CORNERS) < 1e-9
    assert [file.name for file in path.parent.iterdir()] == ["transform.tfm"]


def test_other_transforms_are_refused(tmp_path: Path) -> None:
    text, flat_one, field = (tmp_path / name for name in ("text.tfm", "flat.tfm", "field.tfm"))
    text.write_text("hello\n")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(flat_one))
    sitk.WriteTransform(sitk.BSplineTransformInitializer(head("MR"), [2, 2, 2]), str(field))
    cases = ((text, "no transform"), (flat_one, "2 dimensions"), (field, "BSpline"), (tmp_path / "no.tfm", "not exist"))
    for path, words in cases:
        with pytest.raises(VolumeError, match=words):
            load_transform(path)
    with pytest.raises(VolumeError, match="cannot be inverted"):
        save_transform(sitk.ScaleTransform(3, (1, 1, 0)), tmp_path / "zero.tfm")
    with pytest.raises(VolumeError, match=r"\.tfm"):
        save_transform(MOTION, tmp_path / "transform.txt")
    assert not (tmp_path / "zero.tfm").exists()


def test_checkerboard_shows_both_in_three_views() -> None:
    fixed = head("MR")[:, :, ::2]
    board = checkerboard(fixed, fixed)
    assert board.dtype == np.uint8 and board.shape == (32, 96)
    assert np.ptp(board) == 255
    mixed = checkerboard(fixed, fixed * 0 + 1)
    same = mixed == board
    assert 0.5 < same.mean() < 0.95
    with pytest.raises(VolumeError, match="grids differ"):
        checkerboard(fixed, fixed[:-1])


def stack(folder: Path, case: int, numbers: range) -> sitk.Image:
    Image = pytest.importorskip("PIL.Image")
    slices = [np.asarray(Image.open(folder / f"{case}{number:03}.png").convert("L")) for number in numbers]
    image = sitk.GetImageFromArray(np.stack(slices).astype(np.float32))
    image.SetSpacing((0.94, 0.94, 6.5))
    return image


def test_a_real_ct_is_laid_over_its_mr(data_root: Path) -> None:
    """The atlas's own alignment is the reference: it is good to a few millimeters."""
    mr, ct = (stack(data_root / "data/mri_ct/train" / modality, 28, range(5, 21)) for modality in ("mri", "ct"))
    center = mr.TransformContinuousIndexToPhysicalPoint((128, 128, 8))
    motion = sitk.Euler3DTransform(center, *np.radians((8.0, -10.0, 12.0)), (15.0, -12.0, 18.0))
    result = register(mr, elsewhere(ct, motion))
    assert error(result.transform, motion, CORNERS + center) < 2
    assert result.trustworthy
    assert result.disagreement < 2 and result.lead > 3 and result.overlap > 0.5
