"""Checkpoints: a folder of safetensors, JSON and YAML from which a run goes on exactly, to the bit.

    step_000123/
        model/            the weights as they are, a folder for the network's `from_pretrained`
        ema/              the averaged weights, likewise
        extra.safetensors tensors of the training module that are not the model's, if it has any
        optimizer.safetensors   AdamW's moments, `<parameter>:<moment>`
        state.json        step, samples, seed, seconds, and the size of every other file
        config.yaml       the resolved configuration

No generator states are kept, because there are none: every random number is a function of the seed and the step or
sample number. A checkpoint is written aside and renamed, so a name without `.partial` is a whole checkpoint, unless the
machine lost power; the sizes in `state.json` tell then.
"""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion_hub.training.config import ConfigError, differences, load_config, save_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Network: TypeAlias = Union[ModelMixin, "PreTrainedModel"]

_NAME = re.compile(r"step_(\d{6,})")
_EXTRA, _OPTIMIZER, _STATE, _CONFIG = "extra.safetensors", "optimizer.safetensors", "state.json", "config.yaml"
_TRANSFORMERS_WEIGHTS = "model.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another model or configuration; the message says which."""


@dataclass
class TrainingState:
    """All tensors of a run; saving reads them, loading writes them in place.

    Attributes:
        model: the network.
        module: the training module (not wrapped), which holds the model and perhaps tensors of its own.
        ema: averaged `model.parameters()`, in their order.
        optimizer: AdamW over `module.parameters()`.
    """

    model: Network
    module: nn.Module
    ema: Sequence[Tensor]
    optimizer: torch.optim.Optimizer

    @property
    def weights_name(self) -> str:
        """Name of the weights' file that the network's own library looks for."""
        return SAFETENSORS_WEIGHTS_NAME if isinstance(self.model, ModelMixin) else _TRANSFORMERS_WEIGHTS

    def save_model_config(self, folder: Path) -> None:
        """`config.json`, as that library writes it."""
        if isinstance(self.model, ModelMixin):
            self.model.save_config(folder)
        else:
            self.model.config.save_pretrained(folder)

    def extra_tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the training module that are not the model's."""
        of_model = {id(tensor) for tensor in self.model.state_dict(keep_vars=True).values()}
        tensors = self.module.state_dict(keep_vars=True)
        return {name: tensor.detach() for name, tensor in tensors.items() if id(tensor) not in of_model}

    def ema_tensors(self) -> dict[str, Tensor]:
        """A state dict with averaged parameters, tied ones under all of their names; buffers are the model's own."""
        averaged = {id(tensor): mean for tensor, mean in zip(self.model.parameters(), self.ema, strict=True)}
        state = self.model.state_dict(keep_vars=True)
        return {name: averaged.get(id(tensor), tensor.detach()) for name, tensor in state.items()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as a flat dictionary. A parameter that never had a gradient has none."""
        return {
            f"{name}:{key}": tensor
            for name, parameter in self.module.named_parameters()
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
        }


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints in a run folder, oldest first. Damaged ones are passed over with a warning."""
    found = []
    for folder in output_dir.iterdir() if output_dir.is_dir() else ():
        if (match := _NAME.fullmatch(folder.name)) and folder.is_dir():
            if damage := _damage(folder):
                warnings.warn(f"checkpoint {folder} is damaged ({damage}) and is passed over", stacklevel=2)
            else:
                found.append((int(match[1]), folder))
    return [folder for _, folder in sorted(found)]


def choose_checkpoint(output_dir: Path, resume: str, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that `resume` (see `TrainingConfig.resume`) stands for, or None to start anew.

    Raises:
        ConfigError: `auto` and another config; `latest` and no checkpoint; checkpoints in `output_dir` which this run
            would write once more.
        CheckpointError: a path that is no checkpoint.
    """
    found = find_checkpoints(output_dir)
    chosen = found[-1] if found and resume in ("auto", "latest") else None
    if resume == "latest" and chosen is None:
        raise ConfigError(f"resume = latest, but {output_dir} has no checkpoint")
    if resume not in ("auto", "latest", "none"):
        chosen = Path(resume)
        if damage := _damage(chosen):
            raise CheckpointError(f"resume = {resume} is no checkpoint: {damage}")
    if chosen is not None and (changed := differences(config, checkpoint_config(chosen))):
        text = f"the config differs from that of {chosen}: " + "; ".join(changed)
        if resume == "auto":
            raise ConfigError(f"{text}. Choose another output_dir, or go on with the new values by --resume latest")
        warnings.warn(text, stacklevel=2)
    step = -1 if chosen is None else _step(chosen)
    same = None if chosen is None else chosen.resolve()
    if later := [folder for folder in found if _step(folder) >= step and folder.resolve() != same]:
        start = "anew" if chosen is None else f"from {chosen}"
        raise ConfigError(
            f"{later[0]} is in the way of a run that starts {start}: remove it or choose another output_dir"
        )
    return chosen


def save_checkpoint(
    output_dir: Path, state: TrainingState, progress: Mapping[str, Any], config: Mapping[str, Any], keep: int | None
) -> Path:
    """Write `output_dir/step_<step>` and remove all but the newest `keep` checkpoints.

    Args:
        progress: what `state.json` is to hold: `step` and other numbers.
        config: the resolved configuration.
    """
    folder = output_dir / f"step_{progress['step']:06d}"
    if not folder.is_dir() or _damage(folder):
        partial = output_dir / f"{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _write_checkpoint(partial, state, progress, config)
        except BaseException:  # what is left would only fill the disk
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    if keep is not None:
        for old in find_checkpoints(output_dir)[:-keep]:
            if old != folder:
                shutil.rmtree(old)
    return folder


def _write_checkpoint(
    folder: Path, state: TrainingState, progress: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    folder.mkdir(parents=True)
    for name, tensors in (("model", state.model.state_dict()), ("ema", state.ema_tensors())):
        state.save_model_config(folder / name)
        _save_tensors(tensors, folder / name / state.weights_name)
    _save_tensors(state.moments(), folder / _OPTIMIZER)
    if extra := state.extra_tensors():
        _save_tensors(extra, folder / _EXTRA)
    save_config(config, folder / _CONFIG)
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    text = json.dumps({**progress, "files": files}, indent=2, sort_keys=True) + "\n"
    (folder / _STATE).write_text(text, encoding="utf-8")


def load_checkpoint(folder: Path, state: TrainingState) -> dict[str, Any]:
    """Put a checkpoint into the tensors of a run, exactly, and return what `state.json` holds.

    Raises:
        CheckpointError: it is damaged, or its tensors are not those of this model.
    """
    if damage := _damage(folder):
        raise CheckpointError(f"checkpoint {folder}: {damage}. Give another one, or --resume latest")
    _copy(folder / "model" / state.weights_name, state.model.state_dict())
    _copy(folder / "ema" / state.weights_name, state.ema_tensors())
    if (extra := state.extra_tensors()) or (folder / _EXTRA).exists():
        _copy(folder / _EXTRA, extra)
    _load_moments(folder / _OPTIMIZER, state)
    return json.loads((folder / _STATE).read_text(encoding="utf-8"))


def checkpoint_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration with which a checkpoint was written."""
    try:
        return load_config(folder / _CONFIG)
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: {_CONFIG} cannot be read ({error.strerror})") from error


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # A clone each: safetensors wants contiguous tensors that share no memory, channels_last and tied weights do.
    clones = {n: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for n, tensor in tensors.items()}
    try:
        save_file(clones, path, metadata={"format": "pt"})  # transformers reads no file without it
    except SafetensorError as error:  # it hides the error of the disk in its text
        code = re.search(r"code: (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, "the weights cannot be written", str(path)) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _copy(path: Path, targets: Mapping[str, Tensor]) -> None:
    tensors = _read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    if shapes != wanted:
        wrong = sorted(name for name in {**shapes, **wanted} if shapes.get(name) != wanted.get(name))
        raise CheckpointError(
            f"{path} is of another model: {len(wrong)} tensors differ, the first is {wrong[0]}, "
            f"{shapes.get(wrong[0], 'absent')} in the file, {wanted.get(wrong[0], 'absent')} in the model"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def _load_moments(path: Path, state: TrainingState) -> None:
    tensors = _read_tensors(path)
    parameters = dict(state.module.named_parameters())
    state.optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(":")
        counts = moment == "step"  # AdamW counts each parameter's steps in a tensor, and wants that on the CPU
        if name not in parameters or not (counts or tensor.shape == parameters[name].shape):
            raise CheckpointError(f"{path} is of another model: it has {key} {tuple(tensor.shape)}")
        if not counts:  # with the parameter's device and memory format
            tensor = torch.empty_like(parameters[name], dtype=tensor.dtype).copy_(tensor)
        state.optimizer.state[parameters[name]][moment] = tensor


def _step(folder: Path) -> int:
    return int(json.loads((folder / _STATE).read_text(encoding="utf-8"))["step"])


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        files = json.loads((folder / _STATE).read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            if (there := (folder / name).stat().st_size) != size:
                return f"{name} has {there} of {size} bytes"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_STATE} cannot be read: {error}"
    return None
