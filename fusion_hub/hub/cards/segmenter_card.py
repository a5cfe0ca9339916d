"""The card of a SegFormer trained here, from the files beside its weights.

`render_segmenter_card` reads the weights, `segmentation.json` and `training.json` of the run, `metrics.json` of
`benchmarks/segmentation.py`, and `notes.md` where there is one.
"""

from collections.abc import Mapping
from typing import Any

from fusion_hub.hub.cards.datasets import DATA_SOURCES, describe_set, set_key
from fusion_hub.hub.cards.render import read_json
from fusion_hub.hub.cards.results import METRICS_FILE
from fusion_hub.hub.cards.spec import TAGS
from fusion_hub.hub.cards.templates import load_template
from fusion_hub.pretrained import SegmenterInfo

TASK = "image-segmentation"
WATCHED = " They were looked at while the training was set up: the numbers may be a little too good."


def render_segmenter_card(info: SegmenterInfo, *, watched: bool = True) -> str:
    """The card of a bundled SegFormer: Markdown with YAML front matter.

    Args:
        info: its row in the table; the folder must hold weights and all files named above.
        watched: whether the measured pictures were looked at while the training was set up.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or lacks a value that the card needs.
    """
    import jinja2

    folder = info.folder
    if not info.available:
        raise FileNotFoundError(f"there is no {folder / 'model.safetensors'}: bundle a run with train/bundle.py")
    about, training = read_json(folder / "segmentation.json"), read_json(folder / "training.json")
    measured = read_json(folder / METRICS_FILE)
    notes = folder / "notes.md"
    try:
        datasets = [describe_set(entry, {}) for entry in training["datasets"]]
        return load_template("segmenter_card.md.j2").render(
            card_data=_metadata(info, measured),
            name=info.name,
            summary=info.summary,
            parameters=info.parameters,
            licence=info.license.lower(),
            size=about["image_size"],
            classes=about["classes"],
            datasets=datasets,
            caveats=[dataset.caveat for dataset in datasets if dataset.caveat],
            stages=[*training.get("earlier", []), {**training, "inputs": [one["name"] for one in about["inputs"]]}],
            measured=measured,
            watched=WATCHED if watched else "",
            notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        )
    except (KeyError, jinja2.UndefinedError) as error:
        raise ValueError(f"{folder}: the card needs a value that no file there has: {error}") from error


def _metadata(info: SegmenterInfo, measured: Mapping[str, Any]) -> str:
    """The YAML of the card; its result is that on the pictures of the last stage, which `metrics.json` has first."""
    from huggingface_hub import EvalResult, ModelCardData

    key, _, split = str(measured["dataset"]).partition("/")
    row = next(iter(measured["inputs"].values()))
    result = EvalResult(
        task_type=TASK,
        task_name="Semantic segmentation",
        dataset_type=key,
        dataset_name=DATA_SOURCES[set_key(key)].title if set_key(key) in DATA_SOURCES else key,
        dataset_split=split or "all",
        dataset_args={"pictures": measured["pictures"], "input": next(iter(measured["inputs"]))},
        metric_type="mean_iou",
        metric_name="mIoU",
        metric_value=row["numbers"]["mIoU"],
    )
    data = ModelCardData(
        license=info.license.lower(),
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[*TAGS, "segformer", "infrared", "thermal", "visible"],
        metrics=["mean_iou"],
        model_name=info.name,
        eval_results=[result],
    )
    return data.to_yaml(original_order=["license", "library_name", "pipeline_tag", "tags", "metrics"])
