"""Methods x sets x metrics -> records on disk -> rows -> `summary.json`, report, tables, figures.

`evaluate` is the whole run in one process; `fusion-hub evaluate` runs its steps on several.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import PIL
import torch

from fusion_hub import __version__
from fusion_hub.data.pairs import READ_ERRORS, some
from fusion_hub.evaluation import report
from fusion_hub.evaluation.methods import ALWAYS, Method, baseline_method, luminance, source_luminance
from fusion_hub.evaluation.records import (
    EvaluationSet,
    Records,
    Row,
    measure_pair,
    picture_digest,
    slug,
    spans_by_stretch,
    summarize,
    warnings_of,
)
from fusion_hub.files import disk_trouble, sweep_leftovers
from fusion_hub.image.io import read_picture, to_image
from fusion_hub.image.processor import save_image
from fusion_hub.metrics import CDDFUSE_METRICS, find_metric

FORMAT = "fusion-hub-evaluation/1"
CONVENTIONS = {
    "values": "8-bit integers 0..255 of the picture as it would be saved, double precision",
    "colour": "BT.601 full-range luminance of a colour picture: floor(0.299 R + 0.587 G + 0.114 B + 0.5)",
    "size": "original sizes; no crop, no resize; a fused image of another size is an error",
    "stretch": "none, unless a method's details say rescale=minmax",
    "means": "over images; images for which a metric is undefined are left out of its mean and counted in n",
    "intervals": "95 % percentile bootstrap over images, 2000 resamples",
    "clamp": "fused values are clamped to 0..255 before they are rounded",
    "minmax": "the same pictures, each stretched from its minimum to its maximum after the clamp and before it is "
    "rounded; images of a folder, which are rounded already, as they are",
}
"""Part of the format: leaderboards compare these texts."""


@dataclass(frozen=True)
class Failure:
    """A pair that could not be measured, and why."""

    method: str
    dataset: str
    pair: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        rows, metrics: one row for each method and set, and the columns of the table.
        failures: pairs that could not be measured, and files that could not be paired.
        provenance: everything needed to get the same numbers again.
        sizes: of each set the number of pairs that it should have.
    """

    rows: Sequence[Row]
    metrics: Sequence[str]
    failures: Sequence[Failure]
    provenance: Mapping[str, Any]
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """How it was measured, in sentences."""
        notes = [f"{key}: {text}" for key, text in self.provenance["conventions"].items()]
        notes += [f"{name}: {find_metric(name).convention} ({find_metric(name).paper})" for name in self.metrics]
        for name, details in self.provenance["datasets"].items():
            ranges = [f"{key} {value}" for key, value in details.items() if key.endswith("_range")]
            notes += [f"{name}: sources read by {', '.join(ranges)}"] if ranges else []
        for name, details in (*self.provenance["methods"].items(), ("versions", self.provenance["versions"])):
            notes.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in details.items()))
        return notes

    @property
    def markdown(self) -> str:
        """The report."""
        return report.markdown(self)

    def as_json(self) -> dict[str, Any]:
        """Content of `summary.json`."""
        return {
            "format": FORMAT,
            "rows": [row.as_json() for row in self.rows],
            "columns": list(self.metrics),
            "failures": [vars(failure) for failure in self.failures],
            "sizes": dict(self.sizes),
            "provenance": dict(self.provenance),
        }


def with_baselines(methods: Sequence[Method], ranges: Mapping[str, Any] | None = None) -> list[Method]:
    """The methods, followed by the baselines that every report has.

    Raises:
        ValueError: two methods have one name, names that would be one file name, or the name of such a baseline.
    """
    for method in methods:
        if method.name in ALWAYS and method.kind != "baseline":
            raise ValueError(
                f"{method.name!r} is the name of a baseline that every table has: give the method another (NAME=...)"
            )
    everything = [
        *methods,
        *(baseline_method(name, ranges=ranges) for name in ALWAYS if name not in {m.name for m in methods}),
    ]
    taken: dict[str, str] = {}
    for method in everything:
        if slug(method.name) in taken:
            raise ValueError(
                f"two methods have the names {taken[slug(method.name)]!r} and {method.name!r}, so their files would be "
                "the same: give them different names (NAME=...)"
            )
        taken[slug(method.name)] = method.name
    return everything


