"""Fusion by an exported network: ONNX Runtime, NumPy and Pillow, without PyTorch and diffusers."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

from fusion_hub import __version__
from fusion_hub.image.luminance import DEFAULT_PERCENTILE, ValueRange, check_range
from fusion_hub.image.pair import (
    ImageInputs,
    PairContext,
    Rescale,
    check_output,
    pair_up,
    read_pair,
    restore_array,
    restore_picture,
)
from fusion_hub.image.picture import InputWarning
from fusion_hub.image.tiling import Window, crop_to, pad_to_multiple, run_tiled
from fusion_hub.models.geometry import UNBOUNDED, Geometry
from fusion_hub.models.plane_noise import estimate_noise
from fusion_hub.pipelines.batches import read_batches
from fusion_hub.pipelines.checkpoints import locate, resolve, trained_on
from fusion_hub.pipelines.file_checks import digest
from fusion_hub.pipelines.limits import (
    INEXACT_TILE,
    STRONGEST_NOISE,
    TileRules,
    check_batch_size,
    check_denoise,
    check_tile,
    tile_rules,
)
from fusion_hub.rigs.registration import registration_by

if TYPE_CHECKING:
    from fusion_hub.rigs import Rig

FILE = "model.onnx"
WEIGHTS = Path("model", "diffusion_pytorch_model.safetensors")
METADATA_KEY, FORMAT = "fusion_hub", 1


@dataclass(frozen=True)
class SessionOutput:
    """Output of a [`FusionSession`]; `images` is that of a pipeline's output."""

    images: Any


@dataclass(frozen=True)
class NetworkFacts:
    """What an exported file says of its network, in the metadata property `fusion_hub`; docs/export.md lists it."""

    model: str
    network: Literal["difffusenet", "red"]
    multiple: int
    tile_multiple: int
    receptive_margin: int
    infrared_range: Any = "auto"
    adaptive: bool = False
    weights_sha256: str = ""
    tile_size: int = INEXACT_TILE

    @classmethod
    def parse(cls, text: str) -> "NetworkFacts":
        """From JSON. Raises a `ValueError` for other content."""
        values = json.loads(text)
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError("another format")
        facts = cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})
        sizes = (facts.multiple, facts.tile_multiple, facts.receptive_margin, facts.tile_size)
        whole = all(isinstance(size, int) and size > 0 for size in sizes) and facts.tile_multiple % facts.multiple == 0
        if not whole or facts.network not in ("difffusenet", "red"):
            raise ValueError("another network")
        check_range(facts.infrared_range, "infrared_range")
        return facts

    @property
    def tile_rules(self) -> TileRules:
        """Those of the pipeline."""
        geometry = Geometry(self.tile_multiple, self.receptive_margin, self.receptive_margin < UNBOUNDED)
        return tile_rules(self.network, geometry, self.tile_size)


