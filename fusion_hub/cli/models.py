"""`fusion-hub models`: the bundled checkpoints, for fusion and for what comes after, and their measured numbers."""

import json
from typing import Annotated, Any

import typer

from fusion_hub import pretrained

HEADLINE_METRICS = ("SCD", "VIF", "Qabf")


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the bundled checkpoints, with the numbers measured on their test sets."""
    if as_json:
        fusing = [_describe(info) for info in pretrained.list_models()]
        segmenting = [_describe_segmenter(info) for info in pretrained.SEGMENTERS.values()]
        typer.echo(json.dumps([*fusing, *segmenting], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in ("checkpoint", "weights", f"measured: {' '.join(HEADLINE_METRICS)}"):
        table.add_column(column, overflow="fold")
    for info in pretrained.list_models():
        known = _describe(info)
        size = f"{known['bytes'] / 2**20:.1f} MiB" if info.available else "not installed"
        parameters = f"{known['parameters'] / 1e6:.2f} M parameters" if known["parameters"] else ""
        table.add_row(
            f"{info.name}\n{info.model_class}\n{info.modality}",
            "\n".join(filter(None, (size, parameters, info.license))),
            "\n".join(_headline(info)),
        )
    Console().print(table)
    for segmenter in pretrained.SEGMENTERS.values():
        for line in _segmenter_lines(segmenter):
            typer.echo(line)


def _describe(info: pretrained.PretrainedInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "task": "fusion",
        "pipeline": info.pipeline_class,
        "model": info.model_class,
        "modality": info.modality,
        "datasets": list(info.datasets),
        "summary": info.summary,
        "licence": info.license,
        "available": info.available,
        "parameters": info.parameters,
        "bytes": sum(file.stat().st_size for file in info.folder.rglob("*.safetensors")),
        "metrics": info.metrics,
    }


def _describe_segmenter(info: pretrained.SegmenterInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "task": "segmentation",
        "classes": info.classes,
        "datasets": list(info.datasets),
        "summary": info.summary,
        "licence": info.license,
        "available": info.available,
        "parameters": info.parameters,
        "bytes": sum(file.stat().st_size for file in info.folder.rglob("*.safetensors")),
        "metrics": info.metrics,
    }


def _segmenter_lines(info: pretrained.SegmenterInfo) -> list[str]:
    """What follows fusion: the name, and the mIoU on each kind of pictures."""
    measured = info.metrics
    rows = [f"{name} {100 * row['numbers']['mIoU']:.1f}" for name, row in measured.get("inputs", {}).items()]
    state = "" if info.available else ", not installed"
    return [
        f"For the segmentation preview: {info.name} (SegFormer-B0, {info.license}{state}).",
        *([f"  measured: mIoU in per cent on {measured['dataset']}, {', '.join(rows)}"] if rows else []),
    ]


def _headline(info: pretrained.PretrainedInfo) -> list[str]:
    """`tno/test 1.80 0.80 0.60` of each set, from the `sets` that `benchmarks/quality.py` writes."""
    lines = []
    for name, content in info.metrics.get("sets", {}).items():
        values = content["metrics"]
        shown = [f"{values[metric]:.2f}" if metric in values else "-" for metric in HEADLINE_METRICS]
        lines.append(" ".join([name, *shown]))
    return lines
