"""Cards: the README that the Hub shows for a repository, rendered from the files beside it.

    text = render_model_card(folder, name="street", repo_id="me/street")
    problems = validate_card(text, folder)          # empty if the card is valid

Every number on a card comes from a file: `training.json` of the run, `metrics.json` of the evaluation, `speed.json` of
the benchmark. Texts about data sets and papers come from `templates/cards.yaml`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from huggingface_hub import CardData, DatasetCardData, EvalResult, ModelCardData
from safetensors import safe_open

from fusion_hub.evaluation import leaderboard
from fusion_hub.hub.card_checks import (
    METRICS_FILE,
    SD15,
    SD15_LICENSE,
    TABLES,
    TEMPLATES,
    class_name,
    find_license,
    read_config,
    read_json,
    read_measured,
    validate_card,
)
from fusion_hub.metrics import find_metric
from fusion_hub.pipelines.checkpoints import PRETRAINED, DetectorInfo, SegmenterInfo, trained_on
from fusion_hub.repositories import is_hub_id

__all__ = [
    "DATA_SOURCES",
    "DataSource",
    "render_dataset_card",
    "render_model_card",
    "render_predictor_card",
    "validate_card",
]

TAGS = ("fusion_hub", "image-fusion")
"""Tags of everything that this package publishes."""
METHODS: dict[str, dict[str, Any]] = TABLES["methods"]
"""The paper behind each network, by its class name."""
SETTINGS: list[str] = TABLES["settings"]
"""Fields of every training configuration that a card shows."""
SPLITS = ("train", "training", "val", "validation", "test")
KEY_ORDER = [
    *("pretty_name", "license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model"),
    *("base_model_relation", "datasets", "tags", "metrics"),
]
"""The first keys of the metadata."""
LOCAL_FOLDERS = ("data", "datasets", "dataset", "runs", "shared")
"""First parts of relative paths that look like a Hub id."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


