"""`fusion-hub export`: a network as a file that runs without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from fusion_hub import pipelines
from fusion_hub.cli import common
from fusion_hub.cli.common import CommandError, exit_codes, message_of

EXAMPLES = """
\b
Examples:
  fusion-hub export difffusenet-msrs --to onnx --output difffusenet.onnx
  fusion-hub export runs/street/pipeline --to openvino
"""


def export(
    checkpoint: Annotated[str, typer.Argument(metavar="MODEL", help=common.MODEL_HELP, show_default=False)],
    *,
    to: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file. OpenVINO puts its weights beside it, in a .bin file.",
            show_default="model.onnx or model.xml beside the weights",
        ),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            "--license",
            "--licence",
            metavar="ID",
            help="License of the weights, for the file's metadata.",
            show_default="that of a bundled checkpoint",
        ),
    ] = "",
) -> None:
    """Write the network of a checkpoint as an ONNX or OpenVINO file, with dynamic batch, height and width.

    The file is run at three sizes, with one and with three pairs, and compared with PyTorch in float32. It is not kept
    if it differs by more than one gray level. docs/export.md has its inputs and outputs.
    """
    from diffusers.utils import logging

    logging.disable_progress_bar()
    with exit_codes("nothing was written"), common.terminate_as_interrupt():
        try:
            file, differences = pipelines.export.export(checkpoint, to, output, licence)
        except (pipelines.export.ExportError, ValueError, OSError) as error:
            raise CommandError(message_of(error)) from error
        for found in differences:
            batch, _, height, width = found.shape
            typer.echo(f"{batch} x {width}x{height}: differs from PyTorch by up to {found.levels:.4f} gray levels")
        typer.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
