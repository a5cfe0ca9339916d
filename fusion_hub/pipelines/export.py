"""Networks as ONNX and OpenVINO files, for programs without PyTorch; docs/export.md describes the files.

The exported graph has dynamic batch, height and width. A size that a trace froze, or an operator that a runtime
computes differently, gives wrong pictures without an error. Every file is therefore run before it is kept: at three
sizes, one or three pairs at a time, against the network in PyTorch.
"""

import hashlib
import io
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fusion_hub import __version__
from fusion_hub.models.difffusenet import DiffFuseNetModel
from fusion_hub.models.red import REDModel
from fusion_hub.pipelines.checkpoints import PRETRAINED, locate
from fusion_hub.pipelines.file_checks import weight_files
from fusion_hub.pipelines.fusion_pipeline import FusionPipeline
from fusion_hub.pipelines.limits import INEXACT_TILE

Format = Literal["onnx", "openvino"]
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("model.onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("model.xml", ("onnx", "onnxscript", "openvino")),
}
"""Of each format the name of its file, and the packages that make and check it."""

PROPERTY = "fusion_hub"
"""Key of the metadata in the file."""
VERSION = 1
"""Of the metadata and of the inputs and outputs."""
OPSET = 18
LARGEST_DIFFERENCE = 1 / 255
"""From PyTorch in float32, in images in [0, 1]; beyond it a file is refused."""
STRONGEST_NOISE = 0.1  # in the check; that of `denoise=1`
MIN_SIDE = 32  # pixels, of the images in the check

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""A file, loaded: arrays by the names of the inputs to the array `fused`."""


class ExportError(Exception):
    """Why a network is not exported, and what to do about it."""


@dataclass(frozen=True)
class Difference:
    """The largest difference between the file and PyTorch, in gray levels of 255, for one shape `(B, 1, H, W)`."""

    shape: tuple[int, ...]
    levels: float


class ExportForm(nn.Module):
    """A network as the exported graph computes it: no noise is estimated or drawn, no steps are chosen.

    Args:
        model: the network in float32 on the CPU. A DiffFuseNet is exported in its inference form, a RED as it is.
        steps: of a RED; None: all.

    Raises:
        ExportError: for an ablation of DiffFuseNet.
    """

    def __init__(self, model: Any, steps: int | None = None) -> None:
        super().__init__()
        self.options = {"num_inference_steps": steps} if isinstance(model, REDModel) else {}
        self.network = model.fuse_for_inference(portable=True) if isinstance(model, DiffFuseNetModel) else model
        if self.network is None:
            raise ExportError("this DiffFuseNet is an ablation, which has no form to export: give a complete network")
        self.multiple = model.multiple

    def forward(self, visible: Tensor, infrared: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """`(B, 1, H, W)` images, and `(B, 2)` noise levels where the model is adaptive, to `(B, 1, H, W)`."""
        # One stack tells the tracer that both have one shape, and sizes in units of `multiple` that every halving
        # further down is exact. Without that, tracing spends minutes on symbolic arithmetic.
        cells = torch.stack([visible, infrared]).unflatten(4, (-1, self.multiple)).unflatten(3, (-1, self.multiple))
        visible, infrared = cells.flatten(5, 6).flatten(3, 4).unbind()
        if noise_level is None:
            fused: Tensor = self.network(visible, infrared, **self.options)
        else:
            fused = self.network(visible, infrared, noise_level=noise_level.t().flatten())
        return fused


def is_adaptive(model: Any) -> bool:
    """Whether the graph has the input `noise_level`."""
    return isinstance(model, DiffFuseNetModel) and model.config.use_d2fe and model.config.noise_gain > 0


def check_format(name: str) -> None:
    """Raise an ExportError for a format that cannot be made here, or whose packages are not installed."""
    if name not in FILES:
        reason = {
            "torchscript": "TorchScript is deprecated in PyTorch",
            "executorch": "ExecuTorch files cannot be run and checked here",
        }.get(name, f"{name!r} is not a known format")
        raise ExportError(f"{reason}: export to {' or '.join(get_args(Format))}")
    if missing := [package for package in FILES[name][1] if find_spec(package) is None]:
        raise ExportError(
            f"exporting to {name} needs {', '.join(missing)}, not installed here: pip install 'fusion-hub[export]'"
        )


def export(
    name: str | os.PathLike[str],
    to: str = "onnx",
    output: str | os.PathLike[str] | None = None,
    license: str = "",
    source: str = "",
) -> tuple[Path, list[Difference]]:
    """Write the network of a checkpoint as a file that runs without PyTorch, after comparing it with PyTorch.

    Args:
        name: a bundled name, a pipeline folder, or a Hub id `"owner/name"`.
        to: `"onnx"`, or `"openvino"`: an `.xml` file and a `.bin` file beside it.
        output: the file. None: `model.onnx` or `model.xml` in the folder of the checkpoint; not for a Hub id, whose
            folder belongs to the cache.
        license: SPDX id of the license of the weights, for the metadata; that of a bundled checkpoint is known.
        source: where users get the checkpoint, for the metadata. Empty: `name`, or of a folder its last name.

    Returns:
        The file, and what it differed by in each check.

    Raises:
        ExportError: for another format, a package that is not installed, a missing `output`, or a file that differs
            from PyTorch by more than a gray level; it is not kept.
        ValueError, OSError: if the checkpoint cannot be loaded or the file cannot be written.
    """
    check_format(to)
    file_name, _ = FILES[to]
    is_local = os.fspath(name) in PRETRAINED or Path(name).expanduser().is_dir()
    folder = locate(name)
    if output is None and not is_local:
        raise ExportError(f"{name} is a Hub id, whose folder belongs to the cache: give the output, a file to write")
    target = folder / file_name if output is None else Path(output)
    if target.suffix != Path(file_name).suffix or target.is_dir():
        raise ExportError(f"{target} is no name for {to}: give a file that ends in {Path(file_name).suffix}")
    pipeline = FusionPipeline.from_pretrained(folder)
    info = PRETRAINED.get(os.fspath(name))
    metadata = describe(pipeline, folder, source or _public_name(name), info.license if info else license)
    proto = to_onnx(pipeline.model, metadata)
    target.parent.mkdir(parents=True, exist_ok=True)
    # OpenVINO insists on the ending of the name: a temporary folder, not a temporary name.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as aside:
        file = Path(aside) / target.name
        run = save_onnx(proto, file) if to == "onnx" else save_openvino(proto, metadata, file)
        differences = compare(pipeline.model, run, metadata["num_inference_steps"])
        for written in sorted(Path(aside).iterdir()):  # the weights of OpenVINO, .bin, before the .xml that needs them
            os.replace(written, target.with_name(written.name))
    return target, differences


def describe(pipeline: FusionPipeline, folder: Path, source: str, license: str) -> dict[str, Any]:
    """The metadata of the file, which JSON can hold: what a program has to know about the graph."""
    model = pipeline.model
    return {
        "format": VERSION,
        "model": source.rpartition("/")[2],
        "network": "difffusenet" if isinstance(model, DiffFuseNetModel) else "red",
        "multiple": model.multiple,
        "tile_multiple": model.tile_multiple,
        "receptive_margin": model.receptive_margin,
        "tile_size": pipeline.config.get("tile_size", INEXACT_TILE),
        "infrared_range": pipeline.config["infrared_range"],
        "adaptive": is_adaptive(model),
        "num_inference_steps": pipeline.count_steps(None),
        "weights_sha256": hash_weights(folder),
        "license": license,
        "version": __version__,
        "source": source,
    }


def hash_weights(folder: Path) -> str:
    """SHA-256 of the safetensors file of a pipeline's folder; of shards, of the index and all of them in order."""
    digest = hashlib.sha256()
    for file in weight_files(folder / "model", None):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_onnx_metadata(file: Path) -> dict[str, Any]:
    """What `describe` wrote into an ONNX file; empty if there is nothing of ours."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return json.loads(properties.get(PROPERTY, "{}"))


def to_onnx(model: Any, metadata: dict[str, Any]) -> Any:
    """The network as an `onnx.ModelProto`; the model is in float32 on the CPU."""
    import onnx

    side = 4 * model.multiple
    example = torch.rand(2, 1, side, side + model.multiple)
    inputs = {"visible": example, "infrared": example.clone()}
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    shape = {0: batch, 2: model.multiple * height, 3: model.multiple * width}
    shapes: dict[str, Any] = dict.fromkeys(inputs, shape)
    if is_adaptive(model):
        inputs["noise_level"] = torch.full((2, 2), STRONGEST_NOISE)
        shapes["noise_level"] = {0: batch}
    form = ExportForm(model, metadata.get("num_inference_steps")).eval()
    settings: dict[str, Any] = {"opset_version": OPSET, "dynamo": True, "verbose": False}
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                form,
                kwargs=inputs,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=["fused"],
                **settings,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error).strip().splitlines()[0]
        raise ExportError(
            f"PyTorch cannot export this network ({cause}): use the versions in requirements.txt"
        ) from error
    proto: Any = program.model_proto  # type: ignore[union-attr]  # None only from the deprecated exporter
    onnx.helper.set_model_props(proto, {PROPERTY: json.dumps(metadata)})
    return proto


def save_onnx(proto: Any, file: Path) -> Run:
    """Write an ONNX file and load it again."""
    import onnx

    onnx.save(proto, file)
    return run_onnx(file)


def save_openvino(proto: Any, metadata: dict[str, Any], file: Path) -> Run:
    """Write the two files of OpenVINO, `.xml` and `.bin`, with weights in float32, and load them again."""
    import openvino

    model = openvino.convert_model(io.BytesIO(proto.SerializeToString()))
    model.set_rt_info(json.dumps(metadata), [PROPERTY])
    openvino.serialize(model, file, file.with_suffix(".bin"))
    return run_openvino(file)


def run_onnx(file: Path) -> Run:
    """Load an ONNX file with onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["fused"], inputs)[0]


