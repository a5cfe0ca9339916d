"""Cards from the files beside the weights, so that card and files cannot disagree.

`render_model_card` reads a pipeline folder of any trained model: `model_index.json` and the weights, `config.yaml` and
`training.json` of the run, and where they exist `metrics.json` (of `benchmarks/quality.py` or `fusion-hub evaluate`),
`speed.json` (of `benchmarks/speed.py`), `sample.png`, and `notes.md`: what its maker knows and no file says, as list
items.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fusion_hub.hub.cards.datasets import DATA_SOURCES, TrainingSet, describe_set
from fusion_hub.hub.cards.methods import METHODS, SETTINGS, Method
from fusion_hub.hub.cards.results import Measured, Result, count_parameters, read_measured
from fusion_hub.hub.cards.spec import LICENCES, SD15, SD15_LICENCE, TAGS, is_hub_id
from fusion_hub.hub.cards.templates import load_template
from fusion_hub.pretrained import PRETRAINED

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

SUMMARIES = {
    False: "Fuses a visible image with a thermal infrared one.",
    True: "Fuses slices of MRI with CT, PET or SPECT. For research, not for diagnosis.",
}
TAGS_BY_KIND = {False: ("infrared", "thermal", "visible"), True: ("medical-imaging", "mri")}
MODALITIES = {False: "visible + infrared", True: "CT, PET or SPECT + MRI"}
_KEY_ORDER = [
    *("license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model", "base_model_relation"),
    *("datasets", "tags", "metrics"),
]


class Checkpoint(NamedTuple):
    """What the files of a pipeline folder say.

    Attributes:
        pipeline_class: name in `fusion_hub`.
        parameters: their number.
        method: the paper behind the network.
        config, training: of the run.
        datasets: the sets it learned from.
        measured: None if nothing was.
        speed: of `speed.json`, None without the file.
        notes: Markdown list items of `notes.md`, or nothing.
        has: whether optional files are there, by name; `fp16` for weights of that variant.
    """

    pipeline_class: str
    parameters: int
    method: Method
    config: Mapping[str, Any]
    training: Mapping[str, Any]
    datasets: list[TrainingSet]
    measured: Measured | None
    speed: Mapping[str, Any] | None
    notes: str
    has: Mapping[str, bool]

    @property
    def results(self) -> tuple[Result, ...]:
        return self.measured.results if self.measured else ()

    @property
    def medical(self) -> bool:
        return any(dataset.medical for dataset in self.datasets)


class Origin(NamedTuple):
    """Where the weights began, and what follows for their licence.

    Attributes:
        licence: id of the Hub's list.
        base_model: Hub id, None for weights from scratch or from a local folder.
        started_from: what the text names; None for weights from scratch.
        sd15: derived from Stable Diffusion 1.5.
    """

    licence: str
    base_model: str | None
    started_from: str | None
    sd15: bool

    @property
    def restricted(self) -> bool:
        """Whether the licence asks to pass use restrictions on."""
        return self.licence == SD15_LICENCE


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
        folder: a pipeline folder with `config.yaml` and `training.json`.
        name: of the model, in headings and tables.
        repo_id: `owner/name` under which it is published; None: the bundled name, or the folder.
        summary: one or two sentences; None: by what it was trained on.
        licence: id of the Hub's list, any case; None: Apache-2.0, and CreativeML OpenRAIL-M for weights that come from
            Stable Diffusion 1.5.
        licence_name, licence_link: for the licence `other`.
        base_model: Hub id of the model that these weights come from; None: as `config.yaml` says.
        data_terms: source and licence, in a few words, of training sets that this package does not know.

    Raises:
        FileNotFoundError: the weights, `config.yaml` or `training.json` are missing; without `metrics.json` the card
            says that nothing was measured.
        ValueError: a file is damaged or lacks a value that the card needs, the terms of a training set are not known,
            or the licence is not one of the Hub's, or cannot be that of these weights.
    """
    import jinja2

    checkpoint = _read(Path(folder), name, data_terms or {})
    origin = find_origin(checkpoint.config, licence, base_model)
    results, datasets = checkpoint.results, checkpoint.datasets
    card_data = _metadata(checkpoint, origin, name, licence_name, licence_link)
    try:
        return load_template("model_card.md.j2").render(
            **checkpoint._asdict(),
            card_data=card_data,
            name=name,
            repo_id=repo_id,
            bundled=repo_id is None and name in PRETRAINED,
            summary=summary or SUMMARIES[checkpoint.medical],
            modality=MODALITIES[checkpoint.medical],
            medical=checkpoint.medical,
            origin=origin,
            licence_name=licence_name or origin.licence,
            licence_link=licence_link,
            settings=_settings(checkpoint),
            resumed_from=_resumed_from(checkpoint.config),
            caveats=_unique(dataset.caveat for dataset in datasets if dataset.caveat),
            results=results,
            trained_on=[result.dataset for result in results if _was_trained_on(result, datasets)],
            metrics=_metric_notes(results),
            printed=_printed(checkpoint.method, results),
        )
    except jinja2.UndefinedError as error:
        raise ValueError(f"{folder}: the card needs a value that no file there has: {error}") from error


