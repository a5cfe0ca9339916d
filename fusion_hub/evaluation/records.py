"""One record for each fused image, on disk and resumable; from records to the rows of a table, with warnings.

A record is appended to `OUT/records/<key>/<process>.jsonl` as soon as it is measured. The key is a digest of the
method, its options, the set and the metrics. A run that was stopped, or that is repeated with more methods, measures
only what is missing; a changed checkpoint or a changed picture has another key.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.data import PairedDataset
from fusion_hub.data.pairs import READ_ERRORS, ImageSource, inspect_picture
from fusion_hub.evaluation.methods import Method, stretch
from fusion_hub.evaluation.statistics import Interval, bootstrap_mean, format_value, n_of
from fusion_hub.image.sources import read_bytes
from fusion_hub.metrics import evaluate_pair, find_metric

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
BANDS = ("visible", "infrared")
GUARD_METRICS = tuple(f"{name}_{band}" for name in ("VIF", "SSIM", "Qabf") for band in BANDS)
"""Always measured: a sum over both sources hides a result that copies one of them."""

CONTRAST_METRICS = ("EN", "SD", "SF", "AG", "EI")
"""A stretch of the gray values raises these without adding any information."""

UNPAIRED = ("no infrared partner", "no visible partner", "several files of one name")
"""Why a file that belongs to the set is in none of its pairs."""

# Thresholds of the warnings; docs/metrics.md shows what the trivial rules reach.
NEAR_SOURCE = 0.15  # of the distance between the sources; the average of both lies at 0.5
ONE_SIDED = 0.5  # of the smaller per-source VIF of the average
CLAMPED_SHARE = 0.002  # of the pixels of an image, on average
FULL_RANGE_SHARE = 0.9  # of the images touch both ends of the gray scale

Record = dict[str, Any]


def set_name(source: str, split: str | None) -> str:
    """The name under which tables know a set: `tno/test` for `data/tno/test`, or for `data/tno` with a split."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source if split is None else f"{source}/{split}"
    folder = folder.resolve()
    if split is not None and folder.name.lower() != split.lower():
        return f"{folder.name}/{split}"
    return f"{folder.parent.name}/{folder.name}" if split or folder.name.lower() in SPLITS else folder.name


@dataclass(frozen=True)
class EvaluationSet:
    """A paired set under its name in tables and leaderboards, such as `tno/test`."""

    name: str
    pairs: PairedDataset
    digest: str
    unpaired: tuple[tuple[str, str], ...] = ()
    """Files that should be in a pair and are not, and why."""
    ranges: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """`infrared_range` and `visible_range` by which the sources are read for measuring, where they are given."""

    @property
    def expected(self) -> int:
        """Pairs that the set should have."""
        return len(self.pairs) + len(self.unpaired)

    @property
    def names(self) -> list[str]:
        return [pair.name for pair in self.pairs]

    @classmethod
    def of(
        cls, name: str, pairs: PairedDataset, *, complete: bool = True, ranges: Mapping[str, Any] | None = None
    ) -> "EvaluationSet":
        """With a digest of the names and contents of all pictures; `complete=False` ignores files without a partner.

        Raises:
            ValueError: the set is streamed, or two pairs have one name.
        """
        if pairs.length is None:
            raise ValueError(f"{name}: a streamed set cannot be evaluated resumably; open it with streaming=False")
        digest, seen = hashlib.blake2b(digest_size=16), set()
        for pair in pairs:
            if pair.name in seen:
                raise ValueError(f"{name}: several pairs have the name {pair.name!r}: give them different names")
            seen.add(pair.name)
            for source in (pair.visible_source, pair.infrared_source):
                digest.update(f"{pair.name} {_content_digest(source)}".encode())
        unpaired = [(file, why) for file, why in pairs.left_out() if why in UNPAIRED] if complete else []
        if ranges:
            digest.update(repr(sorted(ranges.items())).encode())
        return cls(name, pairs, digest.hexdigest(), tuple(unpaired), dict(ranges or {}))


def _content_digest(source: ImageSource) -> str:
    """Of an encoded picture, whole or damaged, or of the pixels of one in memory."""
    if not isinstance(source, Path | Mapping):
        return inspect_picture(source, decode=False)[1]
    try:
        return hashlib.blake2b(read_bytes(source), digest_size=16).hexdigest()
    except (OSError, ValueError):
        return "unreadable"


