"""Check a card offline, before anything is uploaded: metadata, figures, text, links and code.

The Hub accepts a misspelled key, an unknown license and a number that nobody measured. `validate_card` does not; with
the folder beside the card it compares every figure with `metrics.json`, and `metrics.json` with the weights.
"""

import ast
import difflib
import hashlib
import importlib
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from fusion_hub.evaluation import leaderboard
from fusion_hub.evaluation.methods import describe_checkpoint
from fusion_hub.evaluation.statistics import format_value
from fusion_hub.hub.upload import progress_bars
from fusion_hub.pipelines import FusionPipeline

Kind = Literal["model", "segmenter", "dataset", "space"]

TABLES: dict[str, Any] = yaml.safe_load((files("fusion_hub") / "templates" / "cards.yaml").read_text(encoding="utf-8"))
"""Data sets, papers, and what the Hub allows in metadata."""
LICENSES = frozenset(TABLES["licenses"])
METRICS_FILE = "metrics.json"
NOT_SHOWN = ("SSIM_visible", "SSIM_infrared", "Qabf_visible", "Qabf_infrared")
"""Metrics that stay in the file: a card's table has room for the per-source VIF only."""
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD15_LICENSE = "creativeml-openrail-m"

_CARDS = {"model": ModelCard, "segmenter": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
_REQUIRED = {
    "model": ("license", "tags"),
    "segmenter": ("license", "tags", "model-index"),
    "dataset": ("license", "pretty_name", "size_categories"),
    "space": ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "license"),
}
_FIXED: dict[Kind, dict[str, Any]] = {
    "model": {"library_name": "diffusers", "pipeline_tag": "image-to-image"},
    "segmenter": {"library_name": "transformers", "pipeline_tag": "image-segmentation"},
    "dataset": {"task_categories": ["image-to-image"]},
    "space": {},
}
_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_SHORT_DESCRIPTION = 60  # characters that the Hub allows