def run_openvino(file: Path) -> Run:
    """Load an OpenVINO file, on the CPU and in float32."""
    import openvino

    core = openvino.Core()
    # By itself it computes in bfloat16 on processors that have it.
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: compiled(inputs)["fused"]


def compare(model: Any, run: Run, steps: int | None = None) -> list[Difference]:
    """Run a file at three sizes, one of them no multiple of the pooling windows and one portrait, and two batch sizes.

    `steps` of a RED are those that the file runs; None: all.

    Raises:
        ExportError: at the first shape that cannot be run, or whose result differs from the model in float32 by more
            than a gray level.
    """
    step, base = model.multiple, math.ceil(MIN_SIDE / model.tile_multiple) * model.tile_multiple
    generator = torch.Generator().manual_seed(0)
    differences = []
    for height, width in ((base, base), (base + step, 2 * base), (2 * base, base - step)):
        for batch in (1, 3):
            shape = (batch, 1, height, width)
            inputs = {name: torch.rand(shape, generator=generator) for name in ("visible", "infrared")}
            level = STRONGEST_NOISE * torch.rand(batch, 2, generator=generator).round(decimals=1)
            given = {"noise_level": level.t().flatten()} if is_adaptive(model) else {}
            options = {"num_inference_steps": steps} if isinstance(model, REDModel) else given
            with torch.no_grad():
                expected = model(*inputs.values(), **options).numpy()
            if given:
                inputs["noise_level"] = level
            try:
                fused = run({name: tensor.numpy() for name, tensor in inputs.items()})
            except Exception as error:  # onnxruntime's have no other base
                cause = str(error).strip().splitlines()[-1]
                raise ExportError(
                    f"the exported file cannot be run for images of shape {shape} ({cause}), so it is not kept: "
                    "use the versions in requirements.txt"
                ) from error
            same_shape = fused.shape == expected.shape
            largest = float(np.abs(fused - expected).max()) if same_shape else math.inf
            if not largest <= LARGEST_DIFFERENCE:  # NaN is refused as well
                off = f"{255 * largest:.2f} gray levels" if same_shape else f"its shape, {fused.shape},"
                raise ExportError(
                    f"the exported file differs from PyTorch by {off} for images of shape {shape}, so it is not kept: "
                    "use the versions in requirements.txt"
                )
            differences.append(Difference(shape, 255 * largest))
    return differences


def _public_name(name: str | os.PathLike[str]) -> str:
    """A bundled name or Hub id as it is; of a folder its last name, or that of the run for `RUN/pipeline`."""
    text = os.fspath(name)
    if text in PRETRAINED or not Path(text).expanduser().is_dir():
        return text
    folder = Path(text).expanduser().resolve()
    return folder.parent.name if folder.name == "pipeline" else folder.name


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on packages not needed, names of equal axes and operators left as they are."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