def check_sizes(method: Method, dataset: EvaluationSet) -> None:
    """Refuse a folder of fused images of which none has the size of its pair, before anything is measured.

    Raises:
        ValueError: it names the method and both sizes.
    """
    found = None
    for pair in dataset.pairs:
        try:
            sizes = method.fuse(pair, dataset.name).size, inspect_picture(pair.visible_source, decode=False)[0]
        except READ_ERRORS:  # reported when it is measured
            continue
        if sizes[0] == sizes[1]:
            return
        found = found or [f"{width}x{height}" for width, height in sizes]
    if found:
        raise ValueError(
            f"{method.name}: its images of {dataset.name} are {found[0]} pixels and the pairs {found[1]}: save them at "
            "the size of the pairs, since resizing would change every metric"
        )


def measure_pair(
    fused: np.ndarray,
    visible: np.ndarray,
    infrared: np.ndarray,
    metrics: Sequence[str],
    stretched: np.ndarray | None = None,
) -> Record:
    """All values of one fused image. Guard metrics that need a larger image are left out.

    Args:
        fused, visible, infrared: `(H, W)` uint8 luminance.
        metrics: names of metrics; those of `GUARD_METRICS` are added.
        stretched: the fused image in the other convention, see `Method.pictures`; None: not measured in full.

    Returns:
        `values`: by metric, None where it is undefined. `distance_visible`, `distance_infrared`: mean absolute
        difference to each source in gray levels; `distance_sources`: that of the sources. `range`: darkest and
        brightest level; `clamped` as in `clamped_share`. `picture`: digest of `fused`. `stretched`: `values` of the
        stretched image; without one, only the contrast metrics after a min-max stretch of `fused`.

    Raises:
        ValueError: the fused image has another size than its sources, or is too small for a metric.
    """
    height, width = fused.shape
    if fused.shape != visible.shape:
        raise ValueError(
            f"the fused image is {width}x{height} and its sources {visible.shape[1]}x{visible.shape[0]} pixels: "
            "nothing is resized here, since that would change every metric; fuse at the size of the sources"
        )

    guards = [name for name in GUARD_METRICS if min(fused.shape) >= find_metric(name).min_side]

    def measured(image: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
        values = evaluate_pair(image, visible, infrared, list(dict.fromkeys(names))) if names else {}
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a.astype(np.float64) - b).mean())

    values = measured(fused, [*metrics, *guards])
    if stretched is None:
        other = measured(stretch(fused), [name for name in CONTRAST_METRICS if name in metrics])
    elif np.array_equal(stretched, fused):
        other = values
    else:
        other = measured(stretched, [*metrics, *guards])
    return {
        "values": values,
        "stretched": other,
        "distance_visible": distance(fused, visible),
        "distance_infrared": distance(fused, infrared),
        "distance_sources": distance(visible, infrared),
        "range": [int(fused.min()), int(fused.max())],
        "clamped": clamped_share(fused),
        "size": [width, height],
        "picture": picture_digest(fused),
    }


def clamped_share(luminance: np.ndarray) -> float:
    """Share of the pixels at the brightest level of `(H, W)` uint8, if it holds many more than the levels below it: the
    mark of a clamp, which a stretch does not leave. Else 0."""
    counts = np.bincount(luminance.ravel())
    top, below = int(counts[-1]), counts[:-1][counts[:-1] > 0][-5:]
    return top / luminance.size if below.size and top > 4 * below.mean() else 0.0


def picture_digest(luminance: np.ndarray) -> str:
    """Of the luminance `(H, W)` uint8 of a picture: whether a saved one is that which was measured."""
    return hashlib.blake2b(repr(luminance.shape).encode() + luminance.tobytes(), digest_size=16).hexdigest()


def slug(name: str) -> str:
    """A name as one part of a path."""
    return "".join(letter if letter.isalnum() or letter in "-_+." else "_" for letter in name).strip(".") or "_"