def find_origin(
    config: Mapping[str, Any], licence: str | None, base_model: str | None, seen: tuple[str, ...] = ()
) -> Origin:
    """Where the weights of a run began, from its configuration and from those of earlier runs that are still there.

    Args:
        config: of the run: `sd15`, `initial_weights`.
        licence, base_model: as in `render_model_card`.
        seen: earlier runs that were looked at already.

    Raises:
        ValueError: the licence is not one of the Hub's, cannot be that of the weights, or has to be given.
    """
    start = config.get("initial_weights")
    if licence is not None and licence.lower() not in LICENCES:
        raise ValueError(
            f"the licence {licence!r} is none of the Hub's ids, such as apache-2.0: take one of "
            "https://huggingface.co/docs/hub/repositories-licenses, or `other` with a name and a link"
        )
    if base_model is not None and not is_hub_id(base_model):
        raise ValueError(f"base_model is {base_model!r}: give the Hub id of a model, owner/name")
    if config.get("sd15") or base_model == SD15:
        if licence is not None and licence.lower() != SD15_LICENCE:
            raise ValueError(
                f"the weights come from Stable Diffusion 1.5, so their licence is {SD15_LICENCE}, not {licence}"
            )
        return Origin(SD15_LICENCE, SD15, "Stable Diffusion 1.5", sd15=True)
    if start is None:
        return Origin((licence or "Apache-2.0").lower(), base_model, base_model, sd15=False)
    if start in PRETRAINED:
        return Origin((licence or PRETRAINED[start].license).lower(), base_model, start, sd15=False)
    if (Path(start) / "config.yaml").is_file() and start not in seen:
        earlier = find_origin(read_config(Path(start)), licence, base_model, (*seen, start))
        return earlier if earlier.sd15 else earlier._replace(started_from=_run_name(start))
    if licence is None:
        raise ValueError(
            f"the weights began as those of {_run_name(start)!r}, whose licence is not known here: give the licence, "
            "one that theirs allows"
        )
    if base_model is None and is_hub_id(start) and not start.startswith("runs/") and not Path(start).exists():
        base_model = start
    return Origin(licence.lower(), base_model, base_model or _run_name(start), sd15=False)


def _run_name(folder: str) -> str:
    """Of the run that a pipeline folder is from: `runs/street/pipeline` -> `street`; nothing of the folders above."""
    path = Path(folder)
    return path.parent.name if path.name == "pipeline" and path.parent.name else path.name


# --- metadata --------------------------------------------------------------------------------------------------------


