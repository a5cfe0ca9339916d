"""Register two volumes of one head, rigid or affine, by mutual information, and check the result.

Rotations about the centers of the tissue are compared first. The best of them are optimized from coarse to fine grids
([`mutual_information`]). Around the tissue, the coarse grid sees much of the air, since the outline tells best where a
head is, and the finer ones little of it, since the outlines of two modalities differ. The search is made twice, from
other rotations and with other points. Both results are refined with the same points. They must agree, and then their
mean is taken: each stops up to a millimeter from the maximum, since the function is rugged.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from fusion_hub.files import write_aside
from fusion_hub.volumes.mutual_information import BINS, Linear, Similarity, sample
from fusion_hub.volumes.volume import VolumeError

Kind = Literal["rigid", "affine"]
Points = NDArray[np.float64]

GRIDS = (8.0, 4.0, 2.0)  # mm between voxels, from coarse to fine
SAMPLES = (3_000, 7_000, 50_000)  # points of each volume that are compared on each grid, at most
TURNS = ((0.0, -20.0, 20.0), (-10.0, 10.0))  # degrees about each axis: first places of the two searches
TOLERANCES = (1e-4, 1e-4, 1e-5)  # relative gain at which the search on each grid ends
MARGINS = (30.0, 12.0, 12.0)  # mm of surroundings of the tissue that are compared on each grid, too

LARGEST_DISAGREEMENT = 3.0  # mm
SMALLEST_LEAD = 3.0  # standard deviations
SMALLEST_OVERLAP = 0.5
LARGEST_RATIO = 6.0  # of the tissue volumes
FEWEST_VOXELS = 4  # along each axis
MOST_FINE_VOXELS = 2**27  # a body of two meters has about that many
_NUMBERS = (
    *(sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32),
    *(sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64),
)


@dataclass(frozen=True, eq=False)
class Registration:
    """How a moving volume lies over a fixed one, and whether to believe it.

    Attributes:
        transform: maps points of the fixed volume to the moving one, mm, as `SimpleITK.Resample` wants it.
        kind: rigid or affine.
        quality: normalized mutual information around the tissue of the fixed volume, on a grid of 8 mm: 1 for
            volumes that say nothing about each other, 2 for volumes that determine each other.
        chance: mean of the same at places 20 to 40 mm and 20 to 40 degrees away.
        lead: (quality - chance) in standard deviations of the values at those places.
        disagreement: mm, mean over the tissue, between the results of two searches, from other rotations and with other
            points, that are refined in the same way.
        overlap: share of the tissue of the fixed volume that lies in the field of view of the moving one.
        reason: why the result is not trustworthy, a sentence; empty where it is.
        seconds: processor time.
    """

    transform: sitk.Transform
    kind: Kind
    quality: float
    chance: float
    lead: float
    disagreement: float
    overlap: float
    reason: str
    seconds: float

    @property
    def trustworthy(self) -> bool:
        """Whether both searches agree, clearly above chance, with enough overlap."""
        return not self.reason


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    kind: Kind = "rigid",
    *,
    seed: int = 0,
    starts: int = 4,
    report: Callable[[str], None] | None = None,
) -> Registration:
    """Find the transform that lays `moving` over `fixed`.

    The positions in the headers need not be near: the centers of the tissue are a start, too. The volumes may differ in
    modality, grid, orientation and field of view, but must show the same part of the body. One thread; the same input
    and seed give the same result.

    Args:
        fixed, moving: 3-D, one value per voxel, any unit.
        kind: rigid (6 parameters) or affine (12).
        seed: of the choice of points that are compared.
        starts: how many of the places that are compared first (54 and 16) are optimized in each search; more take
            longer and fail less often.
        report: called with a few words before each step.

    Raises:
        VolumeError: an image that is not 3-D, constant, not finite or without tissue, or two very different
            fields of view.
    """
    if kind not in ("rigid", "affine"):
        raise VolumeError(f'kind is {kind!r}: use "rigid" or "affine"')
    for name, number, least in (("starts", starts, 1), ("seed", seed, 0)):
        if not isinstance(number, int) or number < least:
            raise VolumeError(f"{name} is {number!r}: use a whole number of at least {least}")
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # other work may need the rest
    try:
        return _register(fixed, moving, kind, seed, starts, report or (lambda words: None))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _register(
    fixed: sitk.Image, moving: sitk.Image, kind: Kind, seed: int, starts: int, say: Callable[[str], None]
) -> Registration:
    begin = time.process_time()
    images = [_checked(image, name) for image, name in ((fixed, "fixed"), (moving, "moving"))]
    say("preparing the volumes")
    tissues = [_tissue(image, name) for image, name in zip(images, ("fixed", "moving"), strict=True)]
    _check_sizes(*tissues)
    ours, theirs = (_prepare(image, tissue) for image, tissue in zip(images, tissues, strict=True))
    center = ours.tissue.mean(0)
    found: list[Linear] = []
    for number, name in enumerate(("first", "second")):
        say(f"registering the volumes, {name} search")
        found.append(_search(ours, theirs, kind, number, seed, starts))
    say("refining the registration")
    measure = _measure(ours, theirs, 2, seed)
    one, other = (measure.maximize(place, center, GRIDS[2], TOLERANCES[2], kind == "affine") for place in found)
    disagreement = _distance(one, other, ours.tissue)
    agree = disagreement <= LARGEST_DISAGREEMENT
    transform = _as_transform(
        _mean(one, other, center, kind) if agree else max((one, other), key=measure), center, kind
    )
    quality, _ = _similarity(ours, theirs, transform)
    elsewhere = [_similarity(ours, theirs, place)[0] for place in _places_away(ours, transform, seed)]
    chance = float(np.mean(elsewhere))
    lead = (quality - chance) / max(float(np.std(elsewhere)), 1e-9)
    overlap = overlap_share(fixed, moving, transform, ours.tissue)
    reason = _doubt(disagreement, lead, overlap)
    seconds = time.process_time() - begin
    return Registration(transform, kind, quality, chance, lead, disagreement, overlap, reason, seconds)


def overlap_share(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform | None = None, points: Points | None = None
) -> float:
    """Share of points of `fixed` that lie in the field of view of `moving`, 0 to 1.

    Args:
        transform: maps points of `fixed` to `moving`; the positions in the headers as they are without it.
        points: `(N, 3)`, mm; a grid over `fixed` without it.
    """
    if points is None:
        index = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 16) for n in fixed.GetSize()), indexing="ij"), -1)
        points = index.reshape(-1, 3) @ _axes(fixed).T + fixed.GetOrigin()
    there = points if transform is None else _map(transform, points)
    index = (there - moving.GetOrigin()) @ np.linalg.inv(_axes(moving)).T
    return float(((index >= -0.5) & (index <= np.array(moving.GetSize()) - 0.5)).all(1).mean())


def save_transform(transform: sitk.Transform | None, path: Path) -> None:
    """Write a rigid or affine transform to a text file of ITK, whole or not at all; None is the identity.

    Raises:
        VolumeError: the name does not end in .tfm, or the transform is of another kind.
    """
    if path.suffix.lower() != ".tfm":
        raise VolumeError(f"{path} does not end in .tfm: use such a name for a transform")
    transform = sitk.Euler3DTransform() if transform is None else transform
    _check_linear(transform, "the transform")
    with tempfile.TemporaryDirectory() as folder, write_aside(path) as aside:
        text = Path(folder) / "transform.tfm"  # ITK chooses the format by the end of the name
        sitk.WriteTransform(transform, str(text))
        aside.write_bytes(text.read_bytes())


def load_transform(path: Path) -> sitk.Transform:
    """Read a rigid or affine transform in three dimensions that [`save_transform`] or another ITK program wrote.

    Raises:
        VolumeError: a file that cannot be read, or a transform of another kind.
    """
    if not path.is_file():
        raise VolumeError(f"{path} does not exist: give the .tfm file of a rigid or affine transform")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise VolumeError(f"{path} is no transform that ITK can read: give a .tfm file") from None
    _check_linear(transform, str(path))
    return transform.Downcast()


def checkerboard(fixed: sitk.Image, resampled: sitk.Image, squares: int = 8) -> NDArray[np.uint8]:
    """Fixed and resampled volume in turn, square by square, in three orthogonal views through the center.

    Args:
        fixed, resampled: on one grid; each is stretched from its 1st to its 99.5th percentile.
        squares: along the longest side of the grid.

    Returns:
        `(H, W)` gray, the planes of slices, rows and columns side by side at one scale.

    Raises:
        VolumeError: the grids differ in size.
    """
    if fixed.GetSize() != resampled.GetSize():
        raise VolumeError(
            f"the grids differ, {fixed.GetSize()} and {resampled.GetSize()}: "
            "resample the moving volume to the fixed one"
        )
    spacing = np.array(fixed.GetSpacing()[::-1])
    shape = np.round(spacing / spacing.min() * fixed.GetSize()[::-1]).astype(int)
    side = max(1, -(-int(shape.max()) // squares))
    views = []
    for axis in range(3):
        rows, columns = (n for i, n in enumerate(shape) if i != axis)
        pictures = []
        for image in (fixed, resampled):
            volume = sitk.GetArrayViewFromImage(image)
            low, high = np.percentile(volume, (1, 99.5))
            plane = np.take(volume, volume.shape[axis] // 2, axis)
            y, x = (np.arange(n) * old // n for n, old in zip((rows, columns), plane.shape, strict=True))
            pictures.append(np.clip((plane[np.ix_(y, x)] - low) / max(high - low, 1e-9), 0, 1))
        board = np.add.outer(np.arange(rows) // side, np.arange(columns) // side) % 2 == 0
        view = np.zeros((shape.max(), columns), np.uint8)
        view[:rows] = np.round(255 * np.where(board, *pictures))
        views.append(view)
    return np.hstack(views)


@dataclass(frozen=True, eq=False)
class _Subject:
    """One volume prepared.

    Attributes:
        levels: gray values 0 (air) to 1, from the coarse to the fine grid.
        masks: what is compared, on the same grids: the tissue and `MARGINS` around it.
        tissue: `(M, 3)`, mm, of the tissue itself on the coarse grid.
    """

    levels: list[sitk.Image]
    masks: list[sitk.Image]
    tissue: Points


def _checked(image: sitk.Image, name: str) -> sitk.Image:
    """The image in float32."""
    size, parts = image.GetSize(), image.GetNumberOfComponentsPerPixel()
    if len(size) != 3 or parts != 1:
        shape = f"{len(size)}-D with {parts} value{'s' * (parts > 1)} per voxel"
        raise VolumeError(f"the {name} image is {shape}: registration takes 3-D volumes with one value per voxel")
    if image.GetPixelID() not in _NUMBERS:
        held = image.GetPixelIDTypeAsString()
        raise VolumeError(f"the {name} volume holds {held}: registration takes whole numbers and real ones")
    if min(size) < FEWEST_VOXELS:
        raise VolumeError(
            f"the {name} volume is {' x '.join(map(str, size))} voxels: "
            f"registration needs at least {FEWEST_VOXELS} along each axis"
        )
    extent = np.multiply(size, image.GetSpacing())
    if np.prod(np.ceil(extent / GRIDS[-1])) > MOST_FINE_VOXELS:
        shown = " x ".join(f"{side / 1000:.3g}" for side in extent)
        raise VolumeError(f"the {name} volume is {shown} m: check that its spacing is in mm, or crop it")
    cast = sitk.Cast(image, sitk.sitkFloat32)
    array = sitk.GetArrayViewFromImage(cast)
    if wrong := int(array.size - np.isfinite(array).sum()):
        raise VolumeError(f"{wrong} voxels of the {name} volume are not finite: replace them by its background")
    if (low := array.min()) == array.max():
        raise VolumeError(f"the {name} volume is {low:g} everywhere: choose one with content")
    return cast


def _check_sizes(fixed: sitk.Image, moving: sitk.Image) -> None:
    liters = [float(sitk.GetArrayViewFromImage(mask).sum() * GRIDS[1] ** 3 / 1e6) for mask in (fixed, moving)]
    if max(liters) > LARGEST_RATIO * min(liters):
        raise VolumeError(
            f"the fixed volume shows {liters[0]:.1f} l of tissue and the moving one {liters[1]:.1f} l: "
            "crop both to the same part of the body"
        )


def _check_linear(transform: sitk.Transform, name: str) -> None:
    advice = "use a rigid or affine transform in three dimensions"
    if transform.GetDimension() != 3:
        raise VolumeError(f"{name} is in {transform.GetDimension()} dimensions: {advice}")
    if not transform.IsLinear():
        raise VolumeError(f"{name} is of kind {transform.Downcast().GetName()}: {advice}")
    matrix, _ = _matrix(transform)
    if not (np.isfinite(matrix).all() and 1e-3 < abs(np.linalg.det(matrix)) < 1e3):
        raise VolumeError(f"{name} cannot be inverted: {advice}")


def _doubt(disagreement: float, lead: float, overlap: float) -> str:
    if overlap < SMALLEST_OVERLAP:
        return f"only {overlap:.0%} of the fixed volume's tissue lies in the moving one's field of view"
    if disagreement > LARGEST_DISAGREEMENT:
        return f"a second search, from other places, gives a result that is {disagreement:.1f} mm away"
    if lead < SMALLEST_LEAD:
        return f"the mutual information is only {lead:.1f} standard deviations above that of wrong places"
    return ""


def _tissue(image: sitk.Image, name: str) -> sitk.Image:
    """Mask of the largest object on the middle grid: what the lower of two thresholds of Otsu divides from the air."""
    thresholds = sitk.OtsuMultipleThresholdsImageFilter()
    thresholds.SetNumberOfThresholds(2)
    mask = thresholds.Execute(_resample(image, GRIDS[1])) > 0
    opened = sitk.BinaryMorphologicalOpening(mask, [1] * 3)  # without the table and head holder
    mask = sitk.RelabelComponent(sitk.ConnectedComponent(opened)) == 1
    mask = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(mask, [2] * 3))
    if sitk.GetArrayViewFromImage(mask).sum() < 100:  # 6 ml
        extent = " x ".join(f"{side:.0f}" for side in np.multiply(image.GetSize(), image.GetSpacing()))
        raise VolumeError(
            f"nothing of 6 ml or more stands out from the background of the {name} volume, {extent} mm: choose another "
            "one, or check that its spacing is in mm"
        )
    return mask


def _prepare(image: sitk.Image, tissue: sitk.Image) -> _Subject:
    """Gray values are the mean of their rank within the tissue, so that soft tissue in CT gets its share of the bins,
    and of the value stretched to 0 to 1, so that noise does not."""
    fine = _resample(image, GRIDS[-1])
    array, within = sitk.GetArrayViewFromImage(fine), _on_grid(tissue, fine)
    inside = np.sort(array[sitk.GetArrayViewFromImage(within) > 0])
    rank = (np.searchsorted(inside, array, "left") + np.searchsorted(inside, array, "right")) / (2 * inside.size)
    low, high = np.percentile(array, 1), inside[int(0.99 * (inside.size - 1))]
    stretched = np.clip((array - low) / max(high - low, 1e-9), 0, 1)
    gray = sitk.GetImageFromArray(((rank + stretched) / 2).astype(np.float32))
    gray.CopyInformation(fine)
    levels = [*(_resample(gray, spacing) for spacing in GRIDS[:-1]), gray]
    near = {margin: sitk.BinaryDilate(tissue, [round(margin / GRIDS[1])] * 3) for margin in set(MARGINS)}
    masks = [_on_grid(near[margin], level) for margin, level in zip(MARGINS, levels, strict=True)]
    return _Subject(levels, masks, _points(_on_grid(tissue, levels[0])))


def _search(fixed: _Subject, moving: _Subject, kind: Kind, number: int, seed: int, starts: int) -> Linear:
    """Compare rotations on the coarse grid, optimize the best there, and all that they lead to on the middle one."""
    center = fixed.tissue.mean(0)
    coarse, middle = (_measure(fixed, moving, level, seed + 1 + number) for level in (0, 1))
    angles = tuple(itertools.product(TURNS[number], repeat=3))
    places = [_rigid(turn, center, to) for to in (moving.tissue.mean(0), center) for turn in angles]
    found: list[Linear] = []
    for place in sorted((_matrix(place) for place in places), key=coarse, reverse=True)[:starts]:
        maximum = coarse.maximize(place, center, GRIDS[0], TOLERANCES[0])
        if all(_distance(maximum, other, fixed.tissue) > GRIDS[0] / 2 for other in found):
            found.append(maximum)
    best = max((middle.maximize(place, center, GRIDS[1], TOLERANCES[1]) for place in found), key=middle)
    return middle.maximize(best, center, GRIDS[1], TOLERANCES[1], affine=True) if kind == "affine" else best


def _measure(fixed: _Subject, moving: _Subject, level: int, seed: int) -> Similarity:
    volumes = enumerate((fixed, moving))
    return Similarity(
        *(sample(volume.levels[level], volume.masks[level], SAMPLES[level], 2 * seed + i) for i, volume in volumes)
    )


def _similarity(fixed: _Subject, moving: _Subject, transform: sitk.Transform) -> tuple[float, float]:
    """Normalized mutual information on the coarse grid where the volumes overlap, 1 to 2, and the share that does."""
    compared = sitk.GetArrayViewFromImage(fixed.masks[0]) > 0
    over = sitk.Resample(moving.levels[0], fixed.levels[0], transform, sitk.sitkLinear, -1.0)
    values, seen = (sitk.GetArrayFromImage(image)[compared] for image in (fixed.levels[0], over))
    inside = seen >= 0
    if not inside.any():
        return 1.0, 0.0
    joint, _, _ = np.histogram2d(values[inside], seen[inside], BINS, ((0, 1), (0, 1)))
    first, second, both = (_entropy(counts) for counts in (joint.sum(0), joint.sum(1), joint))
    return (first + second) / both if both > 0 else 1.0, float(inside.mean())


def _entropy(counts: NDArray[np.float64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _places_away(fixed: _Subject, transform: sitk.Transform, seed: int, count: int = 40) -> list[sitk.Transform]:
    """Wrong places: moves of 20 to 40 mm and degrees in any direction before the transform."""
    random, center = np.random.default_rng(seed), fixed.tissue.mean(0)
    away: list[sitk.Transform] = []
    for _ in range(count):
        turn, shift = (v / np.linalg.norm(v) * random.uniform(20, 40) for v in random.normal(size=(2, 3)))
        away.append(sitk.CompositeTransform([transform, _rigid(tuple(turn), center, center + shift)]))
    return away


def _rigid(turn: tuple[float, ...], center: Points, to: Points) -> sitk.Euler3DTransform:
    """Rotation by Euler angles (degrees) about `center`, which goes to `to`."""
    return sitk.Euler3DTransform(center.tolist(), *(math.radians(angle) for angle in turn), (to - center).tolist())


def _mean(one: Linear, other: Linear, center: Points, kind: Kind) -> Linear:
    """The place halfway between two near ones."""
    matrix = (one[0] + other[0]) / 2
    if kind == "rigid":  # the rotation nearest to the mean of two
        left, _, right = np.linalg.svd(matrix)
        matrix = left @ right
    to = np.mean([place[0] @ center + place[1] for place in (one, other)], axis=0)
    return matrix, to - matrix @ center


def _as_transform(place: Linear, center: Points, kind: Kind) -> sitk.Transform:
    matrix, offset = place
    transform = sitk.AffineTransform(3) if kind == "affine" else sitk.Euler3DTransform()
    transform.SetCenter(center.tolist())
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation((matrix @ center + offset - center).tolist())
    return transform


def _resample(image: sitk.Image, spacing: float) -> sitk.Image:
    """The image on a grid of the same orientation and center with cubic voxels, smoothed where it was finer."""
    old = np.array(image.GetSpacing())
    extent = old * image.GetSize()
    for axis in np.flatnonzero((old < 0.75 * spacing) & (np.array(image.GetSize()) >= FEWEST_VOXELS)):
        order = sitk.RecursiveGaussianImageFilter.ZeroOrder
        image = sitk.RecursiveGaussian(image, 0.4 * spacing, False, order, int(axis))
    size = np.maximum(np.ceil(extent / spacing), 1).astype(int)
    first = ((extent - (size - 1) * spacing) / 2 / old - 0.5).tolist()
    origin = image.TransformContinuousIndexToPhysicalPoint(first)
    grid = (size.tolist(), sitk.Transform(), sitk.sitkLinear, origin, [spacing] * 3, image.GetDirection())
    return sitk.Resample(image, *grid, 0.0, sitk.sitkFloat32, True)


def _on_grid(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """The mask on another grid. No threshold at 1/2: rounding would choose there, and differ with the orientation."""
    share = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    return share > 0.47


def _axes(image: sitk.Image) -> NDArray[np.float64]:
    """Index (x, y, z) to mm: columns are the steps along the axes."""
    return np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()


def _points(mask: sitk.Image) -> Points:
    """Centers of the voxels of a mask, `(N, 3)`, mm."""
    return np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1] @ _axes(mask).T + mask.GetOrigin()


def _distance(one: Linear, other: Linear, points: Points) -> float:
    """Mean distance between where two places take points, mm."""
    first, second = (points @ matrix.T + offset for matrix, offset in (one, other))
    return float(np.linalg.norm(first - second, axis=1).mean())


def _matrix(transform: sitk.Transform) -> Linear:
    """A linear transform of any class as matrix and offset."""
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(axis)) - offset for axis in np.eye(3).tolist()]
    return np.stack(columns, 1), offset


def _map(transform: sitk.Transform, points: Points) -> Points:
    matrix, offset = _matrix(transform)
    return points @ matrix.T + offset
