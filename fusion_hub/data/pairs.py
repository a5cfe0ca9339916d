"""One pair and its pictures, read on demand; and the report on what is wrong with a set of pairs."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, Union

from PIL import Image

from fusion_hub.image.io import from_pil, read_header, read_picture
from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.luminance import Role
from fusion_hub.image.picture import Picture
from fusion_hub.image.sources import read_bytes

READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # Pillow's, on bad files

# A file; an encoded image {"bytes", "path"} as `datasets` stores it; a picture in memory; or a function that makes one.
ImageSource: TypeAlias = Union[Path, Mapping[str, Any], Image.Image, "np.ndarray", Callable[[], "np.ndarray"]]

_SAMPLED_PAIRS = 4  # whose channels `looks_exchanged` compares
EXCHANGED = (
    "the visible images are gray and the infrared ones have colors: exchange the two if they are in the wrong order; "
    "of false-color thermal images use the white-hot gray or raw ones"
)
_COLORED = 0.02  # mean difference of the channels, relative to full scale; compression alone stays below it


@dataclass(frozen=True)
class Pair:
    """Two pictures of one scene. Nothing is read before `visible` or `infrared` is used."""

    name: str
    visible_source: ImageSource
    infrared_source: ImageSource

    @property
    def visible(self) -> Image.Image | np.ndarray:
        """The visible (CT, PET, SPECT) picture, see [`load_picture`]. Raises one of `READ_ERRORS`.

        Pipelines and the image processor take `visible_source` itself, and read what a PIL image cannot hold: pixels
        without data, the bits of the samples, camera metadata.
        """
        return load_picture(self.visible_source, "visible")

    @property
    def infrared(self) -> Image.Image | np.ndarray:
        """The infrared (MRI) picture; see `visible`."""
        return load_picture(self.infrared_source, "infrared")

    def bands(self) -> tuple[tuple[Role, ImageSource], ...]:
        """The names of both bands and their sources."""
        return ("visible", self.visible_source), ("infrared", self.infrared_source)


def source_file(source: ImageSource) -> Path | None:
    """The file that a picture, or a channel of it, is read from; None for pictures in memory."""
    file = getattr(source, "file", source)
    return file if isinstance(file, Path) else None


def load_picture(source: ImageSource, role: Role | None = None) -> Image.Image | np.ndarray:
    """A picture to look at: a PIL image in its own mode for what Pillow reads without loss, else an array.

    The EXIF orientation of PIL images is not applied; the image processor does so. Arrays are upright, `(H, W)` or
    `(H, W, 2|3|4)` with the samples of the file, and float samples without data are NaN.
    """
    if not isinstance(source, Path | Mapping):
        return source if isinstance(source, Image.Image | np.ndarray) else source()
    header = read_header(source, role=role)
    if header.dtype == "uint8" and header.format not in ("TIFF", "PGM", "PPM"):
        with Image.open(source if isinstance(source, Path) else io.BytesIO(read_bytes(source))) as image:
            image.load()  # so that the file can be closed; the mode stays as it is
            return image
    picture = read_picture(source, role=role)
    pixels = picture.pixels
    if picture.valid is not None and pixels.dtype.kind == "f":
        pixels = np.where(picture.valid if pixels.ndim == 2 else picture.valid[..., None], pixels, np.nan)
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    plain = pixels.dtype in (np.uint8, np.uint16, np.float32) and (pixels.ndim == 2 or pixels.dtype == np.uint8)
    return Image.fromarray(pixels) if plain and picture.white in (255.0, 65535.0, 1.0) else pixels


def inspect_picture(source: ImageSource, decode: bool, role: Role | None = None) -> tuple[tuple[int, int], str]:
    """Upright (width, height) and a digest: of the file, or of the pixels if `decode` or the source is not encoded.

    Raises one of `READ_ERRORS`.
    """
    if isinstance(source, Path | Mapping) and not decode:
        height, width = read_header(source, role=role).size
        return (width, height), hashlib.blake2b(read_bytes(source), digest_size=16).hexdigest()
    if isinstance(source, Path | Mapping):
        picture = read_picture(source, role=role)
    else:
        loaded = load_picture(source)
        picture = from_pil(loaded, "image") if isinstance(loaded, Image.Image) else Picture(loaded)
    pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if pixels.ndim < 2:
        raise ValueError(f"an array of shape {pixels.shape} is not a picture: give (H, W) or (H, W, C)")
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return (pixels.shape[1], pixels.shape[0]), digest.hexdigest()


class Overlap(NamedTuple):
    """A picture that two sets share: `name` here is `other_name` there; the bands are "visible" or "infrared"."""

    name: str
    band: str
    other_name: str
    other_band: str


@dataclass
class Findings:
    """Files that are in no pair, and notes, while the pairs are put together; fields as in `PairReport`."""

    missing_infrared: list[str] = field(default_factory=list)
    missing_visible: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PairReport:
    """The result of `PairedDataset.check`. Print it to read it; `ok` is true when nothing is wrong."""

    source: str
    pairs: int
    missing_infrared: tuple[str, ...] = ()  # visible files without a partner
    missing_visible: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()  # one stem, several files: left out
    unlisted: tuple[str, ...] = ()  # beside listed files, but not in the metadata
    left_out: tuple[str, ...] = ()  # files beside the pictures that are not pictures
    notes: tuple[str, ...] = ()  # how the files were understood, where that is not obvious
    repeated_names: tuple[str, ...] = ()
    unequal_sizes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()  # groups of equal pictures
    bad_names: frozenset[str] = frozenset()  # pairs that cannot be used: unreadable or of unequal size
    digests: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, compare=False)  # and their owners

    @property
    def usable(self) -> int:
        """Pairs that can be read and whose two pictures have one size."""
        return self.pairs - len(self.bad_names)

    @property
    def ok(self) -> bool:
        defects = (items for name, items in self._sections().items() if name not in ("left_out", "notes"))
        return self.usable > 0 and not any(defects)

    def raise_if_empty(self) -> PairReport:
        """Return the report itself; raises `ValueError` with the whole report where no usable pair is left."""
        if self.usable <= 0:
            raise ValueError(f"no usable pair is left.\n{self}")
        return self

    def _sections(self) -> dict[str, tuple[str, ...]]:
        listed = (f.name for f in fields(self) if f.name not in ("source", "pairs", "bad_names", "digests"))
        return {name: getattr(self, name) for name in listed}

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.pairs} pair{'s' * (self.pairs != 1)}, {self.usable} usable"]
        for name, items in self._sections().items():
            if items and name == "notes":
                lines += [f"  warning: {item}" for item in items]
            elif items:
                lines.append(f"  {name.replace('_', ' ')} ({len(items)}): {some(items, separator='; ')}")
        return "\n".join(lines if len(lines) > 1 else [*lines, "  no problems found"])


def inspect_pairs(pairs: Iterable[Pair], decode: bool, registered: bool = True) -> dict[str, Any]:
    """The fields of `PairReport` that come from looking at the pictures."""
    names, unequal, unreadable, bad = [], [], [], set()
    digests: dict[str, list[str]] = {}
    for pair in pairs:
        names.append(pair.name)
        sizes = {}
        for band, source in pair.bands():
            try:
                sizes[band], digest = inspect_picture(source, decode, band)
                digests.setdefault(digest, []).append(f"{pair.name} ({band})")
            except READ_ERRORS as error:
                unreadable.append(f"{pair.name} ({band}): {error}")
                bad.add(pair.name)
        if registered and len(set(sizes.values())) > 1:
            unequal.append(f"{pair.name}: " + ", ".join(f"{band} {w}x{h}" for band, (w, h) in sizes.items()))
            bad.add(pair.name)
    return {
        "pairs": len(names),
        "repeated_names": tuple(name for name, count in Counter(names).items() if count > 1),
        "unequal_sizes": tuple(unequal),
        "unreadable": tuple(unreadable),
        "duplicates": tuple(some(group, most=4, separator=" = ") for group in digests.values() if len(group) > 1),
        "bad_names": frozenset(bad),
        "digests": digests,
    }


def find_unusable(pairs: Iterable[Pair]) -> list[str]:
    """Pairs of files that are unreadable or of unequal size, each with the reason. Reads headers only."""
    found = []
    for pair in pairs:
        sizes = {}
        try:
            for band, source in pair.bands():
                if isinstance(source, Path):
                    height, width = read_header(source, role=band).size
                    sizes[band] = f"{band} {width}x{height}"
        except READ_ERRORS as error:
            found.append(f"{pair.name}: {error}")
        if len({size.split()[-1] for size in sizes.values()}) > 1:
            found.append(f"{pair.name}: {', '.join(sizes.values())}")
    return found


def looks_exchanged(pairs: Sequence[Pair]) -> bool:
    """Whether all of a few pairs have a gray visible and a colored infrared image.

    Files that cannot be read count as gray. Nothing is decoded while the headers show gray infrared images.
    """
    chosen = pairs[:: max(1, len(pairs) // _SAMPLED_PAIRS)][:_SAMPLED_PAIRS]
    if not chosen or not all(_is_colored(pair.infrared_source, "infrared") for pair in chosen):
        return False
    return not any(_is_colored(pair.visible_source, "visible") for pair in chosen)


def _is_colored(source: ImageSource, role: Role) -> bool:
    if not isinstance(source, Path | Mapping):
        return False
    try:
        picture = read_picture(source, role=role) if read_header(source, role=role).channels >= 3 else None
    except (ValueError, OSError):
        return False
    if picture is None or picture.pixels.ndim != 3 or not picture.white:
        return False
    unit = picture.pixels[::4, ::4].astype(np.float32) / picture.white
    return float((unit.max(axis=2) - unit.min(axis=2)).mean()) > _COLORED


def some(items: Sequence[str], most: int = 8, separator: str = ", ") -> str:
    """The first items of a list as text, and how many more there are."""
    if not items:
        return "none"
    return separator.join(items[:most]) + (f"{separator}and {len(items) - most} more" if len(items) > most else "")
