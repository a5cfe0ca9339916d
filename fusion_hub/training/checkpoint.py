"""Checkpoints: a folder of safetensors, JSON and YAML from which a run resumes exactly, to the bit.

    step_000123/
        model/            the current weights, a folder for the network's `from_pretrained`
        ema/              the averaged weights, likewise
        extra.safetensors tensors of the training module that are not the model's, if it has any
        optimizer.safetensors   AdamW's moments, `<parameter>:<moment>`
        state.json        step, samples, seed, seconds, and the size of every other file
        config.yaml       the resolved configuration

There are no generator states to save: every random number is a function of the seed and the step or sample number.
A checkpoint is written aside and renamed, so a name without `.partial` is a whole checkpoint, unless the machine lost
power. The sizes in `state.json` reveal that.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion_hub.training.config import NEUTRAL_FIELDS, ConfigError, TrainingConfig, load_config, save_config, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Network: TypeAlias = Union[ModelMixin, "PreTrainedModel"]

_EXTRA, _OPTIMIZER, _STATE, _CONFIG = "extra.safetensors", "optimizer.safetensors", "state.json", "config.yaml"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another model or configuration; the message says which."""


@dataclass
class TrainingState:
    """All tensors of a run; saving reads them, loading writes them in place."""

    model: Network
    module: nn.Module  # the training module (not wrapped), which holds the model and may have more tensors
    ema: Sequence[Tensor]  # averaged `model.parameters()`, in their order
    optimizer: torch.optim.Optimizer  # AdamW over `module.parameters()`

    def tensor_files(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each file of a checkpoint, except for the optimizer's."""
        name = SAFETENSORS_WEIGHTS_NAME if isinstance(self.model, ModelMixin) else "model.safetensors"
        tensors = self.model.state_dict(keep_vars=True)
        averages = {id(tensor): mean for tensor, mean in zip(self.model.parameters(), self.ema, strict=True)}
        of_model = {id(tensor) for tensor in tensors.values()}
        extra = {n: t.detach() for n, t in self.module.state_dict(keep_vars=True).items() if id(t) not in of_model}
        return {
            f"model/{name}": {n: tensor.detach() for n, tensor in tensors.items()},
            # Tied parameters stand under all of their names; buffers are the model's own.
            f"ema/{name}": {n: averages.get(id(tensor), tensor.detach()) for n, tensor in tensors.items()},
            **({_EXTRA: extra} if extra else {}),
        }


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints in a run folder, oldest first. Damaged ones are skipped with a warning."""
    found = []
    for folder in output_dir.iterdir() if output_dir.is_dir() else ():
        if (match := re.fullmatch(r"step_(\d{6,})", folder.name)) and folder.is_dir():
            if damage := _damage(folder):
                warnings.warn(f"checkpoint {folder} is damaged ({damage}) and is skipped", stacklevel=2)
            else:
                found.append((int(match[1]), folder))
    return [folder for _, folder in sorted(found)]


def choose_checkpoint(output_dir: Path, resume: str, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that `TrainingConfig.resume` selects, or None for a new run.

    Raises:
        ConfigError: `auto` and another config; `latest` and no checkpoint; checkpoints or results in `output_dir` which
            this run would overwrite.
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
    step, start = -1, "from scratch"
    if chosen is not None:
        step, start = _read_state(chosen)["step"], f"from {chosen}"
        try:
            changed = _differences(config, load_config(chosen / _CONFIG))
        except OSError as error:
            raise CheckpointError(f"{chosen} is no checkpoint: {_CONFIG} cannot be read ({error.strerror})") from error
        if changed:
            text = f"{chosen} was trained with other values: {'; '.join(changed)}"
            if resume == "auto":
                raise ConfigError(
                    f"{text}. Choose another folder with --output_dir, or continue with the new values: --resume latest"
                )
            warnings.warn(text, stacklevel=2)
    if not found and (changed := _changed_results(output_dir, config)):
        raise ConfigError(
            f"{output_dir} has results of another training: {'; '.join(changed)}. Choose another folder with "
            "--output_dir, or remove it"
        )
    for folder in found:
        if _read_state(folder)["step"] >= step and not (chosen and folder.samefile(chosen)):
            text = f"{folder} is in the way of a run that starts {start}"
            raise ConfigError(f"{text}: remove it or choose another output_dir")
    return chosen


def _changed_results(output_dir: Path, config: Mapping[str, Any]) -> list[str]:
    """How the config of a run folder with results, but without checkpoints, differs from this one."""
    logged = output_dir / "metrics.jsonl"
    if not (output_dir / "pipeline").exists() and not (logged.is_file() and logged.stat().st_size):
        return []
    return _differences(config, load_config(output_dir / _CONFIG)) if (output_dir / _CONFIG).is_file() else []


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Readable lines with the values that a resumed run would change, apart from `NEUTRAL_FIELDS`.

    A field of `TrainingConfig` that did not exist when `old` was written had its default.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(TrainingConfig)}
    pairs = {key: (old.get(key, defaults.get(key, "(absent)")), new.get(key, "(absent)")) for key in {**old, **new}}
    return [
        f"{key} was {shown(before)} and is now {shown(now)}"
        for key, (before, now) in pairs.items()
        if key not in NEUTRAL_FIELDS and before != now
    ]


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder `<target>.partial` to write to; it replaces `target` when the block ends without an error."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException:  # the remains would only fill the disk
        shutil.rmtree(partial, ignore_errors=True)
        raise


def save_checkpoint(
    output_dir: Path, state: TrainingState, progress: Mapping[str, Any], config: Mapping[str, Any], keep: int | None
) -> Path:
    """Write `output_dir/step_<step>` and remove all but the newest `keep` checkpoints.

    `progress`, with `step` and other numbers, goes into `state.json`, `config` into `config.yaml`.
    """
    target = output_dir / f"step_{progress['step']:06d}"
    if not target.is_dir() or _damage(target):
        with whole_folder(target) as folder:
            for name, tensors in state.tensor_files().items():
                (folder / name).parent.mkdir(exist_ok=True)
                _save_tensors(tensors, folder / name)
            for part in (folder / "model", folder / "ema"):
                if isinstance(state.model, ModelMixin):
                    state.model.save_config(part)
                else:
                    state.model.config.save_pretrained(part)
            moments = {  # a parameter that never had a gradient has none
                f"{name}:{key}": tensor
                for name, parameter in state.module.named_parameters()
                for key, tensor in state.optimizer.state.get(parameter, {}).items()
            }
            _save_tensors(moments, folder / _OPTIMIZER)
            save_config(config, folder / _CONFIG)
            files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
            text = json.dumps({**progress, "files": files}, indent=2, sort_keys=True) + "\n"
            (folder / _STATE).write_text(text, encoding="utf-8")
    for old in [] if keep is None else find_checkpoints(output_dir)[:-keep]:
        if old != target:
            shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path, state: TrainingState) -> dict[str, Any]:
    """Copy a checkpoint into the tensors of a run, exactly, and return the contents of `state.json`.

    Raises:
        CheckpointError: it is damaged, or its tensors are not those of this model.
    """
    if damage := _damage(folder):
        raise CheckpointError(f"checkpoint {folder}: {damage}. Choose another one, or --resume latest")
    files = state.tensor_files()
    if (folder / _EXTRA).exists():
        files.setdefault(_EXTRA, {})
    for name, targets in files.items():
        _copy(folder / name, targets)
    _load_moments(folder / _OPTIMIZER, state)
    return _read_state(folder)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Clone each: safetensors needs contiguous tensors that share no memory, unlike channels_last and tied weights.
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
    if wrong := sorted(name for name in {**shapes, **wanted} if shapes.get(name) != wanted.get(name)):
        raise CheckpointError(
            f"{path} is of another model: {len(wrong)} tensors differ, the first is {wrong[0]}, "
            f"{shapes.get(wrong[0], 'absent')} in the file, {wanted.get(wrong[0], 'absent')} in the model"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def _load_moments(path: Path, state: TrainingState) -> None:
    parameters = dict(state.module.named_parameters())
    state.optimizer.state.clear()
    for key, tensor in _read_tensors(path).items():
        name, _, moment = key.rpartition(":")
        counts = moment == "step"  # AdamW counts each parameter's steps in a tensor on the CPU
        if name not in parameters or not (counts or tensor.shape == parameters[name].shape):
            raise CheckpointError(f"{path} is of another model: it has {key} {tuple(tensor.shape)}")
        if not counts:  # with the parameter's device and memory format
            tensor = torch.empty_like(parameters[name], dtype=tensor.dtype).copy_(tensor)
        state.optimizer.state[parameters[name]][moment] = tensor


def _read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _STATE).read_text(encoding="utf-8"))


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        for name, size in _read_state(folder)["files"].items():
            if (actual := (folder / name).stat().st_size) != size:
                return f"{name} has {actual} of {size} bytes"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_STATE} cannot be read: {error}"
    return None
