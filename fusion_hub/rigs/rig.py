"""A rig: how the infrared camera looks into the picture of the visible one, and the JSON file that keeps it."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np

from fusion_hub.files import write_aside
from fusion_hub.image.luminance import fill_missing
from fusion_hub.rigs.features import Matrix, corners, require_opencv, scaling, transform
from fusion_hub.rigs.warp import Lens, Warp, check_sides

FORMAT = "fusion-hub rig"
VERSION = 1
_LARGEST_FILE = 1 << 20  # bytes
_KEYS = ("format", "version", "homography", "frames", "confidence", "time_offset")  # of a file, beside the pictures
LONGEST_OFFSET = 86_400  # seconds of `time_offset`
LEAST_COMMON = 0.02  # of the width and of the height of the visible picture, that the infrared camera must see


class RigError(ValueError):
    """A rig file that cannot be used, or cameras that cannot be aligned with confidence."""


@dataclass(frozen=True)
class Confidence:
    """Why an estimate is trusted; see `Alignment` for the definitions.

    Attributes:
        score: normalized correlation of edge directions over the overlap, -1 to 1.
        margin: lead over the best other place, in standard deviations of the scores of all places; None where it could
            not be measured.
        agreement: largest difference of the corners between estimates from two halves of the material, in pixels at a
            visible width of 640; None where it could not be measured.
        overlap: share of the picture with the smaller view that lies in the other one.
        sure: whether all checks passed.
    """

    score: float
    margin: float | None
    agreement: float | None
    overlap: float
    sure: bool = True

    def __str__(self) -> str:
        """The numbers in words, without `sure`."""
        parts = [f"the edges agree with a score of {self.score:.2f}"]
        if self.margin is not None:
            parts.append(f"{self.margin:.1f} standard deviations ahead of the next best place")
        if self.agreement is not None:
            parts.append(f"two halves of the material agree within {self.agreement:.1f} pixels (of 640)")
        return ", ".join([*parts, f"{self.overlap:.0%} of the smaller view lies in the other one"])


@dataclass(frozen=True, eq=False)
class Rig:
    """Two cameras in fixed positions.

    Attributes:
        homography: infrared -> visible, `(3, 3)` float64 between pixel centers, last element 1; where the file has
            lenses, between the pictures without their distortion.
        visible_size, infrared_size: `(H, W)` of the pictures that it was estimated on.
        frames: number of pairs that it was estimated from; 0 for a geometry that a camera's maker states.
        confidence: see [`Confidence`]; None where nothing was estimated.
        visible_lens, infrared_lens: lens distortion; None without.
        time_offset: seconds by which the infrared recording is late: its frame of time t + offset belongs to the
            visible frame of time t.

    Examples:
        >>> rig = Rig([[2, 0, 100.5], [0, 2, 60.5], [0, 0, 1]], visible_size=(360, 480), infrared_size=(120, 140))
        >>> aligned = rig.warp(np.full((120, 140), 7300, np.uint16))
        >>> aligned.shape, aligned.dtype, int(aligned[180, 240])
        ((360, 480), dtype('uint16'), 7300)
    """

    homography: Matrix
    visible_size: tuple[int, int]
    infrared_size: tuple[int, int]
    frames: int = 0
    confidence: Confidence | None = None
    visible_lens: Lens | None = None
    infrared_lens: Lens | None = None
    time_offset: float = 0.0
    _warps: dict[Any, Warp] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "homography", _checked_homography(self.homography))
        for name in ("visible_size", "infrared_size"):
            object.__setattr__(self, name, _checked_size(getattr(self, name), name))
        _check_view(self.homography, self.visible_size, self.infrared_size)
        if not _is_number(self.time_offset) or abs(self.time_offset) > LONGEST_OFFSET:
            raise RigError(f'"time_offset" must be seconds, at most a day, got {self.time_offset!r}')

    def at(self, visible_size: tuple[int, int], infrared_size: tuple[int, int]) -> Warp:
        """The warp for pictures of these sizes `(H, W)`: those of the rig, or the same pictures at other resolutions.

        Raises:
            RigError: pictures of other proportions, which these cameras did not take with the same settings.
        """
        sizes = _pair(visible_size), _pair(infrared_size)
        warp = self._warps.get(sizes)
        if warp is None:
            require_opencv()
            check_sides(*sizes)
            factors = []
            for name, own, size in zip(
                ("visible", "infrared"), (self.visible_size, self.infrared_size), sizes, strict=True
            ):
                if abs(size[0] * own[1] - size[1] * own[0]) > max(*size, *own):
                    raise RigError(
                        f"the rig is for {name} pictures of {_text(own)}, but this one is {_text(size)} (width x "
                        "height): calibrate the rig again with such pictures"
                    )
                factors.append((size[1] / own[1], size[0] / own[0]))
            seen, warm = factors
            homography = scaling(*seen) @ self.homography @ np.linalg.inv(scaling(*warm))
            lenses = [
                None if lens is None else lens.resized(*factor)
                for lens, factor in ((self.visible_lens, seen), (self.infrared_lens, warm))
            ]
            warp = Warp(homography / homography[2, 2], *sizes, *lenses)
            self._warps.clear()  # tables are large, and a run has one pair of sizes
            self._warps[sizes] = warp
        return warp

    def warp(self, infrared: np.ndarray, visible_size: tuple[int, int] | None = None) -> np.ma.MaskedArray:
        """An infrared picture on the grid of the visible one.

        Args:
            infrared: `(h, w)` of any numeric dtype: counts, degrees, luminance. NaN is no data.
            visible_size: `(H, W)`; that of the rig by default.

        Returns:
            `(H, W)` of the same dtype and units, masked where the infrared camera has no data; below the mask the
            nearest value of the picture is repeated. Pipelines take it as a registered infrared image.

        Raises:
            RigError: sizes that do not fit; ValueError: an array that is not `(h, w)`.
        """
        infrared = np.asarray(infrared)
        if infrared.ndim != 2 or infrared.dtype.kind not in "uif":
            raise ValueError(f"infrared must be numbers of the shape (h, w), got {infrared.dtype} {infrared.shape}")
        warp = self.at(visible_size or self.visible_size, (infrared.shape[0], infrared.shape[1]))
        missing = ~np.isfinite(infrared) if infrared.dtype.kind == "f" else None
        if missing is None or not missing.any():
            return np.ma.MaskedArray(warp.apply(infrared), ~warp.mask)
        filled = infrared.copy()
        fill_missing(filled, ~missing)
        return np.ma.MaskedArray(warp.apply(filled), ~(warp.mask & warp.apply_mask(~missing)))

    def to_dict(self) -> dict[str, Any]:
        """The content of the file; docs/rigs.md describes it."""
        pictures = {}
        for name in ("visible", "infrared"):
            height, width = getattr(self, f"{name}_size")
            pictures[name] = {"width": width, "height": height}
            if (lens := getattr(self, f"{name}_lens")) is not None:
                pictures[name]["lens"] = {key: list(value) for key, value in vars(lens).items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "homography": self.homography.tolist(),
            **pictures,
            "frames": self.frames,
            "confidence": None if self.confidence is None else dict(vars(self.confidence)),
            "time_offset": self.time_offset,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, complete or not at all."""
        with write_aside(Path(path)) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` or a person has written.

        Raises:
            RigError: the first thing that is wrong with it; OSError: it cannot be read.
        """
        path = Path(path)
        with path.open("rb") as stream:
            text = stream.read(_LARGEST_FILE + 1)
        if len(text) > _LARGEST_FILE:
            raise RigError(f"{path} is no rig file: it is larger than 1 MiB")
        try:
            content = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise RigError(f"{path} is no rig file: it is not JSON; fusion-hub calibrate writes one") from None
        try:
            return cls.from_dict(content)
        except RigError as error:
            raise RigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The inverse of `to_dict`, with the checks of `load`."""
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise RigError(f'this is no rig file: its "format" is not "{FORMAT}"; fusion-hub calibrate writes one')
        if content.get("version") != VERSION:
            raise RigError(
                f'"version" is {content.get("version")!r}, and this program reads {VERSION}: calibrate again'
            )
        _check_keys(content, [*_KEYS, "visible", "infrared"], "the rig")
        sizes: list[Any] = []
        lenses = []
        for name in ("visible", "infrared"):
            picture = _object(content, name)
            _check_keys(picture, ["width", "height", "lens"], f"the {name} picture")
            sizes.append((picture.get("height"), picture.get("width")))
            lenses.append(None if picture.get("lens") is None else _read_lens(_object(picture, "lens"), name))
        frames, offset = content.get("frames", 0), content.get("time_offset", 0.0)
        if not isinstance(frames, int) or isinstance(frames, bool) or frames < 0:
            raise RigError(f'"frames" must be a whole number from 0, got {frames!r}')
        confidence = None
        if content.get("confidence") is not None:
            stated = _object(content, "confidence")
            _check_keys(stated, [field.name for field in fields(Confidence)], "the confidence")
            if not isinstance(stated.get("sure", True), bool):
                raise RigError(f'"sure" of the confidence must be true or false, got {stated["sure"]!r}')
            numbers = {name: stated.get(name) for name in ("score", "margin", "agreement", "overlap")}
            for name, value in numbers.items():
                if not _is_number(value) and not (value is None and name in ("margin", "agreement")):
                    raise RigError(f'"{name}" of the confidence must be a number, got {value!r}')
            confidence = Confidence(**numbers, sure=stated.get("sure", True))  # type: ignore[arg-type]
        return cls(
            content.get("homography"),  # type: ignore[arg-type]  # checked by the class
            visible_size=sizes[0],
            infrared_size=sizes[1],
            frames=frames,
            confidence=confidence,
            visible_lens=lenses[0],
            infrared_lens=lenses[1],
            time_offset=offset,
        )


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _text(size: Any) -> str:
    return f"{size[1]}x{size[0]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    if not isinstance(value, Mapping):
        raise RigError(f'"{name}" is missing or no JSON object: see docs/rigs.md')
    return value


def _check_keys(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """A name that nobody reads is a typo, whose value would be missing in silence."""
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise RigError(f'{where} has the unknown entry "{key}"; {advice}')


def _read_lens(content: Mapping[str, Any], name: str) -> Lens:
    lengths = {"focal": 2, "center": 2, "distortion": 5}
    _check_keys(content, list(lengths), f"the {name} lens")
    for key, length in lengths.items():
        values = content.get(key)
        if not isinstance(values, list) or len(values) != length or not all(map(_is_number, values)):
            raise RigError(f'"{key}" of the {name} lens must be {length} numbers, got {values!r}')
    if min(content["focal"]) <= 0:
        raise RigError(f'"focal" of the {name} lens must be above 0, got {content["focal"]}')
    return Lens(*(tuple(map(float, content[key])) for key in lengths))  # type: ignore[arg-type]


def _checked_homography(value: Any) -> Matrix:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise RigError("the homography must be three rows of three finite numbers")
    if abs(matrix[2, 2]) < 1e-12:
        raise RigError("the last element of the homography is 0: scale the matrix so that it is 1")
    matrix = matrix / matrix[2, 2]
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise RigError("the homography has no inverse: its rows are not independent")
    matrix.flags.writeable = False
    return matrix


def _checked_size(size: Any, name: str) -> tuple[int, int]:
    whole = isinstance(size, tuple | list) and len(size) == 2
    if not whole or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and 0 < n <= 1 << 20 for n in size
    ):
        raise RigError(f"{name.replace('_', ' ')} must be a height and a width in whole pixels, got {size!r}")
    return int(size[0]), int(size[1])


def _check_view(homography: Matrix, visible_size: tuple[int, int], infrared_size: tuple[int, int]) -> None:
    """The infrared picture must be an upright, unmirrored quadrilateral that meets the visible picture."""
    points = corners(infrared_size)
    depths = np.column_stack([points, np.ones(4)]) @ homography[2]
    if not (depths > 1e-9).all():
        raise RigError("the homography maps a corner of the infrared picture to infinity or behind the camera")
    quadrilateral = transform(points, homography)
    sides = np.roll(quadrilateral, -1, axis=0) - quadrilateral
    turns = sides[:, 0] * np.roll(sides[:, 1], -1) - sides[:, 1] * np.roll(sides[:, 0], -1)
    if not (turns > 0).all():
        raise RigError("the homography mirrors or folds the infrared picture")
    low, high = quadrilateral.min(axis=0), quadrilateral.max(axis=0)
    limits = np.array([visible_size[1], visible_size[0]]) - 1
    if (high < 0).any() or (low > limits).any():
        raise RigError("the homography places the infrared picture outside of the visible one")
    common = (np.minimum(high, limits) - np.maximum(low, 0) + 1) / (limits + 1)
    if (common < LEAST_COMMON).any():
        raise RigError(
            f"the homography lets the infrared picture cover {common[0]:.1%} of the visible one's width and "
            f"{common[1]:.1%} of its height, and at least {LEAST_COMMON:.0%} of each are needed: calibrate again"
        )
