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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from fusion_hub.evaluation import leaderboard
from fusion_hub.evaluation.methods import describe_checkpoint
from fusion_hub.evaluation.statistics import format_value
from fusion_hub.hub.upload import progress_bars
from fusion_hub.pipelines import FusionPipeline
from fusion_hub.repositories import is_hub_id

Kind = Literal["model", "segmenter", "detector", "dataset", "space"]

TEMPLATES = Path(__file__).parents[1] / "templates"
TABLES: dict[str, Any] = yaml.safe_load((TEMPLATES / "cards.yaml").read_text(encoding="utf-8"))
"""Data sets, papers, and what the Hub allows in metadata."""
LICENSES = frozenset(TABLES["licenses"])
METRICS_FILE = "metrics.json"
NOT_SHOWN = ("SSIM_visible", "SSIM_infrared", "Qabf_visible", "Qabf_infrared")
"""Metrics that stay in the file: a card's table has room for the per-source VIF only."""
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD15_LICENSE = "creativeml-openrail-m"

_CARDS = {"model": ModelCard, "segmenter": ModelCard, "detector": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
_SCORES = {
    "segmenter": ("mIoU", "model.safetensors", "benchmarks/segmentation.py"),
    "detector": ("mAP50", "model.onnx", "benchmarks/zero_shot.py"),
}
"""The score on a card, the weights and the script that measures them."""
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
_SERVER = re.compile(r"http://(?:127\.0\.0\.1|localhost)(?::\d+)?")
_HOLES = {"None", "nan", "NaN", "inf", "-inf", "null", "undefined", "Undefined"}
_PRIVATE_ENDINGS = (
    *(".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".test", ".example", ".invalid"),
)


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Means over one data set, such as `tno/test`, of a model and of rules without a network.

    Attributes:
        pairs: number of pairs; None if the file does not state it.
        metrics: of the model; None where a metric is undefined on every pair.
        warnings: what a reader must know before quoting the numbers.
        stretched: the same numbers of the pictures stretched from minimum to maximum; None if not measured.
    """

    dataset: str
    pairs: int | None
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, Mapping[str, float | None]]
    warnings: tuple[str, ...] = ()
    stretched: "Result | None" = None

    def __post_init__(self) -> None:
        for title, values in {"the model": self.metrics, **self.baselines}.items():
            for metric, value in values.items():
                if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
                    raise ValueError(
                        f"{self.dataset}: {title}: {metric} is {value!r}: expected a finite number, or null where it "
                        "is undefined"
                    )

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
        lines = [f"| method | {' | '.join(self.columns)} |\n|---|{'---|' * len(self.columns)}\n"]
        for title, values in {f"**{name}**": self.metrics, **self.baselines}.items():
            numbers = ((column, values.get(column)) for column in self.columns)
            cells = ("" if value is None else format_value(column, value) for column, value in numbers)
            lines.append(" | ".join((f"| {title}", *cells)) + " |\n")
        return "".join(lines)


class Measured(NamedTuple):
    """All results, and how they were measured: `details` of the model's run, `conventions`, `versions`."""

    results: Sequence[Result]
    details: Mapping[str, Any]
    conventions: Mapping[str, str]
    versions: Mapping[str, str]


def read_measured(folder: Path, name: str) -> Measured | None:
    """What `metrics.json` in a pipeline folder says about its model, found by its weights or else its `name`.

    None without the file.

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
    sets, rows = content.get("sets"), list[leaderboard.Row]()
    if isinstance(sets, dict):
        models = list(methods)
    elif isinstance(content.get("rows"), list):
        sets, (rows, _) = {}, leaderboard.read_evaluation(file)
        models = list(dict.fromkeys(row.method for row in rows if row.kind == "model"))
    else:
        raise ValueError(f"{file}: it has neither `sets` nor `rows`; write it with `fusion-hub evaluate`")
    model = models[0] if models else None
    if len(models) > 1:
        hashes = {hashlib.sha256(weights.read_bytes()).hexdigest() for weights in folder.glob("model/*.safetensors")}
        same = [model for model in models if hashes & set(methods.get(model, {}).get("sha256", {}).values())]
        if not same and name not in models:
            raise ValueError(
                f"{file}: it has rows of {', '.join(models)}, and none of them has the weights of {folder} or the name "
                f"{name!r}: evaluate this checkpoint alone"
            )
        model = same[0] if same else name
    try:
        results = []
        for dataset, found in sets.items():
            part = found.get("stretched") or {}  # files of version 0.1 have none
            other = (
                Result(dataset, found.get("n"), part["metrics"], part.get("baselines", {}))
                if part.get("metrics")
                else None
            )
            results.append(Result(dataset, found.get("n"), found["metrics"], found.get("baselines", {}), (), other))
        for row in (row for row in rows if row.kind == "model" and row.method == model):
            beside = [other for other in rows if other.kind == "baseline" and other.dataset == row.dataset]
            baselines = {other.method: other.values for other in beside}
            other = None
            if row.minmax:
                stretched = {rule.method: rule.minmax.values for rule in beside if rule.minmax}
                other = Result(row.dataset, row.n, row.minmax.values, stretched)
            results.append(Result(row.dataset, row.n, row.values, baselines, row.warnings, other))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not results:
        raise ValueError(f"{file}: it has no numbers of the model; evaluate the model on a data set")
    details = methods.get(model, {})
    return Measured(results, details, provenance.get("conventions", {}), provenance.get("versions", {}))


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; FileNotFoundError or ValueError otherwise."""
    return _read_mapping(file, "JSON", json.loads)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.yaml` of a run; FileNotFoundError or ValueError otherwise."""
    return _read_mapping(folder / "config.yaml", "YAML", yaml.safe_load)


def _read_mapping(file: Path, form: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: give the pipeline folder of a training run")
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: cannot be read as {form}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no names with values: restore the file that training wrote")
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
    problems = [*_check_metadata(data, body, kind), *_check_text(text, body, kind)]
    problems += _check_code(body, folder, kind)
    if folder is not None:
        problems += _check_files(data, body, folder)
        try:
            if kind == "model":
                problems += _check_figures(card, folder)
            elif kind in _SCORES:
                problems += _check_score(card, folder, *_SCORES[kind])
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def find_license(text: str) -> str:
    """The id in the Hub's list that a text in any case stands for; ValueError if there is none."""
    if (found := text.lower()) in LICENSES:
        return found
    near = difflib.get_close_matches(found, LICENSES, n=3)
    advice = f"did you mean {' or '.join(near)}?" if near else "give an id, or 'other' with a name and a link"
    raise ValueError(
        f"the license {text!r} is not in the Hub's list (https://huggingface.co/docs/hub/repositories-licenses), "
        f"unlike apache-2.0, cc-by-4.0 or unknown: {advice}"
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _check_metadata(data: Mapping[str, Any], body: str, kind: Kind) -> Iterator[str]:
    rules = TABLES["metadata"][kind]
    for key in data.keys() - set(rules["keys"]):
        near = difflib.get_close_matches(key, rules["keys"], 1)
        yield f"the metadata has the unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    for key in rules["required"]:
        if data.get(key) in (None, "", [], {}):
            yield f"the metadata lacks {key!r}"
    for key, expected in rules.get("fixed", {}).items():
        if data.get(key) != expected:
            yield f"{key} is {data.get(key)!r}, expected {expected!r}"
    for key, allowed in rules.get("allowed", {}).items():
        if data.get(key) not in (None, *allowed):
            yield f"{key} is {data[key]!r}, expected one of {', '.join(allowed)}"
    license_id = data.get("license")
    if license_id is not None and str(license_id) not in LICENSES:
        yield f"license is {license_id!r}, which is not in the Hub's list, such as apache-2.0; any other is 'other'"
    for key in ("license_name", "license_link"):
        if license_id == "other" and key not in data:
            yield f"license is 'other': {key} must name it"
        elif license_id != "other" and key in data:
            yield f"{key} is only for the license 'other', but license is {license_id!r}"
    for key in ("datasets", "models", "base_model"):
        for name in _as_list(data.get(key)):
            if not isinstance(name, str) or not is_hub_id(name):
                yield f"{key}: {name!r} is not a Hub id, owner/name"
    bases, relation = _as_list(data.get("base_model")), data.get("base_model_relation")
    if bases and relation is None:
        yield f"base_model_relation is missing: state how these weights relate to {bases[0]}, such as finetune"
    if relation is not None and not bases:
        yield "base_model_relation is given without base_model"
    if SD15 in bases and license_id != SD15_LICENSE:
        yield f"the base model {SD15} is under {SD15_LICENSE}, but license is {license_id!r}"
    if kind == "model" and license_id == SD15_LICENSE and "use-based restrictions" not in body:
        yield f"the license {SD15_LICENSE} requires passing its use-based restrictions on: the text must say so"
    for key in ("sdk_version", "python_version"):
        if not isinstance(data.get(key, ""), str):
            yield f"{key} is {data[key]!r}, a number in YAML, which drops zeros: put it in quotes"
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
    for config in _as_list(data.get("configs")):
        name = config.get("config_name") if isinstance(config, Mapping) else None
        if not name:
            yield "configs: an entry has no config_name"
        for entry in _as_list(config.get("data_files")) if isinstance(config, Mapping) else []:
            patterns = _as_list(entry.get("path") if isinstance(entry, Mapping) else entry)
            for pattern in map(str, patterns):
                if ".." in pattern or pattern.startswith(("/", "~")) or not any(folder.glob(pattern)):
                    yield f"configs: {name}: no file of the repository matches {pattern!r}"
            if not patterns:
                yield f"configs: {name}: an entry of data_files has no path"


def _check_figures(card: Any, folder: Path) -> Iterator[str]:
    """Whether `model-index` and the tables are those of `metrics.json`, measured with the weights of the folder."""
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    name = title[1].strip() if title else ""
    measured = read_measured(folder, name) or Measured((), {}, {}, {})
    entries = card.data.eval_results or []
    stated = {(entry.dataset_type, entry.dataset_split, entry.metric_type): entry.metric_value for entry in entries}
    expected = {(r.key, r.split, metric): r.metrics[metric] for r in measured.results for metric in r.columns}
    if len(stated) != len(entries):
        yield "model-index has a metric twice for one data set"
    for key in sorted(stated.keys() | expected.keys(), key=str):
        if stated.get(key) != expected.get(key):
            yield (
                f"model-index says {stated.get(key)} for {key[2]} on {key[0]} ({key[1]}), but {METRICS_FILE} says "
                f"{expected.get(key)}"
            )
    tables = dict(_RESULT.findall(card.text))
    wanted = {result.heading: result.table(name) for result in measured.results}
    for heading in tables.keys() | wanted.keys():
        lines = zip_longest(tables.get(heading, "").splitlines(), wanted.get(heading, "").splitlines(), fillvalue="")
        for found, right in lines:
            if found != right:
                yield f"{heading}: the table says {found!r}, but {METRICS_FILE} gives {right!r}"
    details = measured.details
    if details.get("state_sha256") and details.get("dtype") and any(folder.glob("model/*.safetensors")):
        with progress_bars(False):
            pipeline = FusionPipeline.from_pretrained(folder, dtype=getattr(torch, details["dtype"]))
        if describe_checkpoint(pipeline)["state_sha256"] != details["state_sha256"]:
            yield f"{METRICS_FILE} was measured with other weights than those in model/: evaluate again"
    started = (folder / "config.yaml").is_file() and read_config(folder).get("sd15")
    if started and SD15 not in _as_list(card.data.base_model):
        yield f"config.yaml says that the weights started from Stable Diffusion 1.5, so base_model must be {SD15}"


def _check_score(card: Any, folder: Path, score: str, weights_file: str, benchmark: str) -> Iterator[str]:
    if not (folder / METRICS_FILE).is_file():
        yield f"there is no {METRICS_FILE} beside the card: measure with {benchmark}"
        return
    measured, weights = read_json(folder / METRICS_FILE), folder / weights_file
    expected = next(iter(measured["inputs"].values()))["numbers"][score]
    stated = [entry.metric_value for entry in card.data.eval_results or []]
    if stated != [expected]:
        yield f"model-index says {stated} for {score}, but {METRICS_FILE} says {expected}"
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
    for line in (line for line in body.splitlines() if line.startswith("|")):
        if holes := [cell for cell in line.split("|") if cell.strip().strip("*`") in _HOLES]:
            yield f"a value is missing: the table row {line.strip()!r} says {holes[0].strip()}"
    headings = [*_HEADING.finditer(_FENCE.sub(lambda match: "~" * len(match.group()), body))]
    for own, following in zip_longest(headings, headings[1:]):
        content = body[own.end() : following.start() if following else len(body)]
        if not content.strip() and not (following and len(following[1]) > len(own[1])):
            yield f"the section {own[2]!r} is empty"
    if kind == "space":  # examples may call a server on the reader's own machine
        text = _FENCE.sub(lambda block: _SERVER.sub("", block.group()), text)
    for match in _URL.finditer(text):
        if match["scheme"].lower() not in ("http", "https"):
            yield f"it links to {match.group()!r}: give an https address"
            continue
        try:
            parts = urlsplit(match.group())
            host = (parts.hostname or "").lower()
        except ValueError:
            yield f"the link {match.group()!r} cannot be parsed"
            continue
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
    ours: list[tuple[str, str | None]] = []
    for code in (code for language, code in _FENCE.findall(body) if language in ("python", "py")):
        try:
            nodes = list(ast.walk(ast.parse(code)))
        except SyntaxError as error:
            yield f"a Python block cannot be parsed: {error.msg}, in {(error.text or '').strip()!r}"
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                ours += [(alias.name, None) for alias in node.names if alias.name.split(".")[0] == "fusion_hub"]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fusion_hub":
                ours += [(str(node.module), alias.name) for alias in node.names]
    for module, name in ours:
        try:
            if name is not None and not hasattr(importlib.import_module(module), name):
                yield f"a Python block imports {name!r} from {module}, which has no such name"
        except ImportError:
            yield f"a Python block imports {module}, which does not exist"
    if kind != "space" and not ours:
        yield "no Python block shows how to use it: import its class from fusion_hub"
    if ours and kind == "model" and folder is not None and (folder / "model_index.json").is_file():
        stored = class_name(read_json(folder / "model_index.json"), "_class_name")
        if stored not in [name for _, name in ours]:
            names = ", ".join(str(name) for _, name in ours)
            yield f"the Python blocks import {names}, but the folder holds a {stored}"


def class_name(index: Mapping[str, Any], key: str) -> str:
    """`["pipeline", "REDPipeline"]` or `"REDPipeline"` -> `"REDPipeline"`."""
    entry = index.get(key)
    return str(entry[-1] if isinstance(entry, list) and entry else entry)
