"""Which library runs the network of `fusion-hub fuse`: ONNX Runtime starts at once, PyTorch has all options."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, cast

import typer

from fusion_hub import data, image, pipelines
from fusion_hub.cli.common import (
    WRONG_USE,
    CommandError,
    DtypeName,
    State,
    choose_device,
    launched,
    load_pipeline,
    message_of,
    with_option_names,
    wrong_use,
)

if TYPE_CHECKING:
    from fusion_hub import FusionPipeline
    from fusion_hub.onnx import FusionSession

FILE = "model.onnx"
EngineName: TypeAlias = Literal["torch", "onnx"]
Engine = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        help="Library that runs the network: onnx starts at once, on the CPU in float32; torch has all options. "
        "auto: onnx for few pictures where it can, torch for many. The pictures differ by at most a gray level."
    ),
]

USUAL_SIZE = 480, 640
FEW_PIXELS = 128 * 640 * 480
"""Up to this many in all pairs, starting PyTorch takes longer than its quicker convolutions save."""


def choose_engine(
    wanted: Literal["auto", "torch", "onnx"],
    checkpoint: Path,
    dataset: "data.PairedDataset",
    options: Mapping[str, Any],
    device: str,
    dtype: DtypeName,
    begun_with: EngineName | None,
) -> EngineName:
    """The engine of a run; a `CommandError` where `--engine onnx` cannot do what the other options ask.

    Args:
        wanted: `--engine`.
        checkpoint: folder of the pipeline.
        dataset: all pairs, also those that are fused already: a resumed folder keeps its engine.
        options: of the call.
        device, dtype: `--device` and `--dtype`.
        begun_with: engine of the pictures that are in the folder already, which `auto` keeps.
    """
    obstacle = _obstacle(checkpoint, options, device, dtype)
    has_torch = find_spec("torch") is not None
    if not has_torch and (obstacle or wanted == "torch"):
        why = f", and --engine onnx cannot be used here: {obstacle}" if obstacle else ": leave out --engine torch"
        raise CommandError(f"PyTorch is not installed{why}", WRONG_USE)
    if wanted == "torch":
        return "torch"
    if wanted == "onnx":
        if obstacle:
            raise CommandError(f"--engine onnx cannot be used here: {obstacle}", WRONG_USE)
        return "onnx"
    if obstacle or begun_with == "torch":
        return "torch"
    return "onnx" if begun_with == "onnx" or not has_torch or _is_small(dataset) else "torch"


def load_engine(
    engine: EngineName,
    checkpoint: Path,
    device: str,
    dtype: DtypeName,
    options: dict[str, Any],
    batch_size: int,
    show_steps: int | None,
    threads: int | None,
    state: State,
) -> "FusionPipeline | FusionSession":
    """The network, with options that it has.

    Args:
        engine, checkpoint, device, dtype, options, batch_size, state: of the run.
        show_steps: seconds until a bar of its steps appears, None for none.
        threads: of ONNX Runtime; None: one for each core.
    """
    if engine == "onnx":
        session = pipelines.FusionSession(checkpoint, threads)
        session.check_inputs(options["tile"], options["rescale"], options["denoise"], batch_size)
        return session
    pipeline = load_pipeline(checkpoint, choose_device(device, state), dtype)
    _check_options(pipeline, options, batch_size)
    pipeline.set_progress_bar_config(
        disable=None if show_steps is not None else True,
        desc="tiles and steps",
        leave=False,
        delay=show_steps or 0,
        dynamic_ncols=True,
    )
    return pipeline


@wrong_use()
def _check_options(pipeline: "FusionPipeline", options: dict[str, Any], batch_size: int) -> None:
    """Report options that the model refuses for every pair once, before any work."""
    checked = {name: options[name] for name in ("num_inference_steps", "noise_strength", "denoise", "tile", "rescale")}
    try:
        pipeline.check_inputs(
            num_pairs=1, generator=None, tile_overlap=None, batch_size=batch_size, output_type="pil", **checked
        )
    except ValueError as error:
        raise ValueError(with_option_names(message_of(error))) from error


def _obstacle(checkpoint: Path, options: Mapping[str, Any], device: str, dtype: DtypeName) -> str:
    """What keeps ONNX Runtime from doing the work, and what to do; "" if nothing."""
    if launched():
        return "several processes need PyTorch, so leave it out"
    if device not in ("auto", "cpu"):
        return f"it runs on the CPU, so leave out --device {device}"
    if dtype not in ("auto", "float32"):
        return f"it computes in float32, so leave out --dtype {dtype}"
    if options["noise_strength"] > 0:
        return "it draws no noise, so leave out --noise-strength"
    if options["num_inference_steps"] not in _steps_of_file(checkpoint):
        return "it takes the steps that the file was exported with, so leave out --num-inference-steps"
    if not (checkpoint / FILE).is_file():
        return f"the checkpoint has no {FILE}, so make it with fusion-hub export, or leave out --engine"
    if find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed, so pip install 'fusion-hub[onnx]'"
    return ""


def _steps_of_file(checkpoint: Path) -> tuple[int | None, ...]:
    """Values of `num_inference_steps` that mean the steps of an exported network."""
    try:
        config = json.loads((checkpoint / "model" / "config.json").read_bytes())
        default = json.loads((checkpoint / "model_index.json").read_bytes()).get("default_denoising_steps")
        return None, cast(int, default or config.get("num_steps", 1))
    except (OSError, ValueError, AttributeError):  # reported when it is loaded
        return (None,)


def _is_small(dataset: "data.PairedDataset") -> bool:
    """Whether all pairs have few pixels, as the header of the first one lets expect; not of a stream."""
    return dataset.length is not None and (not dataset.length or dataset.length * pixels(dataset[0]) <= FEW_PIXELS)


def pixels(pair: "data.Pair") -> int:
    """Of the visible image by its header; those of a usual one where it is no file, or cannot be read."""
    source = pair.visible_source
    try:
        size = image.read_header(source).size if isinstance(source, os.PathLike | str) else USUAL_SIZE
    except (ValueError, OSError):  # reported when it is fused
        size = USUAL_SIZE
    return size[0] * size[1]