def _metadata(
    checkpoint: Checkpoint, origin: Origin, name: str, licence_name: str | None, licence_link: str | None
) -> str:
    """The YAML of the card."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=origin.licence,
        license_name=licence_name,
        license_link=licence_link,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        base_model=origin.base_model,
        base_model_relation="finetune" if origin.base_model else None,
        datasets=[dataset.hub_id for dataset in checkpoint.datasets if dataset.hub_id] or None,
        tags=[*TAGS, *TAGS_BY_KIND[checkpoint.medical]],
        metrics=_unique(column for result in checkpoint.results for column in result.columns) or None,
    )
    if entries := _eval_results(checkpoint.results):
        data.model_name, data.eval_results = name, entries
    return data.to_yaml(original_order=_KEY_ORDER)


def _eval_results(results: Iterable[Result]) -> list["EvalResult"]:
    """Entries of `model-index`: the shown metrics of every set, with the values of the file; without undefined ones."""
    from huggingface_hub import EvalResult

    titles = {key: source.title for key, source in DATA_SOURCES.items()}
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Image fusion",
            dataset_type=result.key,
            dataset_name=titles.get(result.key, result.key),
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


# --- what the text needs ---------------------------------------------------------------------------------------------


def _settings(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    names = (*SETTINGS, *checkpoint.method.settings)
    return [(name, checkpoint.config[name]) for name in names if checkpoint.config.get(name) is not None]


def _was_trained_on(result: Result, datasets: Iterable[TrainingSet]) -> bool:
    """Whether pairs of a measured set were, or may have been, trained on."""
    return any(dataset.key == result.key and dataset.split in (None, result.split) for dataset in datasets)


def _resumed_from(config: Mapping[str, Any]) -> str | None:
    """The checkpoint of another run that this one went on from, without the folders of a machine."""
    resume = config.get("resume")
    return "/".join(Path(resume).parts[-2:]) if resume and "/" in resume else None


def _metric_notes(results: Iterable[Result]) -> list[tuple[str, str, str]]:
    """Name, better direction and convention of each shown metric."""
    from fusion_hub.metrics import find_metric

    found = [find_metric(name) for name in _unique(column for result in results for column in result.columns)]
    return [(metric.name, {"up": "higher", "down": "lower"}[metric.direction], metric.convention) for metric in found]


def _printed(method: Method, results: Iterable[Result]) -> list[dict[str, Any]]:
    """The paper's own rows, for the sets that were measured: shown apart, with what is known of their pairs."""
    from fusion_hub.evaluation.leaderboard import read_published

    measured = {result.dataset for result in results}
    return [
        {"title": table.title, "note": table.note, "values": {name: found.mean for name, found in row.metrics.items()}}
        for table in read_published().printed
        for row in table.rows
        if row.method == method.title and table.dataset in measured
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# --- files -----------------------------------------------------------------------------------------------------------


def _read(folder: Path, name: str, data_terms: Mapping[str, str]) -> Checkpoint:
    parameters = count_parameters(folder)
    index = read_json(folder / "model_index.json")
    pipeline_class, model_class = (_class_name(index, key) for key in ("_class_name", "model"))
    if model_class not in METHODS:
        raise ValueError(f"{folder}: no card is written for a {model_class}: it is not one of {', '.join(METHODS)}")
    config, training = read_config(folder), read_json(folder / "training.json")
    try:
        datasets = [describe_set(entry, data_terms) for entry in training["datasets"]]
    except KeyError as error:
        raise ValueError(f"{folder / 'training.json'}: it lacks {error}, which the card needs") from error
    notes = folder / "notes.md"
    return Checkpoint(
        pipeline_class,
        parameters,
        METHODS[model_class],
        config,
        training,
        datasets,
        read_measured(folder, name),
        read_json(folder / "speed.json") if (folder / "speed.json").is_file() else None,
        notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        {file: (folder / file).is_file() for file in ("LICENSE", "sample.png")}
        | {"fp16": any(folder.glob("model/*.fp16*.safetensors"))},
    )


def read_config(folder: Path) -> dict[str, Any]:
    """`config.yaml` of a run.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged.
    """
    import yaml

    file = folder / "config.yaml"
    try:
        config = yaml.safe_load(_read_text(file))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected names and values, got a {type(config).__name__}")
    return config


def _read_text(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: give the pipeline folder of a training run")
    return file.read_text(encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or no object.
    """
    try:
        content = json.loads(_read_text(file))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got a {type(content).__name__}")
    return content


def _class_name(index: Mapping[str, Any], key: str) -> str:
    """`["pipeline", "REDPipeline"]` or `"REDPipeline"` -> `"REDPipeline"`."""
    entry = index.get(key)
    return str(entry[-1] if isinstance(entry, list) and entry else entry)
