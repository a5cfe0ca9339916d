"""The configuration of a training run: frozen dataclasses, values from a YAML file, overridden by flags.

`TrainingConfig` has the options of every run; a task adds its own dataclass. Both are flat and share one set of names:
a key in the file and a flag on the command line are the same word.

    fusion-hub train difffusenet --config difffusenet_msrs --learning_rate 5e-4
"""

import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml

from fusion_hub import data
from fusion_hub.data.degradations import KINDS, check_kinds
from fusion_hub.image.luminance import ValueRange, parse_range

DATA_ROOT_VARIABLE = "FUSION_HUB_DATA"
DATA_ROOT_DEFAULT = "../shared"

_RANGES = ("infrared_range", "visible_range")  # flags that set a key of all sources

# Fields that a resumed run may change: where and how it runs, what it reports. All others change what is learned.
NEUTRAL_FIELDS = {
    "output_dir", "resume", "num_workers", "preload", "num_processes", "gradient_accumulation_steps", "channels_last",
    "compile", "tracker", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_sources",
    "validation_pairs", "validation_metrics", "test_sources", "cache_dir",
}  # fmt: skip


class ConfigError(ValueError):
    """A wrong key or value in a configuration; the message names it and says what to do."""


def option(
    help: str,
    default: Any,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Iterable[str] | None = None,
    group: str | None = None,
) -> Any:
    """A dataclass field with the text of `--help`, and limits or choices that `check_options` enforces.

    `group` is the heading of this field and of those that follow it, in `--help`.
    """
    metadata = {"help": help, "limits": (low, high), "choices": choices, "group": group}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_options(config: Any) -> None:
    """Raise `ConfigError` for the first value outside the limits or choices of its `option`."""
    for item in dataclasses.fields(config):
        value, choices = getattr(config, item.name), item.metadata.get("choices")
        low, high = item.metadata.get("limits", (-math.inf, math.inf))
        if choices is not None and value not in choices:
            raise ConfigError(f"{item.name} must be one of {', '.join(choices)}, got {value}")
        infinite = value == math.inf and item.name != "max_grad_norm"  # there it means no clipping
        if isinstance(value, int | float) and (infinite or not low <= value <= high):
            limits = f"{low} or more" if high == math.inf else f"between {low} and {high}"
            raise ConfigError(f"{item.name} must be {limits}, got {value}")


