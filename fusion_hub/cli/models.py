"""`fusion-hub models`: the bundled checkpoints and their measured numbers."""

import json
from typing import Annotated, Any

import typer

from fusion_hub import pretrained

HEADLINE_METRICS = ("SCD", "VIF", "Qabf")


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """List the bundled checkpoints, with the numbers measured on their test sets."""
    fusing = [_describe(info) for info in pretrained.list_models()]
    others = [_describe(info) for table in (pretrained.SEGMENTERS, pretrained.DETECTORS) for info in table.values()]
    if as_json:
        typer.echo(json.dumps([*fusing, *others], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in ("checkpoint", "weights", f"measured: {' '.join(HEADLINE_METRICS)}"):
        table.add_column(column, overflow="fold")
    for model in fusing:
        size = f"{model['bytes'] / 2**20:.1f} MiB" if model["available"] else "not installed"
        parameters = f"{model['parameters'] / 1e6:.2f} M parameters" if model["parameters"] else ""
        measured = []  # `tno/test 1.80 0.80 0.60` for each set that `benchmarks/quality.py` measured
        for name, content in model["metrics"].get("sets", {}).items():
            values = [content["metrics"].get(metric) for metric in HEADLINE_METRICS]
            measured.append(" ".join([name, *("-" if value is None else f"{value:.2f}" for value in values)]))
        table.add_row(
            f"{model['name']}\n{model['model']}\n{model['modality']}",
            "\n".join(filter(None, (size, parameters, model["licence"]))),
            "\n".join(measured),
        )
    Console().print(table)
    for model in others:
        state = "" if model["available"] else ", not installed"
        typer.echo(f"For the {model['task']} preview: {model['name']} ({model['licence']}{state}).")
        rows = model["metrics"].get("inputs", {}).items()
        if rows:
            measured = [f"{name} {100 * row['numbers'][model['score']]:.1f}" for name, row in rows]
            typer.echo(
                f"  measured: {model['score']} in percent on {model['metrics']['dataset']}, {', '.join(measured)}"
            )


def _describe(info: pretrained.PretrainedInfo | pretrained.SegmenterInfo | pretrained.DetectorInfo) -> dict[str, Any]:
    kind: dict[str, Any]
    if isinstance(info, pretrained.PretrainedInfo):
        kind = {"pipeline": info.pipeline_class, "model": info.model_class, "modality": info.modality}
    else:
        kind = {"classes": info.classes, "score": info.score}
    return {
        "name": info.name,
        "task": info.task,
        **kind,
        "datasets": list(info.datasets),
        "summary": info.summary,
        "licence": info.license,
        "available": info.available,
        "parameters": info.parameters,
        "bytes": info.bytes,
        "metrics": info.metrics,
    }