class FusionSession:
    """A pipeline's call without PyTorch: the same arguments, tiles, notes and metadata, within one gray level.

    It runs in float32 on the CPU, one step, without noise. `pip install 'fusion-hub[onnx]'` installs ONNX Runtime.

    Args:
        path_or_name: a file that `fusion-hub export --to onnx` wrote; or a bundled name, a pipeline folder or a Hub id
            whose `model.onnx` it is.
        threads: of ONNX Runtime; None: one for each core.

    Raises:
        ImportError: ONNX Runtime is not installed.
        OSError: the file is missing or damaged.
        ValueError: it is no fusion network of ours, or of other weights than the checkpoint beside it.

    Examples:
        >>> from fusion_hub.onnx import FusionSession
        >>> session = FusionSession("difffusenet-msrs")  # doctest: +SKIP
        >>> session("street.png", "street_ir.png").images[0].save("fused.png")  # doctest: +SKIP
    """

    def __init__(self, path_or_name: str | os.PathLike[str], threads: int | None = None) -> None:
        file = find_file(path_or_name)
        self._session = _open(file, threads)
        try:
            self.facts = NetworkFacts.parse(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{file} is not a fusion network that this version can run: export it again with fusion-hub export"
            ) from error
        weights = file.parent / WEIGHTS
        if weights.is_file() and digest(weights) != self.facts.weights_sha256:
            raise ValueError(f"{file} was exported from other weights than {weights}: export it again")
        self._trained_on = trained_on(file.parent)
        self._signature = f"Fusion Hub {__version__} ({self.facts.model}, float32, ONNX Runtime)"

    def __call__(
        self,
        visible: ImageInputs,
        infrared: ImageInputs,
        *,
        denoise: float | Literal["auto"] = "auto",
        infrared_range: ValueRange | None = None,
        visible_range: ValueRange | None = None,
        tile: int | None = None,
        rescale: Rescale = "none",
        rig: Union["Rig", str, os.PathLike[str], None] = None,
        output_type: Literal["pil", "np"] = "pil",
        batch_size: int | None = 1,
    ) -> SessionOutput:
        """Fuse one pair of images, or a list of pairs. Arguments, errors and warnings are those of [`FusionPipeline`].

        Returns:
            [`SessionOutput`]; `images` is a list of PIL images, or for "np" an array `(B, H, W, C)` float32 in [0, 1],
            where the shapes differ a list of `(H, W, C)`.
        """
        pairs = pair_up(visible, infrared)
        self.check_inputs(tile, rescale, denoise, batch_size, output_type)
        rules: dict[str, Any] = {
            "infrared_range": self.facts.infrared_range if infrared_range is None else infrared_range,
            "visible_range": "auto" if visible_range is None else visible_range,
        }
        for name, rule in rules.items():
            check_range(rule, name)
        read: Callable[..., tuple[np.ndarray, np.ndarray, PairContext]] = partial(
            read_pair, percentile=DEFAULT_PERCENTILE, register=registration_by(rig), **rules
        )
        images: list[Any] = [None] * len(pairs)
        for batch in read_batches(pairs, read, batch_size, self._trained_on):
            for note in (note for context in batch.contexts for note in context.notes):
                warnings.warn(note, InputWarning, stacklevel=2)
            positions, contexts = batch.positions, batch.contexts
            fused = self._fuse(batch.visible, batch.infrared, self._noise_level(batch[:2], denoise), tile)
            del batch  # a very large pair is no longer needed
            for position, context, plane in zip(positions, contexts, fused[:, 0], strict=True):
                if output_type == "np":
                    images[position] = restore_array(plane, context, rescale == "minmax", np.dtype(np.float32))
                    continue
                images[position] = restored = restore_picture(plane, context, rescale)
                for picture in restored if rescale == "both" else (restored,):
                    picture.info.update(fusion_hub=self._signature, notes=context.notes)
        if output_type == "np" and len({image.shape for image in images}) == 1:
            return SessionOutput(np.stack(images))
        return SessionOutput(images)

    def check_inputs(
        self,
        tile: int | None = None,
        rescale: str = "none",
        denoise: float | Literal["auto"] = "auto",
        batch_size: int | None = 1,
        output_type: str = "pil",
    ) -> None:
        """Raise an error that names the argument, the value and the fix, before any work is done."""
        check_tile(tile, self.facts.tile_rules)
        check_denoise(denoise, {"noise_gain": self.facts.adaptive})
        check_batch_size(batch_size)
        if output_type == "pt":
            raise ValueError("output_type='pt' needs a pipeline of PyTorch: use 'pil' or 'np'")
        check_output(output_type, rescale)

    def _noise_level(self, images: Sequence[np.ndarray], denoise: float | Literal["auto"]) -> np.ndarray | None:
        """Standard deviation of the noise of visible and infrared, `(N, 2)`; None where the network has no use."""
        if not self.facts.adaptive:
            return None
        if denoise != "auto":
            return np.full((len(images[0]), 2), denoise * STRONGEST_NOISE, dtype=np.float32)
        # Of the whole pictures, without padding.
        return np.array([[estimate_noise(one[0]) for one in pair] for pair in zip(*images, strict=True)], np.float32)

    def _fuse(
        self, visible: np.ndarray, infrared: np.ndarray, noise_level: np.ndarray | None, tile: int | None
    ) -> np.ndarray:
        """`(N, 1, H, W)` fused, whole or in tiles, not clamped."""
        extra = {} if noise_level is None else {"noise_level": noise_level}

        def run(seen: np.ndarray, warm: np.ndarray, window: Window) -> np.ndarray:
            planes = {"visible": np.ascontiguousarray(seen), "infrared": np.ascontiguousarray(warm)}
            return self._session.run(["fused"], planes | extra)[0]

        rules = self.facts.tile_rules
        seen, size = pad_to_multiple(visible, self.facts.multiple)
        warm, _ = pad_to_multiple(infrared, self.facts.multiple)
        height, width = seen.shape[-2:]
        side, overlap = rules.choose(height, width, tile)
        if side == 0:
            return crop_to(run(seen, warm, Window(0, 0, height, width)), size)
        margin, grid = rules.margin(side, overlap), rules.geometry.grid
        return crop_to(run_tiled(run, seen, warm, tile=side, overlap=overlap, multiple=grid, margin=margin), size)


def find_file(path_or_name: str | os.PathLike[str]) -> Path:
    """The ONNX file of a path or name. Raises `FileNotFoundError` where a checkpoint has none."""
    path = Path(path_or_name).expanduser()
    if path.suffix == ".onnx":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}: give one that fusion-hub export wrote")
        return path
    file = locate(path_or_name, onnx=True) / FILE
    if not file.is_file():
        output = "" if resolve(os.fspath(path_or_name)) or path.is_dir() else f" --output {FILE} and give this file"
        raise FileNotFoundError(
            f"{path_or_name} has no {FILE}: make it with fusion-hub export {path_or_name} --to onnx{output}, or use a "
            "pipeline"
        )
    return file


def _open(file: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("FusionSession needs ONNX Runtime: pip install 'fusion-hub[onnx]'") from error
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise ValueError(f"threads={threads!r} must be a whole number of at least 1, or None for one for each core")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
    options.log_severity_level = 3  # errors only
    # Sizes change from picture to picture: a pattern of memory for each would hold the most of all of them.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base but Exception
        raise OSError(f"{file} is damaged, or needs a newer ONNX Runtime: export it again, or upgrade") from error