@dataclass(frozen=True)
class Source:
    """One paired set to sample from: `fusion_hub.data.CropSource`, which see, as a configuration file holds it.

    `path` is what `PairedDataset.open` takes: a folder, a Hub dataset id, `generated`. A range is auto, dtype, minmax,
    percentile, or two values "LOW,HIGH". `path` and `exclude` may contain environment variables, see
    `expand_variables`. Saved configs keep them as they are, so they contain no paths of one machine.
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
        if isinstance(value, str):  # `${...}` at the start is a path, not a mapping
            value = _load_yaml(value, f"source {value!r}") if value.lstrip().startswith("{") else {"path": value}
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(value, Mapping) or not value.get("path"):
            raise ConfigError(f"a source is a path or a mapping {{{', '.join(names)}}} with a path; got {value!r}")
        _reject_unknown(value, names, "key of a source")
        where = f"source {value['path']}"
        values: dict[str, Any] = {name: None if given is None else str(given) for name, given in value.items()}
        for name in ("infrared_range", "visible_range"):
            if isinstance(given := value.get(name), list | tuple):
                values[name] = ",".join(map(str, given))
            try:
                _range(values.get(name), name)
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from error
        if (weight := values.get("weight")) is not None:
            values["weight"] = _convert(f"{where}: weight", float, weight)
            if not 0 < values["weight"] < math.inf:
                raise ConfigError(f"{where}: weight must be a number above 0, got {weight}")
        return cls(**values)

    @property
    def label(self) -> str:
        """A short name for logs."""
        return self.dataset or "/".join([*Path(self.path).parts[-2:], *([self.split] if self.split else [])])

    def resolve(self) -> "data.CropSource":
        """The set with all variables replaced. Raises `ConfigError` for one that is not set."""
        return data.CropSource(
            expand_variables(self.path),
            self.split,
            self.weight,
            self.exclude and expand_variables(self.exclude),
            self.dataset,
            _range(self.infrared_range, "infrared_range"),
            _range(self.visible_range, "visible_range"),
        )


def _range(text: str | None, name: str) -> ValueRange | None:
    return None if text is None else parse_range(text, name)


@contextlib.contextmanager
def missing_data_explained(*sources: Source) -> Iterator[None]:
    """Turn a missing file or folder of sources into a `ConfigError`; those of the configurations need more words."""
    try:
        yield
    except FileNotFoundError as error:
        if not any("${" in source.path for source in sources):
            raise ConfigError(f"{error}, or generated") from error
        raise ConfigError(
            f"training data is missing ({error}): set {DATA_ROOT_VARIABLE} to the folder whose data/ has the sets of "
            "the configuration, or give a folder with vis/ and ir/ or a Hub dataset id with --data, or train on "
            "generated scenes with --data generated"
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
    """Options of every training run. `__post_init__` raises `ConfigError` for values that make no sense."""

    output_dir: str = option("folder for checkpoints, logs and the final pipeline", "runs/default", group="run")
    resume: str = option(
        "auto: resume from the newest checkpoint in output_dir, if any, with an equal config; latest, or the path of a "
        "checkpoint: resume from it with this config; none: start a new run, in an output_dir without checkpoints",
        "auto",
    )
    seed: int = option("every random number follows from it and the step or sample number", 0, 0)
    max_steps: int = option("optimizer steps", 10_000, 1)
    num_processes: int = option("processes on this machine; fusion-hub train starts them", 1, 1)

    sources: list[Source] = option(
        "paired sets: paths, or {path: P, split: S, weight: W, exclude: FILE}", [], group="data"
    )
    batch_size: int = option("samples for one optimizer step, over all processes and accumulated batches", 16, 1)
    crop_size: int = option("side of the square crops, pixels", 128, 1)
    late_fraction: float = option("last part of the steps, 0 to 1, that uses the late_ values", 0.0, 0, 1)
    late_batch_size: int | None = option("batch_size of the late part; empty: unchanged", None, 1)
    late_crop_size: int | None = option("crop_size of the late part; empty: unchanged", None, 1)
    gradient_accumulation_steps: int = option("parts in which each process computes its share of a batch", 1, 1)
    num_workers: int = option("data loading processes for each training process", 0, 0)
    preload: bool = option("read all training pairs into memory before the first step", False)
    min_std: float = option("redraw crops with less contrast than this (range 0 to 1) in a picture", 4 / 255, 0)
    smallest_scale: float = option("scenes are shrunk by a random factor between this and 1", 1.0, 0.01, 1)
    swap_probability: float = option("how often visible and infrared are swapped", 0.0, 0, 1)
    gain_jitter: float = option("each picture is multiplied by a factor from 1 - this to 1 + this", 0.0, 0, 1)
    degrade_probability: float = option("how often a fused pair gets noise, blur, haze or JPEG artifacts", 0.0, 0, 1)
    degradations: list[str] = option("the kinds of degradation to draw from", list(KINDS))

    learning_rate: float = option(
        "at the end of the warm-up", 1e-3, 0, group="optimizer: AdamW, linear warm-up, cosine decay"
    )
    warmup_steps: int = option("steps of linear warm-up", 100, 0)
    final_lr_fraction: float = option("learning rate at the last step, as a part of learning_rate", 0.02, 0, 1)
    weight_decay: float = option("AdamW's; only for tensors with two or more dimensions", 1e-2, 0)
    adam_beta1: float = option("AdamW's first beta", 0.9, 0, 1)
    adam_beta2: float = option("AdamW's second beta", 0.99, 0, 1)
    max_grad_norm: float = option("gradients are scaled down to this norm; .inf: no clipping", 1.0, 1e-12)
    ema_decay: float = option("decay of the averaged weights; min(this, (1 + n) / (10 + n)) at step n", 0.999, 0, 1)

    precision: str = option("fp32, or bf16: autocast, with weights and optimizer in fp32", "fp32", group="numerics")
    channels_last: bool = option("weights in channels_last memory format", False)
    compile: bool = option("torch.compile the training module", False)

    checkpoint_every: int = option("steps between checkpoints", 1000, 1, group="output")
    keep_checkpoints: int | None = option("number of newest checkpoints to keep; empty: all", 3, 1)
    validate_every: int | None = option("steps between validations; empty: only at the end", 1000, 1)
    validation_sources: list[Source] = option("paired sets for validation: full-size pairs", [])
    validation_pairs: int = option("pairs from each validation source, evenly spaced", 4, 0)
    validation_metrics: list[str] = option("names of metrics", ["EN", "SF", "SCD", "VIF", "Qabf"])
    log_every: int = option("steps over which losses are averaged for the log", 50, 1)
    tracker: str = option("tensorboard or none", "tensorboard", choices=("tensorboard", "none"))

    def __post_init__(self) -> None:
        for name in ("sources", "validation_sources"):
            object.__setattr__(self, name, [Source.parse(source) for source in getattr(self, name)])
        check_options(self)
        try:
            check_kinds(self.degradations)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.precision not in ("fp32", "bf16"):
            hint = ": on a CPU it silently does nothing, and bf16 needs no loss scaling" * (self.precision == "fp16")
            raise ConfigError(f"precision must be fp32 or bf16, got {self.precision}{hint}")
        parts = self.num_processes * self.gradient_accumulation_steps
        for name in ("batch_size", "late_batch_size"):
            if (getattr(self, name) or 0) % parts:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} cannot be split evenly into num_processes x "
                    f"gradient_accumulation_steps = {self.num_processes} x {self.gradient_accumulation_steps} parts"
                )

    @property
    def late_start(self) -> int:
        """First step that uses the late values."""
        return self.max_steps - round(self.late_fraction * self.max_steps)

    def samples_before(self, step: int) -> int:
        """Samples used in the steps before `step`: the number of its first sample."""
        late = max(0, step - self.late_start)
        return (step - late) * self.batch_size + late * (self.late_batch_size or self.batch_size)


_INSTALLED = Path(__file__).parent / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "train" / "configs"
"""The bundled configurations: beside this file in an installed package, in `train/` of a checkout."""


def find_config(name: str, prefix: str = "") -> Path:
    """A configuration file, by its path or by the name of a bundled one; `prefix` is that of the names to offer.

    Raises:
        ConfigError: it is neither; the message lists the names.
    """
    if Path(name).is_file():
        return Path(name)
    bundled = {file.stem: file for file in sorted(CONFIGS.glob(f"{prefix}*.yaml"))}
    if name.removesuffix(".yaml") not in bundled:
        raise ConfigError(
            f"--config {name} is neither a file nor a bundled configuration: choose among {', '.join(bundled)}, or "
            "give the path of a YAML file"
        )
    return bundled[name.removesuffix(".yaml")]


def shown(value: Any) -> str:
    """A value of a configuration as people read it."""
    if isinstance(value, Mapping):
        given = {key: item for key, item in value.items() if item is not None}
        return (
            str(value["path"])
            if list(given) == ["path"]
            else yaml.safe_dump(given, width=1e9, sort_keys=False, default_flow_style=True).strip()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "empty"
    return "empty" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # argparse would print and exit
        flag = re.match(r"argument (--\w+)\S*: expected ", message)
        raise ConfigError(f"{flag[1]} needs a value" if flag else message.removeprefix("argument "))


class _Switch(argparse.Action):
    """`--flag`, `--no_flag`, or `--flag true`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        off = option_string.startswith(("--no_", "--no-"))
        if off and values is not None:
            raise ConfigError(f"{option_string} takes no value, got {values!r}")
        setattr(namespace, self.dest, False if off else True if values is None else values)


