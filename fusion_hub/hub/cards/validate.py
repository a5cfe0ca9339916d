"""The offline validator of cards.

The Hub keeps a misspelt key, an unknown licence or a hole in a table in silence, and its own validation needs a
network. `validate_card` finds such faults before anything is uploaded; with the folder beside the card it also compares
each number with the evaluation.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fusion_hub.hub.cards.number_checks import (
    check_model_index,
    check_weights,
    compare_mean_iou,
    compare_model_index,
    compare_tables,
)
from fusion_hub.hub.cards.results import read_measured
from fusion_hub.hub.cards.spec import (
    COLOURS,
    DATASET_KEYS,
    LICENCES,
    MODEL_KEYS,
    RELATIONS,
    SD15,
    SD15_LICENCE,
    SHORT_DESCRIPTION,
    SIZE_CATEGORIES,
    SPACE_KEYS,
    is_hub_id,
)
from fusion_hub.hub.cards.text_checks import check_code, check_text, imported_names

Kind = Literal["model", "segmenter", "dataset", "space"]

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_KEYS = {"model": MODEL_KEYS, "segmenter": MODEL_KEYS, "dataset": DATASET_KEYS, "space": SPACE_KEYS}
_REQUIRED = {
    "model": ("license", "library_name", "pipeline_tag", "tags"),
    "segmenter": ("license", "library_name", "pipeline_tag", "tags", "model-index"),
    "dataset": ("license", "pretty_name", "task_categories", "size_categories"),
    "space": ("title", "emoji", "colorFrom", "colorTo", "sdk", "app_file", "license"),
}


def validate_card(text: str, folder: Path | None = None, kind: Kind = "model") -> list[str]:
    """Problems of a card, each a sentence; empty: the card is valid. Nothing is fetched, no code of the card is run.

    Args:
        text: the card, Markdown with YAML front matter.
        folder: of its repository. Numbers are compared with the `metrics.json` there, that file with the weights, the
            licence with `config.yaml`; links and files that the card names must be there. None: the text alone.
        kind: of the repository.
    """
    found = _FRONT_MATTER.match(text.replace("\r\n", "\n"))
    if found is None:
        return ["it does not start with metadata: YAML between two lines of ---"]
    data, problem = _parse(found[1])
    if problem:
        return [problem]
    body = found[2]
    checks = {"model": _check_model, "segmenter": _check_segmenter, "dataset": _check_dataset, "space": _check_space}
    problems = [
        *_check_metadata(data, kind),
        *checks[kind](data, body, folder),
        *check_text(text, body, folder, own_machine=kind == "space"),
        *check_code(body, needs_package=kind != "space"),
    ]
    return list(dict.fromkeys(problems))


def _parse(block: str) -> tuple[dict[str, Any], str]:
    """The metadata, or what is wrong with it."""
    import yaml

    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        return {}, f"the metadata is not YAML: {' '.join(str(error).split())}"
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        return {}, "the metadata is not a mapping of names to values"
    names = re.findall(r"^([\w-]+):", block, re.MULTILINE)
    if repeated := next((name for name in names if names.count(name) > 1), None):
        return {}, f"the metadata has {repeated!r} twice"
    return data, ""


# --- metadata --------------------------------------------------------------------------------------------------------


def _check_metadata(data: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    for key, value in data.items():
        if key not in _KEYS[kind]:
            yield f"the metadata has the key {key!r}, which the Hub does not know for a {kind}{_meant(key, kind)}"
        elif value is None or value in ("", [], {}):
            yield f"the metadata's {key!r} is empty: fill it, or leave it out"
    for key in _REQUIRED[kind]:
        if key not in data:
            yield f"the metadata lacks {key!r}"
    yield from _check_licence(data)
    for key in ("datasets", "models"):
        for name in _as_list(data.get(key)):
            if not isinstance(name, str) or not is_hub_id(name):
                yield f"{key}: {name!r} is no Hub id, owner/name"
    for tag in _as_list(data.get("tags")):
        if not isinstance(tag, str) or not tag.strip():
            yield f"tags: {tag!r} is no text"


def _meant(key: str, kind: Kind) -> str:
    import difflib

    near = difflib.get_close_matches(key, sorted(_KEYS[kind]), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_licence(data: Mapping[str, Any]) -> Iterator[str]:
    licence = data.get("license")
    if licence is None:
        return
    if licence not in LICENCES:
        yield f"license is {licence!r}, which is not in the Hub's list, such as apache-2.0; any other is 'other'"
    for key in ("license_name", "license_link"):
        if licence == "other" and key not in data:
            yield f"license is 'other': {key} must say which"
        elif licence != "other" and key in data:
            yield f"{key} is only for the license 'other', but license is {licence!r}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


# --- models ----------------------------------------------------------------------------------------------------------


def _check_model(data: Mapping[str, Any], body: str, folder: Path | None) -> Iterator[str]:
    yield from _check_task(data, "diffusers", "image-to-image")
    yield from _check_base_model(data, body)
    if "model-index" in data:
        yield from check_model_index(data["model-index"])
    if folder is None:
        return
    yield from _check_against_config(data, folder)
    yield from _check_class(body, folder)
    title = re.search(r"^# (.+)$", body, re.MULTILINE)
    try:
        measured = read_measured(folder, title[1].strip() if title else "")
    except (ValueError, OSError) as error:
        yield str(error)
        return
    yield from compare_model_index(data.get("model-index"), measured)
    yield from compare_tables(body, measured)
    yield from check_weights(folder, measured)


def _check_segmenter(data: Mapping[str, Any], body: str, folder: Path | None) -> Iterator[str]:
    yield from _check_task(data, "transformers", "image-segmentation")
    if "model-index" in data:
        yield from check_model_index(data["model-index"])
        if folder is not None:
            yield from compare_mean_iou(data["model-index"], folder)


def _check_task(data: Mapping[str, Any], library: str, task: str) -> Iterator[str]:
    for key, expected in (("library_name", library), ("pipeline_tag", task)):
        if key in data and data[key] != expected:
            yield f"{key} is {data[key]!r}, expected {expected!r}"


def _check_base_model(data: Mapping[str, Any], body: str) -> Iterator[str]:
    bases, relation = _as_list(data.get("base_model")), data.get("base_model_relation")
    for base in bases:
        if not isinstance(base, str) or not is_hub_id(base):
            yield f"base_model is {base!r}, which is no Hub id, owner/name"
    if bases and relation is None:
        yield f"base_model_relation is missing: say what these weights are to {bases[0]}, such as finetune"
    if relation is not None and not bases:
        yield "base_model_relation is given without base_model"
    if relation is not None and relation not in RELATIONS:
        yield f"base_model_relation is {relation!r}, expected one of {', '.join(sorted(RELATIONS))}"
    if SD15 in bases and data.get("license") != SD15_LICENCE:
        yield f"the base model {SD15} is under {SD15_LICENCE}, but license is {data.get('license')!r}"
    if data.get("license") == SD15_LICENCE and "use-based restrictions" not in body:
        yield f"the licence {SD15_LICENCE} asks to pass its use-based restrictions on: the text must say so"


def _check_against_config(data: Mapping[str, Any], folder: Path) -> Iterator[str]:
    import yaml

    file = folder / "config.yaml"
    if not file.is_file():
        return
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    if isinstance(config, Mapping) and config.get("sd15") and data.get("base_model") != SD15:
        yield f"config.yaml says that the weights began as Stable Diffusion 1.5, so base_model must be {SD15}"


def _check_class(body: str, folder: Path) -> Iterator[str]:
    import json

    try:
        entry = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError):
        return
    stored = entry[-1] if isinstance(entry, list) and entry else entry
    imported = [name for _, name in imported_names(body)]
    if imported and stored not in imported:
        yield f"the Python blocks import {', '.join(map(str, imported))}, but the folder holds a {stored}"


# --- data sets -------------------------------------------------------------------------------------------------------


def _check_dataset(data: Mapping[str, Any], body: str, folder: Path | None) -> Iterator[str]:
    if "task_categories" in data and "image-to-image" not in _as_list(data["task_categories"]):
        yield f"task_categories are {data['task_categories']!r}, expected image-to-image among them"
    for category in _as_list(data.get("size_categories")):
        if category not in SIZE_CATEGORIES:
            yield f"size_categories: {category!r} is not one of the Hub's, such as n<1K"
    for config in _as_list(data.get("configs")):
        yield from _check_config(config, folder)


def _check_config(config: Any, folder: Path | None) -> Iterator[str]:
    if not isinstance(config, Mapping) or not config.get("config_name"):
        yield "configs: an entry has no config_name"
        return
    files = config.get("data_files")
    for entry in files if isinstance(files, list) else [{"path": files}] if isinstance(files, str) else []:
        if not isinstance(entry, Mapping) or not entry.get("path"):
            yield f"configs: {config['config_name']}: an entry of data_files has no path"
            continue
        for pattern in _as_list(entry["path"]):
            inside = not pattern.startswith(("/", "~")) and ".." not in pattern.split("/")
            if inside and folder is not None and not any(folder.glob(pattern)):
                yield f"configs: {config['config_name']}: no file fits {pattern!r}"
            elif not inside:
                yield f"configs: {config['config_name']}: {pattern!r} leads out of the repository"


# --- Spaces ----------------------------------------------------------------------------------------------------------


def _check_space(data: Mapping[str, Any], body: str, folder: Path | None) -> Iterator[str]:
    for key in ("sdk_version", "python_version"):
        if key in data and not isinstance(data[key], str):
            yield f"{key} is {data[key]!r}, a number to YAML, which drops zeros: put it in quotes"
    for key in ("colorFrom", "colorTo"):
        if key in data and data[key] not in COLOURS:
            yield f"{key} is {data[key]!r}, expected one of {', '.join(sorted(COLOURS))}"
    if data.get("sdk") == "gradio" and "sdk_version" not in data:
        yield "sdk_version is missing: without it the Space changes with every release of gradio"
    if len(str(data.get("short_description", ""))) > SHORT_DESCRIPTION:
        yield f"short_description is longer than {SHORT_DESCRIPTION} characters"
    if folder is not None and data.get("app_file") and not (folder / str(data["app_file"])).is_file():
        yield f"app_file is {data['app_file']!r}, which is not beside the card"
    if not body.strip():
        yield "the text is empty"
