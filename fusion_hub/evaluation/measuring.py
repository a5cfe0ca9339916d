"""Methods x sets x metrics -> one record for each fused image; resumable, on any number of processes.

Every record is appended to `OUT/records/<key>/<process>.jsonl` as soon as it is measured, where the key stands for the
method, the set, the metrics and the options. A run that was stopped, or that is repeated with further methods, measures
only what is missing; a changed checkpoint or a changed picture has another key.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.data import PairedDataset
from fusion_hub.data.pictures import ImageSource, Pair, inspect_picture
from fusion_hub.evaluation.methods import Method, luminance, source_luminance, stretch
from fusion_hub.files import disk_trouble
from fusion_hub.image.io import read_bytes
from fusion_hub.image.processor import save_image
from fusion_hub.metrics import evaluate_pair, find_metric

GUARD_METRICS = (
    "VIF_visible",
    "VIF_infrared",
    "SSIM_visible",
    "SSIM_infrared",
    "Qabf_visible",
    "Qabf_infrared",
)
"""Measured whatever is asked for: a sum over both sources hides a result that copies one of them."""

UNPAIRED = ("no infrared partner", "no visible partner", "several files of one name")
"""Reasons for which a file that belongs to the set is in no pair of it."""

CONTRAST_METRICS = ("EN", "SD", "SF", "AG", "EI")
"""What a stretch of the grey values raises without adding anything."""

Report = Callable[[], None]
Record = dict[str, Any]


@dataclass(frozen=True)
class EvaluationSet:
    """A paired set under the name that tables and leaderboards know it by, such as `tno/test`."""

    name: str
    pairs: PairedDataset
    digest: str
    unpaired: tuple[tuple[str, str], ...] = ()
    """Files that should be in a pair and are not, and why."""

    @property
    def expected(self) -> int:
        """Pairs that the set should have."""
        return len(self.pairs) + len(self.unpaired)

    @classmethod
    def of(cls, name: str, pairs: PairedDataset, *, complete: bool = True) -> "EvaluationSet":
        """With a digest of the names and contents of all pictures.

        Args:
            name: in tables.
            pairs: the set.
            complete: False where only a part of the set is wanted: files without a partner then do not count.

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
                digest.update(f"{pair.name} {_content(source)}".encode())
        unpaired = [(file, why) for file, why in pairs.left_out() if why in UNPAIRED] if complete else []
        return cls(name, pairs, digest.hexdigest(), tuple(unpaired))

    @property
    def names(self) -> list[str]:
        return [pair.name for pair in self.pairs]


def _content(source: ImageSource) -> str:
    """A digest of an encoded picture, whole or damaged, or of the pixels of one in memory."""
    if not isinstance(source, Path | Mapping):
        return inspect_picture(source, decode=False)[1]
    try:
        return hashlib.blake2b(read_bytes(source), digest_size=16).hexdigest()
    except (OSError, ValueError):
        return "unreadable"