class _Help(argparse.HelpFormatter):
    """One spelling of each flag, as in the file, and what it takes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag for flag in action.option_strings if flag == flag.replace("-", "_").replace("__", "--", 1)]
        taken = f" {action.metavar}" if action.metavar else ""
        return ", ".join(action.option_strings if action.dest == "help" else flags) + taken


def _metavar(kind: Any) -> str:
    return "SET" if "Source" in str(kind) else "NUMBER" if {int, float} & {kind, *get_args(kind)} else "TEXT"


def _shown_default(kind: Any, value: Any) -> str:
    if "Source" in str(kind):
        return ", ".join(Source.parse(source).label for source in value or []) or "empty"
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _build_parser(
    fields: Mapping[str, Any],
    kinds: Mapping[str, Any],
    from_file: Mapping[str, Any],
    origin: str,
    prog: str | None,
    prefix: str,
) -> _Parser:
    """One flag for each field, in its group; `--help` shows the values of the configuration file `origin`."""
    parser = _Parser(
        prog,
        usage=f"{prog or '%(prog)s'} [--config NAME] [--data SET] [--FLAG VALUE ...]",
        description=f"Defaults below are those of {origin}.",
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    text = "YAML file with values for the options below, or the name of a bundled one"
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob(f"{prefix}*.yaml"))) if prefix else ""
    parser.add_argument("--config", metavar="NAME", help=f"{text}{': ' * bool(names)}{names}")
    text = "one paired set instead of all sources: a folder, a Hub dataset id, or generated (synthetic scenes)"
    parser.add_argument("--data", metavar="SET", help=text)
    text = "black and white of the {} images of all sets: auto, dtype, minmax, percentile or LOW,HIGH (default: {})"
    for name in _RANGES:
        about = text.format(name.removesuffix("_range"), "that of each set")
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", metavar="RANGE", help=about)
    group: Any = parser
    for name, item in fields.items():
        if item.metadata.get("group"):
            group = parser.add_argument_group(item.metadata["group"])
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        text = f"{item.metadata.get('help', '')} (default: {_shown_default(kinds[name], from_file.get(name, default))})"
        flags, kind = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), kinds[name]
        several = {"nargs": "+"} if "list[" in str(kind) else {}
        more: dict[str, Any] = {"metavar": _metavar(kind) + " ..." * bool(several), **several}
        if bool in (kind, *get_args(kind)):
            flags |= dict.fromkeys((f"--no_{name}", f"--no-{name.replace('_', '-')}"))
            more = {"action": _Switch, "nargs": "?"}
        group.add_argument(*flags, help=text.replace("%", "%%"), **more)
    return parser


def parse_config(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    default_config: Path | None = None,
    *,
    prog: str | None = None,
    prefix: str = "",
) -> tuple[Any, ...]:
    """One instance of each dataclass, from `--config NAME_OR_FILE` (if given) and flags, which win.

    Values in the file are converted as flags are, so `1e-4`, which YAML takes for text, is a number here. A list
    replaces the list in the file as a whole. `--data SET` is short for `--sources SET --validation_sources SET`; it
    also adds the set's name to the file's `output_dir`, so that trainings on different sets have different folders,
    and sets `detection` to 0, since own pairs rarely have boxes.
    `--infrared_range` and `--visible_range` are those of every set.

    Args:
        dataclass_types: such as `(TrainingConfig, MyTaskConfig)`; they share one set of names.
        argv: arguments without the program's name; the default is the command line's.
        default_config: the file where `--config` is not given; None: the defaults of the dataclasses.
        prog: the command, for `--help`.
        prefix: of the names of the bundled configurations that fit.

    Raises:
        ConfigError: an unknown key or flag (the nearest known one is named), or a value of the wrong kind.
    """
    fields = {item.name: item for one in dataclass_types for item in dataclasses.fields(one)}
    kinds = {name: kind for one in dataclass_types for name, kind in get_type_hints(one).items()}
    first = _Parser(allow_abbrev=False, add_help=False)
    first.add_argument("--config")
    chosen = first.parse_known_args(argv)[0].config
    file = default_config if chosen is None else find_config(chosen, prefix)
    from_file = {} if file is None else _read_config(file, list(fields))

    parser = _build_parser(fields, kinds, from_file, "the code" if file is None else file.stem, prog, prefix)
    words = list(sys.argv[1:] if argv is None else argv)
    for index, word in enumerate(words[:-1]):  # argparse would take -40,120 for a flag
        if word.lstrip("-").replace("-", "_") in _RANGES and re.match(r"-[\d.]", words[index + 1]):
            words[index : index + 2] = [f"{word}={words[index + 1]}"]
    arguments, unknown = parser.parse_known_args(words)
    for word in unknown[:1]:
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} belongs to no flag: flags are written --name value")
        flag = word.split("=")[0].lstrip("-").replace("-", "_")
        _reject_unknown([flag], [*fields, *_RANGES, "config", "data"], "flag")
    given = vars(arguments)
    given.pop("config", None)
    source = given.pop("data", None)
    if source is not None and "sources" in fields:
        folder = from_file.get("output_dir", fields["output_dir"].default)
        name = re.sub(r"[^\w.-]+", "-", Path(os.path.abspath(source)).name)
        own: dict[str, Any] = {"output_dir": f"{folder}-{name}", "sources": [source], "validation_sources": [source]}
        own |= {"detection": 0.0} if "detection" in fields else {}
        given = own | given
    ranges = {name: given.pop(name) for name in _RANGES if name in given}
    given = from_file | given
    values = {name: _convert(name, kinds[name], value) for name, value in given.items()}
    for name in [name for name in values if ranges and kinds[name] == list[Source]]:
        values[name] = [Source.parse(dataclasses.asdict(source) | ranges) for source in values[name]]
    return tuple(
        one(**{item.name: values[item.name] for item in dataclasses.fields(one) if item.name in values})
        for one in dataclass_types
    )


def _read_config(file: Path, known: Sequence[str]) -> dict[str, Any]:
    try:
        values = _load_yaml(file.read_text(encoding="utf-8"), f"--config {file}")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"--config {file}: cannot be read ({why})") from error
    _reject_unknown(values, known, f"key in {file}")
    return values


def resolved(*configs: Any) -> dict[str, Any]:
    """All values of the configs as one flat dictionary of plain types; `save_config` writes it, `--config` reads it."""
    return {name: value for config in configs for name, value in dataclasses.asdict(config).items()}


def save_config(values: Mapping[str, Any], path: Path) -> None:
    """Write resolved values as YAML, in the order of the dataclasses' fields."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_config(path: Path) -> dict[str, Any]:
    """Read what `save_config` wrote."""
    return _load_yaml(path.read_text(encoding="utf-8"), str(path))


_BOOLEANS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """A value of the file or of a flag (text) as the type of its field: a scalar, a Source, a list, or None."""
    if NoneType in get_args(kind):
        if value is None or value == "":  # of a flag: --name ''
            return None
        kind = get_args(kind)[0]
    if value is None:
        raise ConfigError(f"{name} is empty: give a value or leave the line out")
    if get_origin(kind) is list:
        return [_convert(name, get_args(kind)[0], item) for item in (value if isinstance(value, list) else [value])]
    if kind is Source:
        return Source.parse(value)
    try:
        if isinstance(value, list | dict):
            raise ValueError
        return _BOOLEANS[str(value).lower()] if kind is bool else kind(str(value))
    except (ValueError, KeyError) as error:
        wanted = {int: "an integer", float: "a number", bool: "true or false"}.get(kind, "one value")
        raise ConfigError(f"{name} must be {wanted}, got {str(value)!r}") from error


def _load_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold `key: value` lines, but {'is empty' if values is None else 'does not'}")
    return values


def _reject_unknown(given: Iterable[Any], known: Sequence[str], kind: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown {kind} {key!r}: {advice}")