_PLACEHOLDER = re.compile(
    r"more information needed|lorem ipsum|\{\{|\{%|%\}|\[optional\]|(?-i:\b(?:TODO|TBD|FIXME|XXX)\b)"
    r"|<(?:your|insert|name|model|repo)[\w -]*>|\byour[-_](?:name|username|model|repo|org)\b",
    re.IGNORECASE,
)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[^\s<>\"'`)\]]+", re.IGNORECASE)
_LOCAL_PATH = re.compile(
    r"(?<![\w.:}/<>$*-])~?/(?:[\w.+@~-]+/)+[\w.+@~-]*|(?<![\w/])~/\w+|\b[A-Za-z]:[\\/][\w\\/]+|\\\\\w+\\\w+"
)
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_RESULT = re.compile(r"^### (.+)\n\n(\| method \|.*\n(?:\|.*\n)*)", re.MULTILINE)
_HOLES = {"None", "nan", "NaN", "inf", "-inf", "null", "undefined", "Undefined"}
_PRIVATE_ENDINGS = (
    *(".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".test", ".example", ".invalid"),
)


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Means over one data set.

    Attributes:
        dataset: name and split, such as `tno/test`.
        pairs: number of pairs; None if the file does not state it.
        metrics: of the model; None where a metric is undefined on every pair.
        baselines: the same for rules without a network.
        warnings: what a reader must know before quoting the numbers.
    """

    dataset: str
    pairs: int | None
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Metrics that a card shows."""
        return [name for name in self.metrics if name not in NOT_SHOWN]

    @property
    def key(self) -> str:
        """The name without the split."""
        return self.dataset.rpartition("/")[0] or self.dataset

    @property
    def split(self) -> str:
        """The last part of the name; `all` for a data set without splits."""
        return self.dataset.rpartition("/")[2] if "/" in self.dataset else "all"

    @property
    def heading(self) -> str:
        return f"{self.dataset} ({self.pairs} pairs)" if self.pairs else self.dataset

    def table(self, name: str) -> str:
        """Markdown: the model in bold, then the baselines."""

        def row(title: str, values: Mapping[str, float | None]) -> str:
            numbers = ((column, values.get(column)) for column in self.columns)
            cells = ("" if value is None else format_value(column, value) for column, value in numbers)
            return " | ".join((f"| {title}", *cells)) + " |\n"

        head = f"| method | {' | '.join(self.columns)} |\n|---|{'---|' * len(self.columns)}\n"
        rows = [row(f"**{name}**", self.metrics), *(row(rule, found) for rule, found in self.baselines.items())]
        return head + "".join(rows)


@dataclass(frozen=True)
class Measured:
    """All results, and how they were measured: `details` of the model's run, `conventions`, `versions`."""

    results: tuple[Result, ...]
    details: Mapping[str, Any]
    conventions: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the pipeline's call other than `rescale`."""
        known = ("class", "parameters", "sha256", "state_sha256", "dtype", "rescale")
        return {key: value for key, value in self.details.items() if key not in known and value is not None}


def read_measured(folder: Path, name: str) -> Measured | None:
    """What `metrics.json` in a pipeline folder says about its model; None without the file.

    Args:
        folder: of the pipeline.
        name: of the model; used if the file has several models and none with the weights of the folder.

    Raises:
        ValueError: the file is neither of `benchmarks/quality.py` (`sets`) nor of `fusion-hub evaluate` (`rows`), has a
            number that is not finite, or does not show which of its models is that of the folder.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        return None
    content = read_json(file)
    provenance = content.get("provenance", {})
    methods = provenance.get("methods", {})
    if isinstance(content.get("sets"), dict):
        model = _find_model(file, folder, name, methods, tuple(methods))
        results = [
            Result(
                dataset,
                found.get("n"),
                _finite(found["metrics"], f"{file}: {dataset}"),
                {rule: _finite(row, f"{file}: {dataset}: {rule}") for rule, row in found.get("baselines", {}).items()},
            )
            for dataset, found in content["sets"].items()
        ]
    elif isinstance(content.get("rows"), list):
        rows, _ = leaderboard.read_evaluation(file)
        models = dict.fromkeys(row.method for row in rows if row.kind == "model")
        model = _find_model(file, folder, name, methods, tuple(models))
        results = []
        for row in (row for row in rows if row.kind == "model" and row.method == model):
            beside = [other for other in rows if other.kind == "baseline" and other.dataset == row.dataset]
            baselines = {other.method: other.values for other in beside}
            results.append(Result(row.dataset, row.n, row.values, baselines, row.warnings))
    else:
        raise ValueError(f"{file}: it has neither `sets` nor `rows`; write it with `fusion-hub evaluate`")
    if not results:
        raise ValueError(f"{file}: it has no numbers of the model; evaluate the model on a data set")
    details = methods.get(model, {})
    return Measured(tuple(results), details, provenance.get("conventions", {}), provenance.get("versions", {}))


def _finite(values: Mapping[str, Any], where: str) -> dict[str, float | None]:
    for metric, value in values.items():
        if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"{where}: {metric} is {value!r}: expected a finite number, or null where it is undefined")
    return dict(values)


def _find_model(file: Path, folder: Path, name: str, methods: Mapping[str, Any], models: tuple[str, ...]) -> str | None:
    """The method that is the folder's model: by its weights, else by its name, else the only one."""
    if len(models) <= 1:
        return models[0] if models else None
    hashes = {hashlib.sha256(weights.read_bytes()).hexdigest() for weights in folder.glob("model/*.safetensors")}
    same = [model for model in models if hashes & set(methods.get(model, {}).get("sha256", {}).values())]
    if found := same or [model for model in models if model == name]:
        return found[0]
    raise ValueError(
        f"{file}: it has rows of {', '.join(models)}, and none of them has the weights of {folder} or the name "
        f"{name!r}: evaluate this checkpoint alone"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; FileNotFoundError or ValueError otherwise."""
    return _read_mapping(file, "JSON", json.loads)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.yaml` of a run; FileNotFoundError or ValueError otherwise."""
    return _read_mapping(folder / "config.yaml", "YAML", yaml.safe_load)


def _read_mapping(file: Path, form: str, parse: Any) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: give the pipeline folder of a training run")
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: cannot be read as {form}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected names with values, got a {type(content).__name__}")
    return content


# --- the card --------------------------------------------------------------------------------------------------------


def validate_card(text: str, folder: Path | None = None, kind: Kind = "model") -> list[str]:
    """Problems of a card; empty if it is valid. Nothing is downloaded, and no code of the card runs.

    Args:
        text: the card, Markdown with YAML front matter.
        folder: the repository. The figures are compared with its `metrics.json`, that file with the weights, and the
            license with `config.yaml`; files that the card links to must exist. None: check the text alone.
        kind: of the repository.
    """
    text = text.replace("\r\n", "\n")
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if block is None:
        return ["it does not start with metadata: YAML between two lines of ---"]
    keys = re.findall(r"^([\w-]+):", block[1], re.MULTILINE)
    if twice := [key for key in keys if keys.count(key) > 1]:
        return [f"the metadata has {twice[0]!r} twice"]
    try:
        card = _CARDS[kind](text)
    except (ValueError, yaml.YAMLError) as error:
        return [f"the metadata cannot be read: {' '.join(str(error).split())}"]
    data, body = card.data.to_dict(), card.text
    problems = [*_check_metadata(data, kind), *_check_text(text, body, kind), *_check_code(body, folder, kind)]
    if kind == "space":
        problems += _check_space(data, body)
    if kind == "model":
        problems += _check_base_model(data, body, folder)
    if folder is not None:
        problems += _check_files(data, body, folder)
    try:
        if folder is not None and kind == "model":
            problems += _check_figures(card, folder)
        elif folder is not None and kind == "segmenter":
            problems += _check_segmenter(card, folder)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return list(dict.fromkeys(problems))


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form `owner/name`, as a relative path of two parts has, too."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text and text[0].isalnum()


def _check_metadata(data: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    known = TABLES["keys"]["model" if kind == "segmenter" else kind]
    for key in data.keys() - set(known):
        near = difflib.get_close_matches(key, known, 1)
        yield f"the metadata has the unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    for key in _REQUIRED[kind]:
        if data.get(key) in (None, "", [], {}):
            yield f"the metadata lacks {key!r}"
    for key, expected in _FIXED[kind].items():
        if data.get(key) != expected:
            yield f"{key} is {data.get(key)!r}, expected {expected!r}"
    license_id = data.get("license")
    if license_id is not None and license_id not in LICENSES:
        yield f"license is {license_id!r}, which is not in the Hub's list, such as apache-2.0; any other is 'other'"
    for key in ("license_name", "license_link"):
        if license_id == "other" and key not in data:
            yield f"license is 'other': {key} must name it"
        elif license_id != "other" and key in data:
            yield f"{key} is only for the license 'other', but license is {license_id!r}"
    for key in ("datasets", "models", "base_model"):
        names = data.get(key) or []
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str) or not is_hub_id(name):
                yield f"{key}: {name!r} is not a Hub id, owner/name"


def _check_base_model(data: Mapping[str, Any], body: str, folder: Path | None) -> Iterator[str]:
    base, relation, license_id = data.get("base_model"), data.get("base_model_relation"), data.get("license")
    if base and relation is None:
        yield f"base_model_relation is missing: state how these weights relate to {base}, such as finetune"
    if relation is not None and not base:
        yield "base_model_relation is given without base_model"
    if relation not in (None, "adapter", "merge", "quantized", "finetune"):
        yield f"base_model_relation is {relation!r}, expected adapter, merge, quantized or finetune"
    if base == SD15 and license_id != SD15_LICENSE:
        yield f"the base model {SD15} is under {SD15_LICENSE}, but license is {license_id!r}"
    if license_id == SD15_LICENSE and "use-based restrictions" not in body:
        yield f"the license {SD15_LICENSE} requires passing its use-based restrictions on: the text must say so"
    if folder is not None and (folder / "config.yaml").is_file() and read_config(folder).get("sd15") and base != SD15:
        yield f"config.yaml says that the weights started from Stable Diffusion 1.5, so base_model must be {SD15}"


def _check_space(data: Mapping[str, Any], body: str) -> Iterator[str]:
    for key in ("sdk_version", "python_version"):
        if not isinstance(data.get(key, ""), str):
            yield f"{key} is {data[key]!r}, a number in YAML, which drops zeros: put it in quotes"
    for key in ("colorFrom", "colorTo"):
        if data.get(key) not in _COLORS:
            yield f"{key} is {data.get(key)!r}, expected one of {', '.join(_COLORS)}"
    if len(str(data.get("short_description", ""))) > _SHORT_DESCRIPTION:
        yield f"short_description is longer than {_SHORT_DESCRIPTION} characters"
    if not body.strip():
        yield "the text is empty"


def _check_files(data: Mapping[str, Any], body: str, folder: Path) -> Iterator[str]:
    """Links, the application of a Space, and the data files of a dataset must be in the folder."""
    for target in dict.fromkeys(_LINK.findall(body)):
        if "://" not in target and not target.startswith("#") and not (folder / target.split("#")[0]).exists():
            yield f"it links to {target!r}, which is not beside it"
    if "app_file" in data and not (folder / str(data["app_file"])).is_file():
        yield f"app_file is {data['app_file']!r}, which is not beside the card"
    for config in data.get("configs") or []:
        for entry in config.get("data_files") or []:
            pattern = str(entry["path"])
            if ".." in pattern or pattern.startswith(("/", "~")) or not any(folder.glob(pattern)):
                yield f"configs: {config.get('config_name')}: no file of the repository matches {pattern!r}"


def _check_figures(card: Any, folder: Path) -> Iterator[str]:
    """Whether `model-index` and the tables are those of `metrics.json`, measured with the weights of the folder."""
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    name = title[1].strip() if title else ""
    measured = read_measured(folder, name)
    results = measured.results if measured else ()
    entries = card.data.eval_results or []
    stated = {(entry.dataset_type, entry.dataset_split, entry.metric_type): entry.metric_value for entry in entries}
    expected = {(r.key, r.split, metric): r.metrics[metric] for r in results for metric in r.columns}
    expected = {key: value for key, value in expected.items() if value is not None}
    if len(stated) != len(entries):
        yield "model-index has a metric twice for one data set"
    for key in sorted(stated.keys() | expected.keys(), key=str):
        if stated.get(key) != expected.get(key):
            yield (
                f"model-index says {stated.get(key)} for {key[2]} on {key[0]} ({key[1]}), but {METRICS_FILE} says "
                f"{expected.get(key)}"
            )
    tables = dict(_RESULT.findall(card.text))
    wanted = {result.heading: result.table(name) for result in results}
    for heading in tables.keys() | wanted.keys():
        lines = zip_longest(tables.get(heading, "").splitlines(), wanted.get(heading, "").splitlines(), fillvalue="")
        for found, right in lines:
            if found != right:
                yield f"{heading}: the table says {found!r}, but {METRICS_FILE} gives {right!r}"
    details = measured.details if measured else {}
    if details.get("state_sha256") and details.get("dtype") and any(folder.glob("model/*.safetensors")):
        with progress_bars(False):
            pipeline = FusionPipeline.from_pretrained(folder, dtype=getattr(torch, details["dtype"]))
        if describe_checkpoint(pipeline)["state_sha256"] != details["state_sha256"]:
            yield f"{METRICS_FILE} was measured with other weights than those in model/: evaluate again"


def _check_segmenter(card: Any, folder: Path) -> Iterator[str]:
    if not (folder / METRICS_FILE).is_file():
        yield f"there is no {METRICS_FILE} beside the card: measure with benchmarks/segmentation.py"
        return
    measured, weights = read_json(folder / METRICS_FILE), folder / "model.safetensors"
    expected = next(iter(measured["inputs"].values()))["numbers"]["mIoU"]
    stated = [entry.metric_value for entry in card.data.eval_results or []]
    if stated != [expected]:
        yield f"model-index says {stated} for mIoU, but {METRICS_FILE} says {expected}"
    if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() != measured["sha256"]:
        yield f"{METRICS_FILE} was measured with other weights than those beside it: measure again"


# --- text ------------------------------------------------------------------------------------------------------------


def is_local_path(text: str) -> bool:
    """Whether a string is a path that has a meaning on one machine only."""
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return "\n" not in text and (absolute or text.startswith(("~", "../", "..\\")))


def find_local_paths(text: str, suffix: str = ".md") -> list[str]:
    """Paths of one machine in the text of a `.md`, `.json` or `.yaml` file."""
    found = [match.group() for match in _LOCAL_PATH.finditer(_URL.sub("", text))]
    if suffix in (".json", ".yaml"):
        content = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
        found += [value for value in _strings(content) if is_local_path(value)]
    home = str(Path.home())
    return list(dict.fromkeys([*found, home] if len(home) > 1 and home in text else found))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for entry in [*value.keys(), *value.values()] if isinstance(value, Mapping) else value:
            yield from _strings(entry)


def _check_text(text: str, body: str, kind: Kind) -> Iterator[str]:
    for found in _PLACEHOLDER.findall(text):
        yield f"placeholder text is left: {found!r}; replace it"
    for found in _SECRET.findall(text):
        yield f"it holds what looks like an access token ({found[:6]}...): remove it, and revoke the token"
    for found in find_local_paths(text):
        yield f"it holds a path of this machine, {found!r}: remove it"
    for line in body.splitlines():
        cells = [cell.strip().strip("*`") for cell in line.split("|")] if line.startswith("|") else []
        if holes := [cell for cell in cells if cell in _HOLES]:
            yield f"a value is missing: the table row {line.strip()!r} says {holes[0]}"
    headings = [*_HEADING.finditer(_FENCE.sub(lambda match: "~" * len(match.group()), body))]
    for own, following in zip_longest(headings, headings[1:]):
        content = body[own.end() : following.start() if following else len(body)]
        if not content.strip() and not (following and len(following[1]) > len(own[1])):
            yield f"the section {own[2]!r} is empty"
    if kind == "space":  # examples may call a server on the reader's own machine
        local = re.compile(r"http://(?:127\.0\.0\.1|localhost)(?::\d+)?")
        text = _FENCE.sub(lambda block: local.sub("", block.group()), text)
    for match in _URL.finditer(text):
        yield from _check_url(match)


def _check_url(match: re.Match[str]) -> Iterator[str]:
    if match["scheme"].lower() not in ("http", "https"):
        yield f"it links to {match.group()!r}: give an https address"
        return
    try:
        parts = urlsplit(match.group())
        host = (parts.hostname or "").lower()
    except ValueError:
        yield f"the link {match.group()!r} cannot be parsed"
        return
    if parts.username or parts.password:
        yield f"the link to {host} holds a user name or password: remove it"
    try:
        public = ipaddress.ip_address(host).is_global
    except ValueError:
        public = "." in host.strip(".") and not host.endswith(_PRIVATE_ENDINGS)
    if not public:
        yield f"it links to {host!r}, which other people cannot reach"


def _check_code(body: str, folder: Path | None, kind: Kind) -> Iterator[str]:
    """Whether the Python blocks parse and import names that exist; none of them runs."""
    imported: list[tuple[str, str | None]] = []
    for code in (code for language, code in _FENCE.findall(body) if language in ("python", "py")):
        try:
            nodes = list(ast.walk(ast.parse(code)))
        except SyntaxError as error:
            yield f"a Python block cannot be parsed: {error.msg}, in {(error.text or '').strip()!r}"
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                imported += [(alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported += [(node.module, alias.name) for alias in node.names]
    ours = [(module, name) for module, name in imported if module.split(".")[0] == "fusion_hub"]
    for module, name in ours:
        try:
            if name is not None and not hasattr(importlib.import_module(module), name):
                yield f"a Python block imports {name!r} from {module}, which has no such name"
        except ImportError:
            yield f"a Python block imports {module}, which does not exist"
    if kind != "space" and not ours:
        yield "no Python block shows how to use it: import its class from fusion_hub"
    index = folder / "model_index.json" if folder is not None and kind == "model" else None
    if ours and index and index.is_file():
        stored = class_name(read_json(index), "_class_name")
        if stored not in [name for _, name in ours]:
            names = ", ".join(str(name) for _, name in ours)
            yield f"the Python blocks import {names}, but the folder holds a {stored}"


def class_name(index: Mapping[str, Any], key: str) -> str:
    """`["pipeline", "REDPipeline"]` or `"REDPipeline"` -> `"REDPipeline"`."""
    entry = index.get(key)
    return str(entry[-1] if isinstance(entry, list) and entry else entry)
