"""The configuration of a training run: frozen dataclasses, values from a YAML file, overridden by flags.

`TrainingConfig` holds what every run has; a task adds a dataclass of its own. Both are flat and share one set of names,
so that a key in the file and a flag on the command line are the same word:

    accelerate launch train/difffusenet.py --config train/configs/difffusenet_msrs.yaml --learning_rate 5e-4
"""

import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

from fusion_hub.image.luminance import parse_range

if TYPE_CHECKING:
    from fusion_hub.data import CropSource

DATA_ROOT_VARIABLE = "FUSION_HUB_DATA"
DATA_ROOT_DEFAULT = "../shared"

# Fields that a resumed run may change: where and how it runs, what it reports. All others change what is learnt.
NEUTRAL_FIELDS = {
    "output_dir",
    "resume",
    "num_workers",
    "preload",
    "num_processes",
    "gradient_accumulation_steps",
    "channels_last",
    "compile",
    "tracker",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "validation_sources",
    "validation_pairs",
    "validation_metrics",
    "test_sources",
    "cache_dir",
}

_COUNT, _AMOUNT, _FRACTION = (1, math.inf), (0, math.inf), (0, 1)
_LIMITS: dict[str, tuple[float, float]] = {
    "max_steps": _COUNT,
    "num_processes": _COUNT,
    "batch_size": _COUNT,
    "crop_size": _COUNT,
    "late_batch_size": _COUNT,
    "late_crop_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "log_every": _COUNT,
    "checkpoint_every": _COUNT,
    "keep_checkpoints": _COUNT,
    "validate_every": _COUNT,
    "seed": _AMOUNT,
    "num_workers": _AMOUNT,
    "warmup_steps": _AMOUNT,
    "learning_rate": _AMOUNT,
    "weight_decay": _AMOUNT,
    "validation_pairs": _AMOUNT,
    "min_std": _AMOUNT,
    "late_fraction": _FRACTION,
    "final_lr_fraction": _FRACTION,
    "adam_beta1": _FRACTION,
    "adam_beta2": _FRACTION,
    "ema_decay": _FRACTION,
    "swap_probability": _FRACTION,
    "gain_jitter": _FRACTION,
    "smallest_scale": (0.01, 1),
    "largest_scale": (1, 100),
    "gamma_jitter": (0, 3),
    "rare_class_crops": _FRACTION,
    "classifier_dropout": _FRACTION,
    "drop_path": _FRACTION,
    "class_weight_power": _FRACTION,
    "cross_entropy": _AMOUNT,
    "lovasz": _AMOUNT,
    "max_grad_norm": (1e-12, math.inf),  # .inf in YAML: no clipping
}


class ConfigError(ValueError):
    """A wrong key or value in a configuration; the message names it and says what to do."""


def option(help: str, default: Any) -> Any:
    """A dataclass field whose text is shown by `--help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Source:
    """One paired set to draw from: `fusion_hub.data.CropSource` in words that a file can hold.

    In `path` and `exclude`, `${FUSION_HUB_DATA}` stands for the data folder (the environment variable of that name,
    else `../shared`); it stays as it is in saved configs, so that they hold no place of one machine.

    Attributes:
        path: what `PairedDataset.open` takes: a folder, a Hub dataset id, `generated`.
        split: `train`, `test` ..., where there are several.
        weight: how often a sample comes from this set, relative to the others. None: its number of pairs.
        exclude: CSV file with the columns dataset and name: pairs to leave out, for example those of a benchmark.
        dataset: the name of this set in that file. None: any part of `path`.
        infrared_range, visible_range: what is black and white: auto, dtype, minmax, percentile, or two values
            "LOW,HIGH"; as in the pipelines.
    """

    path: str
    split: str | None = None
    weight: float | None = None
    exclude: str | None = None
    dataset: str | None = None
    infrared_range: str | None = None
    visible_range: str | None = None

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | Source") -> "Source":
        """From a YAML mapping, the same as text (`'{path: a, weight: 2}'` on the command line), or a path alone."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            # `${...}` at the start is a path, not a mapping.
            value = _load_yaml(value, f"source {value!r}") if value.lstrip().startswith("{") else {"path": value}
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(value, Mapping) or not value.get("path"):
            raise ConfigError(f"a source is a path or a mapping {{{', '.join(names)}}} with a path; got {value!r}")
        _reject_unknown(value, names, "key of a source")
        values = {name: None if given is None else str(given) for name, given in value.items()}
        for name in ("infrared_range", "visible_range"):
            if isinstance(value.get(name), list | tuple):
                values[name] = ",".join(map(str, value[name]))
            try:
                if (text := values.get(name)) is not None:
                    parse_range(text, name)
            except ValueError as error:
                raise ConfigError(f"source {value['path']}: {error}") from error
        if (weight := values.pop("weight", None)) is None:
            return cls(**values)  # type: ignore[arg-type]
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ConfigError(f"source {value['path']}: weight must be a number above 0, got {weight}")
        return cls(weight=number, **values)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """A short name for logs."""
        return self.dataset or "/".join([*Path(self.path).parts[-2:], *([self.split] if self.split else [])])

    def resolve(self) -> "CropSource":
        """The set with all variables replaced. Raises `ConfigError` for one that is not set."""
        from fusion_hub.data import CropSource

        exclude = None if self.exclude is None else expand_variables(self.exclude)
        ranges = [
            None if text is None else parse_range(text, name)
            for name, text in (("infrared_range", self.infrared_range), ("visible_range", self.visible_range))
        ]
        return CropSource(expand_variables(self.path), self.split, self.weight, exclude, self.dataset, *ranges)


