"""Evaluation: methods x sets x metrics -> tables, CSV, JSON and figures that a reviewer would accept.

    from fusion_hub.evaluation import EvaluationSet, baseline_method, evaluate, pipeline_method

    tno = EvaluationSet.of("tno/test", PairedDataset.open("data/tno", split="test"))
    result = evaluate([pipeline_method("mine", pipe)], [tno], metrics=CDDFUSE_METRICS, output="results")
    print(result.markdown)

Measured is the picture as it would be saved: 8-bit BT.601 full-range luminance in integers, against that of both
sources. The rows of average and maximum are always there. `fusion-hub evaluate` is this on the command line.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusion_hub.evaluation import report
from fusion_hub.evaluation.measuring import EvaluationSet, Failure, Records, measure_share, slug
from fusion_hub.evaluation.methods import (
    ALWAYS,
    Method,
    baseline_method,
    folder_method,
    luminance,
    pipeline_method,
    source_luminance,
)
from fusion_hub.evaluation.statistics import Interval as Statistic
from fusion_hub.evaluation.statistics import bootstrap_mean
from fusion_hub.evaluation.summary import Row, summarise, warnings_of
from fusion_hub.files import sweep_leftovers, write_aside
from fusion_hub.metrics import CDDFUSE_METRICS, find_metric

__all__ = [
    "FORMAT",
    "Evaluation",
    "EvaluationSet",
    "Failure",
    "Method",
    "Row",
    "Statistic",
    "baseline_method",
    "bootstrap_mean",
    "evaluate",
    "folder_method",
    "luminance",
    "pipeline_method",
    "source_luminance",
    "with_baselines",
]

FORMAT = "fusion-hub-evaluation/1"
CONVENTIONS = {
    "values": "8-bit integers 0..255 of the picture as it would be saved, double precision",
    "colour": "BT.601 full-range luminance of a colour picture: floor(0.299 R + 0.587 G + 0.114 B + 0.5)",
    "size": "original sizes; no crop, no resize; a fused image of another size is an error",
    "stretch": "none, unless a method's details say rescale=minmax",
    "means": "over images; images for which a metric is undefined are left out of its mean and counted in n",
    "intervals": "95 % percentile bootstrap over images, 2000 resamples",
    "clamp": "fused values are clamped to 0..255 before they are rounded",
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        rows: one for each method and set.
        metrics: columns of the table.
        failures: pairs that could not be measured, and files that could not be paired.
        sizes: of each set the number of pairs that it should have.
        provenance: what has to be known to get the same numbers again.
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
        for name, metric in ((name, find_metric(name)) for name in self.metrics):
            notes.append(f"{name}: {metric.convention} ({metric.paper})")
        for name, details in self.provenance["methods"].items():
            notes.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in details.items()))
        versions = ", ".join(f"{key} {value}" for key, value in self.provenance["versions"].items())
        return [*notes, f"versions: {versions}"]

    @property
    def markdown(self) -> str:
        """The report."""
        return report.markdown(self.rows, self.metrics, self.notes, self.failures, self.sizes)

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


def with_baselines(methods: Sequence[Method]) -> list[Method]:
    """The methods and, behind them, the baselines that every report holds.

    Raises:
        ValueError: two methods have one name, or names that would be one file name.
    """
    everything = [*methods, *(baseline_method(name) for name in ALWAYS if name not in {m.name for m in methods})]
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
    save_images: bool = False,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate methods on sets in this process, write the report to `output`, and return it.

    What is measured already under the same method, set and metrics is not measured again. `fusion-hub evaluate` does
    the same on several processes.

    Args:
        methods: see `pipeline_method`, `baseline_method`, `folder_method`; average and maximum are added.
        datasets: sets under their names.
        metrics: names in `METRICS`, the columns of the table.
        output: folder.
        save_images: keep the fused pictures in `output/images`.
        seed: of the bootstrap.
        progress: called after each image and method.
    """
    everything, folder = with_baselines(methods), Path(output)
    images = folder / "images" if save_images else None
    failures = measure_share(everything, datasets, metrics, folder, images=images, progress=progress)
    result = collect(everything, datasets, metrics, folder, failures, seed)
    write(result, datasets, folder, images)
    return result


