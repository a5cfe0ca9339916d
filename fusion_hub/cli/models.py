"""`fusion-hub models`: the bundled checkpoints and their measured numbers; what the parts of one contribute."""

import json
from typing import Annotated, Any

import typer

from fusion_hub import pretrained
from fusion_hub.cli import common
from fusion_hub.cli.common import WRONG_USE, CommandError, Device
from fusion_hub.cli.model_check import check_model

HEADLINE_METRICS = ("SCD", "VIF", "Qabf")


EXAMPLES = """
\b
Examples:
  fusion-hub models
  fusion-hub models --check difffusenet-msrs
  fusion-hub models --check runs/mine/pipeline --data data/msrs --split val --limit 20
"""


def models(
    *,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Measure what each part of a checkpoint contributes, on clean pairs and with noise in the infrared "
            f"image. {common.MODEL_HELP}",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="SET",
            help="Pairs for --check: a folder as `fusion-hub fuse` reads it, or a Hub id.",
            show_default="drawn pairs",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the set, for example test.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of the set.")] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the bundled checkpoints, with the numbers measured on their test sets.

    With --check, switch off one part of the network at a time and print what changes. The exit code is 1 if a gate or
    the residual is constant over the picture: such a part does nothing that a number could not do.
    """
    with common.exit_codes("nothing was printed: --limit checks fewer pairs"), common.terminate_as_interrupt():
        if check is not None:
            check_model(check, data, split, limit, device, seed, as_json)
        elif data is not None or split is not None or limit is not None:
            raise CommandError(
                "--data, --split and --limit choose the pairs for --check: give --check MODEL", WRONG_USE
            )
        else:
            _list(as_json)


def _list(as_json: bool) -> None:
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