# --- training data and the origin of weights -------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """A data set that a checkpoint may have been trained on.

    Attributes:
        title: its name.
        source: where the pictures come from.
        licence: the terms in the source's own words.
        medical: pairs of MRI with CT, PET or SPECT.
        caveat: one sentence on the limits of numbers on its test pairs, or on its terms; or empty.
        key, split, pairs, hub_id: as one run used it; `hub_id` if it is on the Hub.
    """

    title: str
    source: str
    licence: str
    medical: bool = False
    caveat: str = ""
    key: str = ""
    split: str | None = None
    pairs: int | None = None
    hub_id: str | None = None


DATA_SOURCES: dict[str, DataSource] = {key: DataSource(**entry) for key, entry in TABLES["sources"].items()}
"""By the last part of their path, as in `data/msrs`."""


def describe_set(entry: Mapping[str, Any], terms: Mapping[str, str]) -> DataSource:
    """A data set of `training.json` (`path`, `split`, `pairs`) with its source and license.

    `terms` states those of sets that are not in `DATA_SOURCES`, by name. ValueError if they are not known.
    """
    path = str(entry["path"])
    # As in `PairedDataset.open`: a local folder takes precedence over a Hub id.
    local = path.split("/")[0] in LOCAL_FOLDERS or path.split("/")[-1] in DATA_SOURCES or Path(path).exists()
    hub_id = path if is_hub_id(path) and not local else None
    key = hub_id or set_key(path)
    if key in terms:
        known = DataSource(key, terms[key], "as stated beside it")
    elif hub_id is not None:
        known = DataSource(key, f"https://huggingface.co/datasets/{hub_id}", "see its card")
    elif key in DATA_SOURCES:
        known = DATA_SOURCES[key]
    else:
        raise ValueError(
            f"the card must name the terms of the training set {key!r}, which is not among {', '.join(DATA_SOURCES)}: "
            f'state them: --data-terms "{key}=own pictures, CC-BY-4.0"'
        )
    split = entry["split"] or _path_split(path)
    return dataclasses.replace(known, key=key, split=split, pairs=entry["pairs"], hub_id=hub_id)


def set_key(path: str) -> str:
    """Name of a data set from its path: the last part that is not a split."""
    parts = [part for part in re.split(r"[/\\]", path) if part]
    while len(parts) > 1 and parts[-1].lower() in SPLITS:
        parts.pop()
    return parts[-1].split(":")[0] if parts else path


def _path_split(path: str) -> str | None:
    """The split that the last part of a path names, as in `data/mine/train`."""
    parts = [part for part in re.split(r"[/\\]", path) if part]
    return parts[-1] if len(parts) > 1 and parts[-1].lower() in SPLITS else None


class Origin(NamedTuple):
    """What the weights were initialized with (None for weights from scratch), and the license that follows.

    Attributes:
        license: id in the Hub's list.
        base_model: Hub id; None for a local folder, too.
        started_from: the name in the text.
        sd15: derived from Stable Diffusion 1.5.
    """

    license: str
    base_model: str | None
    started_from: str | None
    sd15: bool = False

    @property
    def restricted(self) -> bool:
        """Whether the license requires passing use restrictions on."""
        return self.license == SD15_LICENSE


def find_origin(
    config: Mapping[str, Any], licence: str | None, base_model: str | None, seen: tuple[str, ...] = ()
) -> Origin:
    """Origin of a run's weights, from its configuration and from those of earlier runs that still exist.

    `licence` and `base_model` as in `render_model_card`, `seen` are the runs visited so far.

    Raises:
        ValueError: the license is not in the Hub's list, cannot be that of the weights, or must be given.
    """
    start = config.get("initial_weights")
    chosen = None if licence is None else find_license(licence)
    if base_model is not None and not is_hub_id(base_model):
        raise ValueError(f"base_model is {base_model!r}: give the Hub id of a model, owner/name")
    if config.get("sd15") or base_model == SD15:
        if chosen not in (None, SD15_LICENSE):
            raise ValueError(
                f"the weights come from Stable Diffusion 1.5, so their license is {SD15_LICENSE}, not {licence}"
            )
        return Origin(SD15_LICENSE, SD15, "Stable Diffusion 1.5", sd15=True)
    if start is None:
        return Origin(chosen or "apache-2.0", base_model, base_model)
    if start in PRETRAINED:
        return Origin(chosen or PRETRAINED[start].license.lower(), base_model, start)
    path = Path(start)
    run = path.parent.name if path.name == "pipeline" and path.parent.name else path.name
    if (path / "config.yaml").is_file() and start not in seen:
        earlier = find_origin(read_config(path), licence, base_model, (*seen, start))
        return earlier if earlier.sd15 else earlier._replace(started_from=run)
    if chosen is None:
        raise ValueError(
            f"the weights were initialized with those of {run!r}, whose license is not known here: give a license that "
            "theirs allows"
        )
    if base_model is None and is_hub_id(start) and not start.startswith("runs/") and not path.exists():
        base_model = start
    return Origin(chosen, base_model, base_model or run)


# --- models ----------------------------------------------------------------------------------------------------------


def render_model_card(
    folder: Path,
    *,
    name: str,
    repo_id: str | None = None,
    summary: str | None = None,
    licence: str | None = None,
    licence_name: str | None = None,
    licence_link: str | None = None,
    base_model: str | None = None,
    data_terms: Mapping[str, str] | None = None,
) -> str:
    """The card of the checkpoint in `folder`: Markdown with YAML front matter.

    Args:
        folder: a pipeline folder with `config.yaml` and `training.json`. `metrics.json`, `speed.json`, `sample.png`,
            `LICENSE` and `notes.md` (list items with what no other file states) are shown where they exist.
        name: of the model, in headings and tables.
        repo_id: `owner/name` under which it is published; None: the bundled name, or the folder.
        summary: one or two sentences; None: a sentence that follows from the training data.
        licence: id in the Hub's list, any case; None: Apache-2.0, or CreativeML OpenRAIL-M for weights that come from
            Stable Diffusion 1.5.
        licence_name, licence_link: for the license `other`.
        base_model: Hub id of the model that these weights come from; None: as `config.yaml` says.
        data_terms: source and license, in a few words, of training sets that this package does not know.

    Raises:
        FileNotFoundError: the weights, `config.yaml` or `training.json` are missing.
        ValueError: a file is damaged or lacks a value that the card needs, the terms of a training set are not known,
            or the license is not in the Hub's list or cannot be that of these weights.
    """
    folder = Path(folder)
    parameters = count_parameters(folder)
    index = read_json(folder / "model_index.json")
    network = class_name(index, "model")
    if network not in METHODS:
        raise ValueError(f"{folder}: there is no card for a {network}, only for {', '.join(METHODS)}")
    method, config, training = METHODS[network], read_config(folder), read_json(folder / "training.json")
    measured = read_measured(folder, name)
    results = measured.results if measured else ()
    origin = find_origin(config, licence, base_model)
    try:
        datasets = [describe_set(entry, data_terms or {}) for entry in training["datasets"]]
    except KeyError as error:
        raise ValueError(f"{folder / 'training.json'}: it lacks {error}, which the card needs") from error
    medical = any(dataset.medical for dataset in datasets)
    columns = list(dict.fromkeys(column for result in results for column in result.columns))
    card_data = ModelCardData(
        license=origin.license,
        license_name=licence_name,
        license_link=licence_link,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        base_model=origin.base_model,
        base_model_relation="finetune" if origin.base_model else None,
        datasets=[dataset.hub_id for dataset in datasets if dataset.hub_id] or None,
        tags=[*TAGS, *(("medical-imaging", "mri") if medical else ("infrared", "thermal", "visible"))],
        metrics=columns or None,
    )
    entries = [
        EvalResult(
            task_type="image-to-image",
            task_name="Image fusion",
            dataset_type=result.key,
            dataset_name=_set_title(result.key),
            dataset_split=result.split,
            dataset_args={"pairs": result.pairs} if result.pairs else None,
            metric_type=column,
            metric_name=column,
            metric_value=value,
        )
        for result in results
        for column in result.columns
        if (value := result.metrics[column]) is not None
    ]
    if entries:
        card_data.model_name, card_data.eval_results = name, entries
    # The Harvard pairs of the paper have no name here: a scan's card shows that table, a street's does not.
    scans = trained_on(folder) == "medical"
    printed = [
        {"title": table.title, "note": table.note, "convention": row.convention, "values": row.values}
        for table in leaderboard.read_published().printed
        for row in table.rows
        if row.method == method["title"]
        and (
            table.dataset in {result.dataset for result in results}
            or (scans and table.dataset is None and "medical" in table.title)
        )
    ]
    resume, speed = config.get("resume"), folder / "speed.json"
    return _render(
        "model_card.md.j2",
        folder,
        card_data,
        name=name,
        pipeline_class=class_name(index, "_class_name"),
        parameters=parameters,
        method=method,
        config=config,
        training=training,
        datasets=datasets,
        measured=measured,
        results=results,
        repo_id=repo_id,
        bundled=repo_id is None and name in PRETRAINED,
        summary=summary,
        medical=medical,
        origin=origin,
        license_name=licence_name or origin.license,
        license_link=licence_link,
        settings=[(key, config[key]) for key in (*SETTINGS, *method["settings"]) if config.get(key) is not None],
        # The checkpoint that the run resumed from, without the folders of a machine.
        resumed_from="/".join(Path(resume).parts[-2:]) if resume and "/" in resume else None,
        caveats=dict.fromkeys(dataset.caveat for dataset in datasets if dataset.caveat),
        trained_on=_trained_on(results, datasets),
        metrics=[find_metric(column) for column in columns],
        printed=printed,
        speed=read_json(speed) if speed.is_file() else None,
        has={file: (folder / file).is_file() for file in ("LICENSE", "sample.png")}
        | {"fp16": any(folder.glob("model/*.fp16*.safetensors")), "onnx": (folder / "model.onnx").is_file()},
    )


def find_trained(folder: Path, name: str, terms: Mapping[str, str]) -> list[str]:
    """The sets of `metrics.json` whose pairs the model in `folder` was trained on; arguments as in a card."""
    measured, training = read_measured(folder, name), read_json(folder / "training.json")
    return _trained_on(measured.results if measured else (), [describe_set(e, terms) for e in training["datasets"]])


def _trained_on(results: Sequence[Any], datasets: Sequence[DataSource]) -> list[str]:
    trained = {(dataset.key, dataset.split) for dataset in datasets}
    return [result.dataset for result in results if trained & {(result.key, None), (result.key, result.split)}]


def count_parameters(folder: Path) -> int:
    """Number of parameters in the stored weights of `model/`; FileNotFoundError if there are none."""
    weights = sorted(folder.glob("model/*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"no weights in {folder / 'model'}: give the folder of a complete pipeline")
    total = 0
    for file in [file for file in weights if file.name.count(".") == 1] or weights:  # without variants such as .fp16.
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total


def _set_title(key: str) -> str:
    return DATA_SOURCES[key].title if key in DATA_SOURCES else key


class _Predictor(NamedTuple):
    """What the cards of one task have in common."""

    about_file: str  # beside the weights: inputs and classes
    tags: tuple[str, ...]
    metric: str  # as the Hub names the score
    fixed: Mapping[str, Any]  # metadata
    title: str

    @property
    def template(self) -> str:
        return f"{self.fixed['pipeline_tag'].replace('-', '_')}_card.md.j2"


_PREDICTORS = {
    "segmentation": _Predictor(
        "segmentation.json",
        ("segformer",),
        "mean_iou",
        TABLES["metadata"]["segmenter"]["fixed"],
        "Semantic segmentation",
    ),
    "detection": _Predictor(
        "inputs.json", ("object-detection",), "mAP50", TABLES["metadata"]["detector"]["fixed"], "Object detection"
    ),
}


def render_predictor_card(info: SegmenterInfo | DetectorInfo, *, watched: bool = True) -> str:
    """The card of a bundled SegFormer or detector: Markdown with YAML front matter.

    Args:
        info: its row in the table. The folder must hold the weights, `segmentation.json` or `inputs.json`,
            `training.json`, and `metrics.json` of `benchmarks/segmentation.py` or `zero_shot.py`; `notes.md` is
            optional.
        watched: whether measured pictures, other than test pictures, were looked at while the training was set up.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or lacks a value that the card needs.
    """
    folder, task = info.folder, _PREDICTORS[info.task]
    if not info.available:
        raise FileNotFoundError(f"the weights are missing from {folder}: bundle a run with train/bundle.py")
    about, training = read_json(folder / task.about_file), read_json(folder / "training.json")
    measured = read_json(folder / METRICS_FILE)
    try:
        datasets = [describe_set(entry, {}) for entry in training["datasets"]]
        key, _, split = str(measured["dataset"]).partition("/")
        first, row = next(iter(measured["inputs"].items()))  # the pictures of the last stage
        card_data = ModelCardData(
            license=info.license.lower(),
            **task.fixed,
            tags=[*TAGS, *task.tags, "infrared", "thermal", "visible"],
            metrics=[task.metric],
            model_name=info.name,
            eval_results=[
                EvalResult(
                    task_type=task.fixed["pipeline_tag"],
                    task_name=task.title,
                    dataset_type=key,
                    dataset_name=_set_title(key),
                    dataset_split=split or "all",
                    dataset_args={"pictures": measured["pictures"], "input": first},
                    metric_type=task.metric,
                    metric_name=info.score,
                    metric_value=row["numbers"][info.score],
                )
            ],
        )
        return _render(
            task.template,
            folder,
            card_data,
            name=info.name,
            summary=info.summary,
            parameters=info.parameters,
            license=info.license.lower(),
            size=about["image_size"],
            classes=about["classes"],
            datasets=datasets,
            caveats=[dataset.caveat for dataset in datasets if dataset.caveat],
            stages=[*training.get("earlier", []), {**training, "inputs": [one["name"] for one in about["inputs"]]}],
            measured=measured,
            watched=watched and split != "test",
        )
    except KeyError as error:
        raise ValueError(f"{folder}: the card needs a value that no file there has: {error}") from error


# --- datasets --------------------------------------------------------------------------------------------------------

COLUMNS = {
    "visible": "the visible image; CT, PET or SPECT in medical data sets",
    "infrared": "the infrared image with the same view and size; MRI in medical data sets",
    "name": "name of the pair, unique in its split",
    "label": "segmentation map",
}
"""What the usual columns hold."""


def render_dataset_card(
    *,
    name: str,
    repo_id: str,
    splits: Mapping[str, int],
    columns: Mapping[str, str] | Sequence[str],
    licence: str,
    source: str,
    description: str,
    generated: bool = False,
    medical: bool = False,
    licence_name: str | None = None,
    licence_link: str | None = None,
    configs: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The card of a dataset of pairs.

    Args:
        name: title of the card.
        repo_id: `owner/name` under which it is published.
        splits: number of pairs in each split.
        columns: names, or names with what each holds.
        licence: id in the Hub's list, any case.
        source: where the pictures come from.
        description: what they show, one or more sentences.
        generated: synthetic pictures, no photographs.
        medical: MRI with CT, PET or SPECT.
        licence_name, licence_link: for the license `other`.
        configs: the Hub's `configs`, which assign files to splits; None where file names alone do.

    Raises:
        ValueError: there are no splits or an empty one, or the id or the license is not valid.
    """
    license_id = find_license(licence)
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id is {repo_id!r}: give owner/name")
    if not splits or min(splits.values()) < 1:
        raise ValueError(f"splits are {dict(splits)}: there must be at least one split, with a pair in each")
    pairs = sum(splits.values())
    card_data = DatasetCardData(
        pretty_name=name,
        license=license_id,
        license_name=licence_name,
        license_link=licence_link,
        task_categories=["image-to-image"],
        size_categories=[next((category for limit, category in _SIZES if pairs < limit), "1M<n<10M")],
        tags=[*TAGS, *(("medical-imaging",) if medical else ("infrared", "visible"))],
        configs=[dict(config) for config in configs] if configs else None,
    )
    return _render(
        "dataset_card.md.j2",
        Path(repo_id),
        card_data,
        name=name,
        repo_id=repo_id,
        splits=splits,
        columns=columns if isinstance(columns, Mapping) else {column: COLUMNS.get(column, "") for column in columns},
        license=licence_name or license_id,
        license_link=licence_link,
        source=source,
        description=description,
        generated=generated,
        medical=medical,
    )


# --- templates -------------------------------------------------------------------------------------------------------


def _render(template: str, folder: Path, card_data: CardData, **values: Any) -> str:
    """A template of `fusion_hub/templates`, filled. A value that is missing is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": lambda text: " ".join(str(text).split()).replace("|", "\\|"),
        "percent": lambda value: f"{100 * value:.1f}",
        "duration": _duration,
    }
    notes = folder / "notes.md"
    values["notes"] = notes.read_text(encoding="utf-8").strip() if notes.is_file() else ""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    try:
        return environment.from_string(text).render(card_data=card_data.to_yaml(original_order=KEY_ORDER), **values)
    except jinja2.UndefinedError as error:
        raise ValueError(f"{folder}: the card needs a value that no file there has: {error}") from error


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