def evaluate(
    methods: Sequence[Method],
    datasets: Sequence[EvaluationSet],
    metrics: Sequence[str] = CDDFUSE_METRICS,
    output: str | os.PathLike[str] = "evaluation",
    *,
    stretched: bool = True,
    save_images: bool = False,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Evaluate methods on sets in this process, write the report to `output`, and return it.

    Run it again with the same output to measure only what is missing.

    Args:
        methods: see `pipeline_method`, `baseline_method`, `folder_method`; average and maximum are added.
        datasets: sets under their names.
        metrics: names in `METRICS`, the columns of the table.
        stretched: also measure every picture stretched from its minimum to its maximum, the other convention of
            published tables.
        save_images: keep the fused pictures in `output/images`.
        seed: seed of the bootstrap.
        progress: called after each image and method.
    """
    everything, folder = with_baselines(methods, datasets[0].ranges), Path(output)
    images = folder / "images" if save_images else None
    failures = measure_share(
        everything, datasets, metrics, folder, stretched=stretched, images=images, progress=progress
    )
    result = collect(everything, datasets, metrics, folder, failures, seed, stretched=stretched)
    write(result, datasets, folder, images)
    return result


def measure_share(
    methods: Sequence[Method],
    datasets: Sequence[EvaluationSet],
    metrics: Sequence[str],
    output: Path,
    *,
    process: int = 0,
    processes: int = 1,
    stretched: bool = True,
    images: Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> list[Failure]:
    """Measure what is not on disk yet: every `processes`-th pair, starting with pair `process`.

    A pair that fails (unreadable, wrong size) does not stop the others.

    Raises:
        OSError: nothing can be written to `output`.
    """
    failures: list[Failure] = []
    for dataset in datasets:
        records = {method.name: Records(output, method, dataset, metrics, stretched) for method in methods}
        done = {name: record.read() for name, record in records.items()}
        for pair in dataset.pairs.shard(process, processes):
            files = {
                method.name: report.image_path(images, method.name, pair.name, dataset.name)
                for method in methods
                if images is not None and method.kind != "folder"
            }
            absent = {name for name, file in files.items() if not _is_of(file, done[name].get(pair.name, {}))}
            missing = [method for method in methods if method.name in absent or pair.name not in done[method.name]]
            try:
                sources = source_luminance(pair, **dataset.ranges) if missing else None
            except Exception as error:  # decoders, memory, other people's files: the other pairs go on
                failures += [Failure(method.name, dataset.name, pair.name, _message(error)) for method in missing]
                sources = None
            for method in methods:
                if sources is not None and method in missing:
                    try:
                        fused, other = (
                            method.pictures(pair, dataset.name)
                            if records[method.name].both
                            else (method.fuse(pair, dataset.name), None)
                        )
                        if method.name in files:
                            save_image(fused, files[method.name])
                        record = measure_pair(luminance(fused), *sources, metrics, other)
                        records[method.name].append(process, pair.name, record)
                    except Exception as error:
                        if trouble := disk_trouble(error, output):  # all other pairs would fail too
                            raise OSError(trouble) from error
                        failures.append(Failure(method.name, dataset.name, pair.name, _message(error)))
                progress()
    return failures


def _is_of(file: Path, record: Mapping[str, Any]) -> bool:
    """Whether a saved picture is there, and is that which was measured: not of another run into the same folder."""
    try:
        return file.exists() and picture_digest(luminance(to_image(read_picture(file)))) == record.get("picture")
    except READ_ERRORS:
        return False


def _message(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


def collect(
    methods: Sequence[Method],
    datasets: Sequence[EvaluationSet],
    metrics: Sequence[str],
    folder: Path,
    failures: Sequence[Failure] = (),
    seed: int = 0,
    *,
    stretched: bool = True,
) -> Evaluation:
    """Rows from the records on disk; a method without any record on a set has no row there."""
    rows: list[Row] = []
    for dataset in datasets:
        group: dict[str, Row] = {}
        for method in methods:
            records = Records(folder, method, dataset, metrics, stretched)
            found = records.read()
            ordered = {name: found[name] for name in dataset.names if name in found}
            if ordered:
                row = summarize(method, dataset.name, ordered, metrics, seed, dataset.expected, records.both)
                group[method.name] = row
        references = [group[name] for name in ALWAYS if name in group]
        for row in group.values():
            if len(references) == len(ALWAYS):
                warnings = warnings_of(row, *references)
                if row.n < row.expected:
                    left = [name for name in dataset.names if name not in set(row.names)]
                    left += [file for file, _ in dataset.unpaired]
                    warnings.append(
                        f"measured on {row.n} of {row.expected} pairs, without {some(left)}: the failures say why"
                    )
                if spans_by_stretch(row, *references):
                    warnings.append(
                        "each of its images spans 0 to 255, unlike those of average and maximum: taken as stretched on "
                        "saving and compared with stretched rows only"
                    )
                    row = replace(row, was_stretched=True)
                row = replace(row, warnings=tuple(warnings))
            rows.append(row)
    unpaired = [Failure("", dataset.name, file, why) for dataset in datasets for file, why in dataset.unpaired]
    provenance = {  # everything needed to get the same numbers again; no path of this machine
        "conventions": CONVENTIONS,
        "methods": {method.name: dict(method.details) for method in methods},
        "datasets": {
            dataset.name: {"pairs": len(dataset.pairs), "blake2b": dataset.digest, **dataset.ranges}
            for dataset in datasets
        },
        "seed": seed,
        "versions": {
            "fusion_hub": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
    }
    sizes = {dataset.name: dataset.expected for dataset in datasets}
    return Evaluation(rows, tuple(metrics), (*failures, *unpaired), provenance, sizes)


def write(result: Evaluation, datasets: Sequence[EvaluationSet], folder: Path, images: Path | None) -> list[Path]:
    """Write `summary.json`, `report.md`, `table.tex`, `per_image/*.csv` and the figures; returns the files.

    The figures need matplotlib (`pip install fusion-hub[evaluate]`); without it they are left out.
    """
    texts = {
        "summary.json": json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n",
        "report.md": result.markdown,
        "table.tex": report.latex(result),
    }
    expected = {dataset.name: dataset.names for dataset in datasets}
    for row in result.rows:
        for part, ending in ((row, ""), (row.as_stretched, "--minmax")):
            if part.values:
                name = f"per_image/{slug(row.dataset)}--{slug(row.method)}{ending}.csv"
                texts[name] = report.per_image_csv(part, expected.get(row.dataset, []))
    files = [report.write_text(folder / name, text) for name, text in texts.items()]
    for earlier in set((folder / "per_image").glob("*--*.csv")) - set(files):
        earlier.unlink()  # of a method or convention that the report no longer has
    sweep_leftovers(folder)
    try:
        if result.rows:
            files.append(report.write_figure(report.draw_means(result), folder / "figure.png"))
            if images is not None:
                examples = report.draw_examples(result.rows, datasets, images)
                files.append(report.write_figure(examples, folder / "examples.png"))
    except ImportError:
        pass
    return files


def forget(folder: Path) -> None:
    """Remove the records of earlier runs, so that everything is measured again."""
    shutil.rmtree(folder / "records", ignore_errors=True)
