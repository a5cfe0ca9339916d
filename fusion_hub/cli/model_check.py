"""`fusion-hub models --check`: what each part of a checkpoint contributes, as tables or JSON."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusion_hub import data as pair_sets
from fusion_hub import evaluation, pipelines
from fusion_hub.cli import common
from fusion_hub.cli.common import CommandError, OneProcess, fail_together

if TYPE_CHECKING:
    from rich.table import Table

    from fusion_hub.evaluation import Contributions, Interval

HEADINGS = {"change": "change", "PSNR": "PSNR", "Qabf": "Qabf", "VIF": "VIF", "SCD": "SCD", "SSIM_cddfuse": "SSIM"}
NOTES = (
    "none: means with all parts. Others: the difference without the part, with its",
    "95% interval. change: mean absolute one of the picture, in gray levels.",
    "PSNR: in dB against the clean picture with all parts; a mean on clean pairs.",
    "The metrics compare with the clean sources.",
)


def check_model(
    name: str, data: str | None, split: str | None, limit: int | None, device: str, seed: int, as_json: bool
) -> None:
    """Print what each part of a checkpoint contributes.

    Raises:
        CommandError: something cannot be read or used; or, after the tables, a part is constant over the picture.
    """
    common.check_device(device)
    folder = fail_together(lambda: pipelines.locate(name))
    pairs = fail_together(lambda: open_pairs(folder, data, split, limit))
    pipeline = fail_together(
        lambda: common.load_pipeline(name, common.choose_device(device, OneProcess(device)), "auto")
    )
    with common.progress_bar("checking", pairs.length, shown=True) as bar:
        found = fail_together(lambda: evaluation.measure_parts(pipeline, pairs, seed, bar.update))
    if as_json:
        typer.echo(json.dumps(as_dict(name, found, seed), indent=2, allow_nan=False))
    else:
        print_tables(found)
    if constant := [variation.name for variation in found.variations if variation.constant]:
        are = "is" if len(constant) == 1 else "are"
        raise CommandError(f"{name}: {' and '.join(constant)} {are} constant over the picture: train the model again")


def open_pairs(folder: Path, source: str | None, split: str | None, limit: int | None) -> "pair_sets.PairedDataset":
    """The pairs to check a checkpoint on; by default drawn ones of what it was trained on."""
    if source is not None:
        opened = pair_sets.PairedDataset.open(source, split=split)
    else:
        medical = pipelines.trained_on(folder) == "medical"
        drawn = [pair for pair in pair_sets.sample_pairs() if ("medical" in pair.model) == medical]
        opened = pair_sets.PairedDataset.open(
            [{"visible": pair.visible, "infrared": pair.infrared, "name": pair.name} for pair in drawn]
        )
    return opened if limit is None else opened[:limit]


def as_dict(name: str, found: "Contributions", seed: int) -> dict[str, Any]:
    """Everything that was measured, as JSON."""
    ends = ("mean", "low", "high")
    return {
        "model": name,
        "pairs": list(found.pairs),
        "noise": {"image": "infrared", "sigma": evaluation.contributions.SIGMA, "seed": seed},
        "parts": dict(found.off),
        "rows": [
            {
                "without": row.name,
                "inputs": row.inputs,
                "values": {
                    column: {end: _or_none(getattr(value, end)) for end in ends} | {"n": value.n}
                    for column, value in row.values.items()
                },
            }
            for row in found.rows
        ],
        "variations": [
            {
                "part": variation.name,
                "deviation": dict(variation.deviation),
                "floor": variation.floor,
                "constant": variation.constant,
            }
            for variation in found.variations
        ],
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def print_tables(found: "Contributions") -> None:
    """One table of clean and one of noisy pairs, and what the parts are; 80 columns are enough."""
    from rich.console import Console
    from rich.markup import escape

    console, measured = Console(), evaluation.contributions
    count = f"{len(found.pairs)} pair{'s' * (len(found.pairs) != 1)}"
    noise = f"the same with noise of sigma {measured.SIGMA:g} of 255 in the infrared image"
    for inputs, title in zip(measured.INPUTS, (f"{count}, clean", noise), strict=True):
        table = _table(title, "without", *HEADINGS.values())
        for row in found.rows:
            if row.inputs == inputs:
                cells = [
                    _cell(column, value, measured.is_difference(row.name, inputs, column))
                    for column, value in row.values.items()
                ]
                table.add_row(row.name, *cells)
        console.print(table)
    varying = {variation.name: _deviation(variation) for variation in found.variations}
    columns = ("part", "without it", *["deviation over the picture"] * bool(varying))
    table = _table("What is switched off", *columns)
    described = dict(found.off)
    if any(row.name == measured.NLM for row in found.rows):
        described[measured.NLM] = "OpenCV denoises the images" + ", D2FE is off" * ("D2FE" in found.off)
    for name, off in described.items():
        table.add_row(*(name, escape(off), varying.get(name, ""))[: len(columns)])
    console.print(table)
    for note in NOTES:
        console.print(note, highlight=False)
    if len(found.pairs) < evaluation.statistics.MIN_IMAGES:
        console.print(f"With {count} the intervals mean little: give more by --data.", highlight=False)


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="left" if len(columns) < 4 else "right")
    return table


def _cell(column: str, value: "Interval", signed: bool) -> str:
    """A mean, with its interval in a second line except for the change of the picture; empty where undefined."""
    if math.isnan(value.mean):
        return ""
    mean, low, high = (_number(column, number, signed) for number in (value.mean, value.low, value.high))
    return mean if column == "change" or not value.has_ends else f"{mean}\n[dim]{low},{high}[/]"


def _number(column: str, value: float, signed: bool) -> str:
    """At most five characters."""
    small = column not in ("change", "PSNR") and abs(value) < 0.9995
    text = f"{value:{'+' if signed else ''}.{3 if small else 2 if abs(value) < 9.995 else 1}f}"
    return text.replace("0.", ".", 1) if small else text


def _deviation(variation: Any) -> str:
    values = ", ".join(f"{value:.3f} {inputs}" for inputs, value in variation.deviation.items())
    return f"[bold red]{values}: constant over the picture[/]" if variation.constant else values