def measure_pair(fused: np.ndarray, visible: np.ndarray, infrared: np.ndarray, metrics: Sequence[str]) -> Record:
    """All values of one fused image.

    Args:
        fused, visible, infrared: `(H, W)` uint8 luminance.
        metrics: names of metrics; those of `GUARD_METRICS` are added.

    Returns:
        `values`: by metric, None where it is undefined. `distance_visible`, `distance_infrared`: mean absolute
        difference to each source in grey levels; `distance_sources`: that of the sources. `range`: darkest and
        brightest level. `stretched`: the contrast metrics after a min-max stretch of the image.

    Raises:
        ValueError: the fused image has another size than its sources, or is too small for a metric.
    """
    if fused.shape != visible.shape:
        raise ValueError(
            f"the fused image is {fused.shape[1]}x{fused.shape[0]} and its sources {visible.shape[1]}x"
            f"{visible.shape[0]} pixels: nothing is resized here, since that would change every metric; "
            "fuse at the size of the sources"
        )
    values = evaluate_pair(fused, visible, infrared, list(dict.fromkeys([*metrics, *GUARD_METRICS])))
    contrast = [name for name in CONTRAST_METRICS if name in metrics]
    stretched = evaluate_pair(stretch(fused), visible, infrared, contrast) if contrast else {}
    return {
        "values": {name: _number(value) for name, value in values.items()},
        "stretched": {name: _number(value) for name, value in stretched.items()},
        "distance_visible": _distance(fused, visible),
        "distance_infrared": _distance(fused, infrared),
        "distance_sources": _distance(visible, infrared),
        "range": [int(fused.min()), int(fused.max())],
        "size": [int(fused.shape[1]), int(fused.shape[0])],
    }


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).mean())


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class Records:
    """The records of one method on one set, on disk."""

    def __init__(self, root: Path, method: Method, dataset: EvaluationSet, metrics: Sequence[str]) -> None:
        key = hashlib.blake2b(
            json.dumps([method.fingerprint, dataset.digest, list(metrics), _metric_versions(metrics)]).encode(),
            digest_size=10,
        ).hexdigest()
        self.folder = root / "records" / key

    def read(self) -> dict[str, Record]:
        """By name of the pair, of all processes. Damaged lines are left out with a warning, so they are measured again;
        a last line that a crash has cut off is left out without one."""
        found: dict[str, Record] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            lines = file.read_bytes().split(b"\n")
            damaged = 0
            for number, line in enumerate(lines, start=1):
                record = _parse_record(line)
                if record is not None:
                    found[record.pop("name")] = record
                elif line.strip() and number < len(lines):
                    damaged += 1
            if damaged:
                warnings.warn(f"{file} has {damaged} damaged records: these pairs are measured again", stacklevel=2)
        return found

    def append(self, process: int, name: str, record: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{process}.jsonl"
        # A line of its own even behind one that a crash has cut off.
        cut = file.exists() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if cut else "") + json.dumps({"name": name, **record}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _parse_record(line: bytes) -> Record | None:
    """A record that holds all that a row needs, else None."""
    try:
        record = json.loads(line)
        whole = (
            isinstance(record["name"], str)
            and all(_is_number(record[f"distance_{key}"]) for key in ("visible", "infrared", "sources"))
            and all(v is None or _is_number(v) for kind in ("values", "stretched") for v in record[kind].values())
            and all(_is_number(record["range"][index]) for index in (0, 1))
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return record if whole else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metric_versions(metrics: Sequence[str]) -> list[str]:
    """So that a corrected metric is measured again."""
    return [find_metric(name).convention for name in metrics]


@dataclass(frozen=True)
class Failure:
    """A pair that could not be measured, and why."""

    method: str
    dataset: str
    pair: str
    reason: str


def measure_share(
    methods: Sequence[Method],
    datasets: Sequence[EvaluationSet],
    metrics: Sequence[str],
    output: Path,
    *,
    process: int = 0,
    processes: int = 1,
    images: Path | None = None,
    progress: Report = lambda: None,
) -> list[Failure]:
    """Measure what is not on disk yet: every `processes`-th pair, starting with pair `process`.

    A pair that fails (unreadable, wrong size) does not stop the others.
    """
    failures: list[Failure] = []
    for dataset in datasets:
        records = {method.name: Records(output, method, dataset, metrics) for method in methods}
        done = {name: set(record.read()) for name, record in records.items()}
        for pair in dataset.pairs.shard(process, processes):
            missing = [
                method
                for method in methods
                if pair.name not in done[method.name] or not _is_saved(method, pair, dataset.name, images)
            ]
            sources = _read_sources(pair, dataset, missing, failures) if missing else None
            for method in methods:
                if sources is not None and method in missing:
                    try:
                        record = _measure(method, pair, dataset.name, sources, metrics, images)
                        records[method.name].append(process, pair.name, record)
                    except Exception as error:  # decoders, memory, other people's files: the other pairs go on
                        if trouble := disk_trouble(error, output):  # which no pair would escape
                            raise OSError(trouble) from error
                        failures.append(Failure(method.name, dataset.name, pair.name, _reason(error)))
                progress()
    return failures


def _read_sources(
    pair: Pair, dataset: EvaluationSet, methods: Iterable[Method], failures: list[Failure]
) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        return source_luminance(pair)
    except Exception as error:  # as above
        failures += [Failure(method.name, dataset.name, pair.name, _reason(error)) for method in methods]
        return None


def _measure(
    method: Method,
    pair: Pair,
    dataset: str,
    sources: tuple[np.ndarray, np.ndarray],
    metrics: Sequence[str],
    images: Path | None,
) -> Record:
    fused = method.fuse(pair, dataset)
    if images is not None and method.kind != "folder":
        save_image(fused, image_path(images, method.name, pair.name, dataset))
    return measure_pair(luminance(fused), *sources, metrics)


def image_path(images: Path, method: str, pair: str, dataset: str) -> Path:
    """Where the fused picture of a pair is kept."""
    return images / slug(dataset) / slug(method) / f"{pair}.png"


def _is_saved(method: Method, pair: Pair, dataset: str, images: Path | None) -> bool:
    return images is None or method.kind == "folder" or image_path(images, method.name, pair.name, dataset).exists()


def slug(name: str) -> str:
    """A name as one part of a path."""
    return "".join(letter if letter.isalnum() or letter in "-_+." else "_" for letter in name).strip(".") or "_"


def _reason(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