def collect(
    methods: Sequence[Method],
    datasets: Sequence[EvaluationSet],
    metrics: Sequence[str],
    folder: Path,
    failures: Sequence[Failure] = (),
    seed: int = 0,
) -> Evaluation:
    """Rows from the records on disk; a method without any record on a set has no row there."""
    rows: list[Row] = []
    for dataset in datasets:
        group: list[Row] = []
        for method in methods:
            found = Records(folder, method, dataset, metrics).read()
            ordered = {name: found[name] for name in dataset.names if name in found}
            if ordered:
                group.append(summarise(method, dataset.name, ordered, metrics, seed, dataset.expected))
        rows += _with_warnings(group)
    unpaired = [Failure("", dataset.name, file, why) for dataset in datasets for file, why in dataset.unpaired]
    sizes = {dataset.name: dataset.expected for dataset in datasets}
    return Evaluation(rows, tuple(metrics), (*failures, *unpaired), describe_run(methods, datasets, seed), sizes)


def _with_warnings(group: Sequence[Row]) -> list[Row]:
    known = {row.method: row for row in group}
    if not all(name in known for name in ALWAYS):
        return list(group)
    reference = [known[name] for name in ALWAYS]
    found = []
    for row in group:
        warnings = warnings_of(row, *reference)
        if row.n < row.expected:
            warnings.append(f"measured on {row.n} of {row.expected} pairs: see the failures")
        found.append(replace(row, warnings=tuple(warnings)))
    return found


def describe_run(methods: Sequence[Method], datasets: Sequence[EvaluationSet], seed: int) -> dict[str, Any]:
    """What has to be known to get the same numbers again; holds no path of this machine."""
    import diffusers
    import numpy
    import PIL
    import torch

    import fusion_hub

    return {
        "conventions": CONVENTIONS,
        "methods": {method.name: dict(method.details) for method in methods},
        "datasets": {dataset.name: {"pairs": len(dataset.pairs), "blake2b": dataset.digest} for dataset in datasets},
        "seed": seed,
        "versions": {
            "fusion_hub": fusion_hub.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
    }


def write(result: Evaluation, datasets: Sequence[EvaluationSet], folder: Path, images: Path | None) -> list[Path]:
    """Write `summary.json`, `report.md`, `table.tex`, `per_image/*.csv` and the figures; returns the files.

    The figures need matplotlib (`pip install fusion-hub[evaluate]`); without it they are left out.
    """
    files = [
        _write(folder / "summary.json", json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n"),
        _write(folder / "report.md", result.markdown),
        _write(folder / "table.tex", report.latex(result.rows, result.metrics)),
    ]
    sweep_leftovers(folder)
    expected = {dataset.name: dataset.names for dataset in datasets}
    for row in result.rows:
        name = f"{slug(row.dataset)}--{slug(row.method)}.csv"
        files.append(_write(folder / "per_image" / name, report.per_image_csv(row, expected.get(row.dataset, []))))
    try:
        if not result.rows:
            return files
        files.append(
            _drawn(folder / "figure.png", lambda file: report.draw_intervals(result.rows, result.metrics, file))
        )
        if images is not None:
            examples = folder / "examples.png"
            files.append(_drawn(examples, lambda file: report.draw_examples(result.rows, datasets, images, file)))
    except ImportError:
        pass
    return files


def _write(file: Path, text: str) -> Path:
    return _drawn(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def _drawn(file: Path, make: Callable[[Path], Any]) -> Path:
    """The file appears under its name only when it is complete."""
    with write_aside(file) as aside:
        make(aside)
    return file


def forget(folder: Path) -> None:
    """Remove the records of earlier runs, so that everything is measured again."""
    shutil.rmtree(folder / "records", ignore_errors=True)