class Records:
    """The records of one method on one set, on disk."""

    def __init__(
        self, root: Path, method: Method, dataset: EvaluationSet, metrics: Sequence[str], stretched: bool = True
    ) -> None:
        versions = [find_metric(name).convention for name in metrics]  # a corrected metric is measured again
        self.both = stretched and not method.stretched  # conventions
        conventions = ["stretched"] if self.both else []
        content = json.dumps([method.fingerprint, dataset.digest, list(metrics), versions, *conventions])
        self.folder = root / "records" / hashlib.blake2b(content.encode(), digest_size=10).hexdigest()

    def read(self) -> dict[str, Record]:
        """By name of the pair, of all processes. Damaged lines are left out with a warning, so they are measured again;
        a last line that a crash has cut off is left out without one."""
        found: dict[str, Record] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            *lines, last = file.read_bytes().split(b"\n")
            records = [_parse_record(line) for line in (*lines, last)]
            found |= {record.pop("name"): record for record in records if record}
            if damaged := sum(not record and bool(line.strip()) for line, record in zip(lines, records, strict=False)):
                warnings.warn(f"{file} has {damaged} damaged records: these pairs are measured again", stacklevel=2)
        return found

    def append(self, process: int, name: str, record: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{process}.jsonl"
        cut = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")  # the last line, by a crash
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if cut else "") + json.dumps({"name": name, **record}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _parse_record(line: bytes) -> Record | None:
    """A record with everything that a row needs, else None."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    try:
        record = json.loads(line)
        whole = (
            isinstance(record["name"], str)
            and all(is_number(record[f"distance_{key}"]) for key in (*BANDS, "sources"))
            and all(v is None or is_number(v) for kind in ("values", "stretched") for v in record[kind].values())
            and all(is_number(record["range"][index]) for index in (0, 1))
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return record if whole else None


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One method on one set.

    Attributes:
        metrics, values: means and, in the order of `names`, the values of every image, by metric.
        minmax, minmax_values: the same of every image stretched from its minimum to its maximum; empty if that was not
            measured, or if the images of the method were stretched already.
        stretched: mean of the contrast metrics after a min-max stretch of every image.
        distances: visible, infrared, sources: mean absolute difference in gray levels.
        full_range: share of the images that reach from (nearly) 0 to (nearly) 255.
        clamped: mean share of the pixels of an image that were clamped to its brightest level (`clamped_share`).
        was_stretched: whether each image was stretched to the full range; None: unknown, and taken as not.
        expected: pairs that the set should have, including those that could not be paired; 0: not known.
    """

    method: str
    kind: str
    dataset: str
    n: int
    metrics: Mapping[str, Interval]
    names: Sequence[str]
    values: Mapping[str, Sequence[float | None]]
    stretched: Mapping[str, float]
    distances: Mapping[str, float]
    full_range: float
    was_stretched: bool | None = None
    source: str = "measured here"
    warnings: Sequence[str] = ()
    expected: int = 0
    clamped: float = 0.0
    minmax: Mapping[str, Interval] = field(default_factory=dict)
    minmax_values: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    @property
    def count(self) -> str:
        """`n`, or `n of N` where pairs are missing."""
        return n_of(self.n, self.expected)

    @property
    def as_stretched(self) -> "Row":
        """The row of the stretched images, under the same name."""
        return replace(self, metrics=self.minmax, values=self.minmax_values, was_stretched=True)

    def as_json(self) -> dict[str, Any]:
        """As in `summary.json`; undefined values are null."""
        stretched = {"metrics": self._means(self.minmax), "values": _lists(self.minmax_values)}
        return {
            **{key: getattr(self, key) for key in ("method", "kind", "source", "dataset", "n")},
            "expected": max(self.n, self.expected),
            "metrics": self._means(self.metrics),
            "distances": dict(self.distances),
            "stretched": dict(self.stretched),
            "full_range": self.full_range,
            "was_stretched": self.was_stretched,
            "warnings": list(self.warnings),
            "per_image": {"names": list(self.names), "values": _lists(self.values)},
            **({"minmax": stretched} if self.minmax else {}),
        }

    def _means(self, intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
        metrics: dict[str, dict[str, float | None]] = {}
        for name, found in intervals.items():
            ends = {"mean": found.mean, "low": found.low, "high": found.high}
            metrics[name] = {key: None if math.isnan(value) else value for key, value in ends.items()}
            if found.n != self.n:
                metrics[name]["n"] = found.n
        return metrics


def _lists(values: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    return {name: list(column) for name, column in values.items()}


def spans_by_stretch(row: Row, average: Row, maximum: Row) -> bool:
    """Whether images of unknown origin must have been stretched: each reaches both ends of the gray scale, most of
    those of both baselines do not, and no clamp shows at the bright end beyond that of the sources."""
    natural = max(average.full_range, maximum.full_range)
    clamped = row.clamped - max(average.clamped, maximum.clamped)
    unknown = row.was_stretched is None
    return unknown and row.full_range == 1 and natural < FULL_RANGE_SHARE and clamped < CLAMPED_SHARE


def summarize(
    method: Method,
    dataset: str,
    records: Mapping[str, Record],
    metrics: Sequence[str],
    seed: int = 0,
    expected: int = 0,
    stretched: bool = False,
) -> Row:
    """One row from the records of its images, in the order of `records`; `expected` is the size of the whole set, and
    `stretched` says whether the records have both conventions."""
    found = list(records.values())
    columns = list(dict.fromkeys([*metrics, *GUARD_METRICS, *(name for record in found for name in record["values"])]))
    values, other = (
        {name: [record[part].get(name) for record in found] for name in columns} for part in ("values", "stretched")
    )
    other = other if stretched else {}
    contrast = [name for name in CONTRAST_METRICS if any(name in record["stretched"] for record in found)]
    return Row(
        method=method.name,
        kind=method.kind,
        dataset=dataset,
        n=len(found),
        metrics={name: bootstrap_mean(column, seed) for name, column in values.items()},
        names=list(records),
        values=values,
        stretched={name: _mean([record["stretched"].get(name) for record in found]) for name in contrast},
        distances={key: _mean([record[f"distance_{key}"] for record in found]) for key in (*BANDS, "sources")},
        was_stretched=method.stretched,
        full_range=_mean([float(r["range"][0] <= 2 and r["range"][1] >= 253) for r in found]),
        expected=expected,
        clamped=_mean([r.get("clamped", 0.0) for r in found]),
        minmax={name: bootstrap_mean(column, seed) for name, column in other.items()},
        minmax_values=other,
    )


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else math.nan


def warnings_of(row: Row, average: Row, maximum: Row) -> list[str]:
    """What a reader must know before quoting the row: see docs/metrics.md, "How to fool a table".

    Args:
        row: any row.
        average, maximum: the rows of these baselines on the same set.
    """
    if row.kind == "baseline":
        return []
    found = []
    apart = row.distances["sources"]
    for band in BANDS:
        if apart > 0 and row.distances[band] / apart < NEAR_SOURCE:
            found.append(
                f"near the {band} source: {row.distances[band]:.1f} gray levels from it, while the sources are "
                f"{apart:.1f} apart (the average of both: {apart / 2:.1f})"
            )
    own = {band: row.metrics[f"VIF_{band}"].mean for band in BANDS}
    band = min(own, key=lambda name: own[name])
    least = min(average.metrics[f"VIF_{name}"].mean for name in BANDS)
    if own[band] < ONE_SIDED * least:
        found.append(
            f"keeps little of the {band} source: VIF_{band} {own[band]:.3f}, while plain averaging keeps at least "
            f"{least:.3f} of each source"
        )
    explained = []  # contrast above both baselines, but not above the same baselines stretched in the same way
    spans = row.full_range >= FULL_RANGE_SHARE if row.was_stretched is None else row.was_stretched
    for name in row.stretched if spans else ():
        mean = row.metrics[name].mean
        stretched = max(average.stretched[name], maximum.stretched[name])
        if max(average.metrics[name].mean, maximum.metrics[name].mean) < mean <= stretched:
            explained.append(f"{name} {format_value(name, mean)} (stretched: {format_value(name, stretched)})")
    if explained:
        seen = f"{row.full_range:.0%} of its images span 0 to 255"
        known = "its images were stretched" if row.was_stretched else seen
        found.append(
            f"{known}, and a min-max stretch explains the gain: above average and maximum, but not above them once "
            f"they are stretched too: {', '.join(explained)}"
        )
    return found