@contextlib.contextmanager
def missing_data_explained() -> Iterator[None]:
    """Inside, a file or folder of a source that is not there becomes a `ConfigError` that says how to get data."""
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigError(
            f"training data is missing ({error}): set {DATA_ROOT_VARIABLE} to the folder that has the sets of the "
            "configuration in data/, or give a folder with vis/ and ir/ or a Hub dataset id with --data, or train on "
            "drawn scenes with --data generated"
        ) from error


def expand_variables(path: str) -> str:
    """Replace each `${NAME}` by the environment variable; `FUSION_HUB_DATA` is `../shared` where it is not set."""

    def replace(match: re.Match[str]) -> str:
        value = os.environ.get(match[1], DATA_ROOT_DEFAULT if match[1] == DATA_ROOT_VARIABLE else None)
        if value is None:
            raise ConfigError(f"{path}: the environment variable {match[1]} is not set")
        return value

    return re.sub(r"\$\{(\w+)\}", replace, path)


@dataclass(frozen=True)
class TrainingConfig:
    """What every training run has. `__post_init__` raises `ConfigError` for values that cannot be meant."""

    # --- the run
    output_dir: str = option("folder for checkpoints, logs and the final pipeline", "runs/default")
    resume: str = option(
        "auto: go on from the newest checkpoint in output_dir, if any, with an equal config; latest, or the path of a "
        "checkpoint: go on from there, with this config; none: start anew, in an output_dir without checkpoints",
        "auto",
    )
    seed: int = option("every random number follows from it and the step or sample number", 0)
    max_steps: int = option("optimiser steps", 10_000)
    num_processes: int = option("processes that the launcher is to start; a different number is an error", 1)

    # --- data
    sources: list[Source] = field(
        default_factory=list, metadata={"help": "paired sets: paths or {path, split, weight, exclude}"}
    )
    batch_size: int = option("samples for one optimiser step, over all processes and accumulated batches", 16)
    crop_size: int = option("side of the square crops, pixels", 128)
    late_fraction: float = option("last part of the steps, 0 to 1, that uses the late_ values", 0.0)
    late_batch_size: int | None = option("batch_size of the late part; empty: as before", None)
    late_crop_size: int | None = option("crop_size of the late part; empty: as before", None)
    gradient_accumulation_steps: int = option("parts in which each process computes its share of a batch", 1)
    num_workers: int = option("data loading processes for each training process", 0)
    preload: bool = option("read all training pairs into memory before the first step", False)
    min_std: float = option("crops with less contrast than this (range 0 to 1) in a picture are drawn again", 4 / 255)
    smallest_scale: float = option("scenes are shrunk by a random factor between this and 1", 1.0)
    swap_probability: float = option("how often visible and infrared change places", 0.0)
    gain_jitter: float = option("each picture is multiplied by a factor from 1 - this to 1 + this", 0.0)

    # --- optimiser: AdamW, linear warm-up, cosine decay
    learning_rate: float = option("at the end of the warm-up", 1e-3)
    warmup_steps: int = option("steps of linear warm-up", 100)
    final_lr_fraction: float = option("learning rate at the last step, as a part of learning_rate", 0.02)
    weight_decay: float = option("AdamW's; only for tensors with two or more dimensions", 1e-2)
    adam_beta1: float = option("AdamW's first beta", 0.9)
    adam_beta2: float = option("AdamW's second beta", 0.99)
    max_grad_norm: float = option("gradients are scaled down to this norm", 1.0)
    ema_decay: float = option("decay of the averaged weights; min(this, (1 + n) / (10 + n)) at step n", 0.999)

    # --- numerics
    precision: str = option("fp32, or bf16: autocast, with weights and optimiser in fp32", "fp32")
    channels_last: bool = option("weights in channels_last memory format", False)
    compile: bool = option("torch.compile the training module", False)

    # --- what is written, and when
    checkpoint_every: int = option("steps between checkpoints", 1000)
    keep_checkpoints: int | None = option("newest checkpoints that stay; empty: all", 3)
    validate_every: int | None = option("steps between validations; empty: only at the end", 1000)
    validation_sources: list[Source] = field(
        default_factory=list, metadata={"help": "paired sets for validation: full-size pairs"}
    )
    validation_pairs: int = option("pairs from each validation source, evenly spaced", 4)
    validation_metrics: list[str] = field(
        default_factory=lambda: ["EN", "SF", "SCD", "VIF", "Qabf"], metadata={"help": "names in fusion_hub.metrics"}
    )
    log_every: int = option("steps over which losses are averaged for the log", 50)
    tracker: str = option("tensorboard or none", "tensorboard")

    def __post_init__(self) -> None:
        for name in ("sources", "validation_sources"):
            object.__setattr__(self, name, [Source.parse(source) for source in getattr(self, name)])
        for name in (f.name for f in dataclasses.fields(self)):
            value, least, most = getattr(self, name), *_LIMITS.get(name, (-math.inf, math.inf))
            infinite = value == math.inf and name != "max_grad_norm"
            if isinstance(value, int | float) and (infinite or not least <= value <= most):
                limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
                raise ConfigError(f"{name} must be {limits}, got {value}")
        if self.precision not in ("fp32", "bf16"):
            hint = ": on a CPU it silently does nothing, and bf16 needs no loss scaling" * (self.precision == "fp16")
            raise ConfigError(f"precision must be fp32 or bf16, got {self.precision}{hint}")
        if self.tracker not in ("tensorboard", "none"):
            raise ConfigError(f"tracker must be tensorboard or none, got {self.tracker}")
        parts = self.num_processes * self.gradient_accumulation_steps
        for name in ("batch_size", "late_batch_size"):
            if (getattr(self, name) or 0) % parts:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} cannot be split evenly into num_processes x "
                    f"gradient_accumulation_steps = {self.num_processes} x {self.gradient_accumulation_steps} parts"
                )

    def batch_and_crop(self, step: int) -> tuple[int, int]:
        """Samples and crop side of the optimiser step `step`, which counts from 0."""
        if step < self.late_start:
            return self.batch_size, self.crop_size
        return self.late_batch_size or self.batch_size, self.late_crop_size or self.crop_size

    @property
    def late_start(self) -> int:
        """First step that uses the late values."""
        return self.max_steps - round(self.late_fraction * self.max_steps)

    def samples_before(self, step: int) -> int:
        """Samples used in the steps before `step`: the number of its first sample."""
        late = max(0, step - self.late_start)
        return (step - late) * self.batch_size + late * (self.late_batch_size or self.batch_size)


def parse_config(
    dataclass_types: Sequence[type], argv: Sequence[str] | None = None, default_config: Path | None = None
) -> tuple[Any, ...]:
    """One instance of each dataclass, from `--config file.yaml` (if given) and flags, which win.

    Values in the file are converted as flags are, so `1e-4`, which YAML takes for text, is a number here. A list
    replaces the list in the file as a whole. `--data SET` is short for `--sources SET --validation_sources SET`.

    Args:
        dataclass_types: such as `(TrainingConfig, MyTaskConfig)`; they share one set of names.
        argv: arguments without the programme's name; the default is the command line's.
        default_config: the file where `--config` is not given; None: the defaults of the dataclasses.

    Raises:
        ConfigError: an unknown key or flag (the nearest known one is named), or a value of the wrong kind.
    """
    try:
        from transformers import HfArgumentParser
    except ImportError as error:
        raise ImportError('training needs more packages: pip install "fusion-hub[train]"') from error

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:  # argparse would print and exit
            raise ConfigError(message)

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(list(dataclass_types), allow_abbrev=False)  # type: ignore[arg-type]
    parser.register("type", Source, _source_argument)
    parser.add_argument("--config", help="YAML file with values for the options here", default=default_config)
    parser.add_argument(
        "--data", help="one paired set in place of all sources: a folder, a Hub dataset id, or generated (drawn scenes)"
    )
    names = [f.name for dataclass_type in dataclass_types for f in dataclasses.fields(dataclass_type)]

    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", default=default_config)
    before.add_argument("--data")
    early = before.parse_known_args(arguments)[0]
    config_file = early.config
    if early.data is not None and "sources" in names:
        arguments += ["--sources", early.data, "--validation_sources", early.data]
    from_file: list[str] = []
    if config_file is not None:
        for key, value in _read_config_file(Path(config_file), names).items():
            if value is None or value == []:
                parser.set_defaults(**{key: value})  # argparse has no way to write these
            else:
                from_file += _as_flags(key, value)
    *configs, _, unknown = parser.parse_args_into_dataclasses(
        [*from_file, *arguments], return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        first = unknown[0].split("=")[0]
        if not first.startswith("--"):
            raise ConfigError(f"{unknown[0]!r} belongs to no flag: flags are written --name value")
        _reject_unknown([first.lstrip("-").replace("-", "_")], [*names, "config", "data"], "flag")
    _reject_empty(configs)
    return tuple(configs)


def resolved(*configs: Any) -> dict[str, Any]:
    """All values of the configs as one flat dictionary of plain types; `save_config` writes it, `--config` reads it."""
    values: dict[str, Any] = {}
    for config in configs:
        values |= dataclasses.asdict(config)
    return values


def save_config(values: Mapping[str, Any], path: Path) -> None:
    """Write resolved values as YAML, in the order of the dataclasses' fields."""
    import yaml

    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_config(path: Path) -> dict[str, Any]:
    """Read what `save_config` wrote."""
    return _load_yaml(path.read_text(encoding="utf-8"), str(path))


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What a resumed run would change against its checkpoint, as readable lines; `NEUTRAL_FIELDS` do not count."""
    absent = object()
    return [
        f"{key}: {old.get(key, '(absent)')} in the checkpoint, {new.get(key, '(absent)')} now"
        for key in {**old, **new}
        if key not in NEUTRAL_FIELDS and old.get(key, absent) != new.get(key, absent)
    ]


def _read_config_file(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror})") from error
    values = _load_yaml(text, f"--config {path}")
    _reject_unknown(values, names, f"key in {path}")
    return values


def _load_yaml(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold `key: value` lines, but holds {type(values).__name__}")
    return values


def _source_argument(text: str) -> Source:
    try:
        return Source.parse(text)
    except ConfigError as error:  # argparse would drop the text of a ValueError
        raise argparse.ArgumentTypeError(str(error)) from error


def _as_flags(key: str, value: Any) -> list[str]:
    """`key: value` of a file as arguments for argparse; a mapping stays YAML (JSON is a part of it)."""
    import json

    if isinstance(value, list):
        return [f"--{key}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    return [f"--{key}={value}"]  # one word, so that a negative number is not taken for a flag


def _reject_unknown(given: Any, known: Sequence[str], kind: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown {kind} {key!r}: {advice}")


def _reject_empty(configs: Sequence[Any]) -> None:
    """An empty value (`key:` in YAML) is only right where the field may be None."""
    for config in configs:
        for name, kind in get_type_hints(type(config)).items():
            if getattr(config, name) is None and type(None) not in get_args(kind):
                raise ConfigError(f"{name} is empty: give a value or leave the line out")
