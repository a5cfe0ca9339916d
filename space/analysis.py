"""The tabs See more, Measure and How it works: what detectors, metrics and the network itself show of one pair."""

import os
import threading
from functools import lru_cache
from typing import Any

from fuse import LANE, as_png, fuse_pair, preview, save_preview
from gpu import current_device, on_gpu
from PIL import Image
from storage import new_folder
from uploads import LOG, Refusal, error_messages

from fusion_hub import downstream, evaluation
from fusion_hub.data.pairs import Pair
from fusion_hub.evaluation.records import GUARD_METRICS, measure_pair, summarize, warnings_of
from fusion_hub.evaluation.report import heading
from fusion_hub.evaluation.statistics import format_value
from fusion_hub.explain import explain as panels_of
from fusion_hub.metrics import find_metric
from fusion_hub.pretrained import SEGMENTERS

DETECTOR_VARIABLE, SEGMENTER_VARIABLE = "FUSION_HUB_DETECTOR", "FUSION_HUB_SEGMENTER"
MIN_SCORE = 0.1  # the lowest threshold
BUNDLED_SEGMENTER = "segformer-b0-msrs"
TITLES = ("Visible", "Infrared", "Fused")

SETUP = {
    "detector": f"No detector is set up here. Start the server with `{DETECTOR_VARIABLE}` set to the path or the Hub "
    'id of a YOLO file in ONNX (such as YOLOX), and `pip install "fusion-hub[downstream]"`.',
    "segmenter": f"No segmentation model is set up here. Set `{SEGMENTER_VARIABLE}` to a folder or the Hub id of a "
    "SegFormer.",
}
SEGMENTED = (
    "The colors below are the guesses of a segmentation model for each pixel, with the share of the picture that each "
    "class covers."
)
BUNDLED_SEGMENTED = (
    f"{SEGMENTED} The model is a SegFormer-B0 that this project trained on the street scenes of MSRS, fused, visible "
    "and infrared, with their nine classes. This is an **illustration** too: on other scenes it may see cars and "
    "persons where there are none."
)

_loading = threading.Lock()


@lru_cache
def load_once(kind: str, name: str) -> tuple[Any, str]:
    """The detector or segmenter of this server, or None and how to set one up."""
    if not name:
        return None, SETUP[kind]
    try:
        if kind == "detector":
            return downstream.load_detector(name), ""
        return downstream.SegformerSegmenter.from_pretrained(name, device=current_device()), ""
    except (ImportError, OSError, ValueError) as error:
        LOG.error("the %s cannot be loaded: %s", kind, error)
        return None, f"The {kind} of this server cannot be loaded; its log says why. {SETUP[kind]}"


@on_gpu(seconds=20)
@error_messages()
def detect(
    visible: str | None,
    infrared: str | None,
    model: str,
    threshold: float = 0.3,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> tuple[list[tuple[str, str]], str]:
    """Fuse a pair and detect objects in the visible, the infrared and the fused image with one threshold.

    This is an illustration, not an evaluation: the detector was trained on photographs.

    Args:
        visible: the image that gives color.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint that fuses.
        threshold: lowest score of a detection that counts, from 0.1 to 0.9.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        The pictures with detections, then with classes where a segmenter is set up; what only the fused one shows.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise Refusal("Unknown threshold", f"The threshold is a number from {MIN_SCORE} to 0.9.")
    fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range)
    pictures = (fusion.visible, fusion.infrared, fusion.fused)
    folder = new_folder()
    bundled = BUNDLED_SEGMENTER if SEGMENTERS[BUNDLED_SEGMENTER].available else ""
    with _loading:
        finder, no_finder = load_once("detector", os.environ.get(DETECTOR_VARIABLE, ""))
        classifier, no_classifier = load_once("segmenter", os.environ.get(SEGMENTER_VARIABLE) or bundled)
    gallery: list[tuple[str, str]] = []
    with LANE:
        text = no_finder
        if finder is not None:
            found = [finder.detect(picture, threshold=MIN_SCORE) for picture in pictures]
            comparison = downstream.compare(found[2], found[0], found[1], threshold=max(threshold, MIN_SCORE))
            strong = (comparison.visible, comparison.infrared, comparison.fused)
            for title, picture, boxes in zip(TITLES, pictures, strong, strict=True):
                counts = ", ".join(f"{name} {count}" for name, count in boxes.counts().items()) or "nothing found"
                drawn = downstream.draw_detections(picture, boxes)
                gallery.append((save_preview(drawn, folder / f"detected_{title.lower()}.png"), f"{title}: {counts}"))
            text = comparison.sentence
        if classifier is None:
            return gallery, f"{text}\n\n{no_classifier}"
        for title, picture in zip(TITLES, pictures, strict=True):
            drawn = downstream.overlay_segmentation(picture, classifier.segment(picture))
            gallery.append((save_preview(drawn, folder / f"segmented_{title.lower()}.png"), f"{title}: what is where"))
    return gallery, f"{text}\n\n{SEGMENTED if os.environ.get(SEGMENTER_VARIABLE) else BUNDLED_SEGMENTED}"


MEASURE_MAX_PIXELS = 2_000_000  # the metrics of a larger pair take too long for a page
METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM")
RULES = ("average", "maximum")
HEADERS = ("Metric", "Fused", "Average", "Maximum", "What it says")


@on_gpu(seconds=20)
@error_messages()
def measure(
    visible: str | None,
    infrared: str | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> tuple[list[list[str]], str]:
    """Fuse a pair and measure the fused image with the metrics of the papers.

    Args:
        visible: the image that gives color; the pair has at most 2 megapixels.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint that fuses.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        A row for each metric: name, its value for the fused image and for two simple rules, its meaning; and warnings.
    """
    fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range, max_pixels=MEASURE_MAX_PIXELS)
    pair = Pair("pair", *(Image.fromarray(source) for source in fusion.sources))
    fused = as_png(fusion.image)
    methods = [evaluation.Method(model, "model", lambda pair, dataset: fused), *map(evaluation.baseline_method, RULES)]
    rows = []
    with LANE:
        for method in methods:  # as `fusion-hub evaluate` measures one pair
            record = measure_pair(evaluation.luminance(method.fuse(pair, "")), *fusion.sources, METRICS)
            rows.append(summarize(method, "pair", {"pair": record}, METRICS))
    return [_table_line(name, rows) for name in (*METRICS, *GUARD_METRICS)], _guard_rails(*rows)


def _table_line(name: str, rows: list[evaluation.Row]) -> list[str]:
    metric = find_metric(name)
    better = "Higher" if metric.direction == "up" else "Lower"
    meaning = f"{better} is better: {metric.rewards}. Fooled by {metric.fooled_by}."
    return [heading(name).replace("_", ", "), *(format_value(name, row.metrics[name].mean) for row in rows), meaning]


def _guard_rails(row: evaluation.Row, average: evaluation.Row, maximum: evaluation.Row) -> str:
    vif = {band: [one.metrics[f"VIF_{band}"].mean for one in (row, average)] for band in ("visible", "infrared")}
    kept = ", ".join(f"{own:.2f} for the {band} image (average: {rule:.2f})" for band, (own, rule) in vif.items())
    warnings = [f"- **{text[:1].upper()}{text[1:]}.**" for text in warnings_of(row, average, maximum)]
    lines = [
        f"**Guard rails.** VIF of the fused image: {kept}. Its mean distance is {row.distances['visible']:.1f} gray "
        f"levels to the visible and {row.distances['infrared']:.1f} to the infrared image, which are "
        f"{row.distances['sources']:.1f} apart.",
        "\n".join(warnings) or "No warning: it copies neither source, and no stretch explains its contrast.",
        "One pair says little about a method: papers report means over sets, and no metric is the truth.",
    ]
    return "\n\n".join(lines)


EXPLAIN_MAX_PIXELS = 1_310_720  # 1280 x 1024: intermediates of a larger pair would fill the memory
PANEL_SIDE = 800


@on_gpu(seconds=20)
@error_messages()
def explain(
    visible: str | None,
    infrared: str | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> list[tuple[str, str]]:
    """Fuse a pair and show what the network computed, step by step.

    DiffFuseNet shows its features before and after denoising, shared and specific parts, frequency bands and attention.
    RED shows the states of its diffusion.

    Args:
        visible: the image that gives color; the pair has at most 1.3 megapixels.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        Pictures in order of computation, each with a caption of one or two sentences.
    """
    options: dict[str, Any] = {"max_pixels": EXPLAIN_MAX_PIXELS, "return_intermediates": True}
    _, intermediates = fuse_pair(visible, infrared, model, infrared_range, visible_range, **options)
    folder = new_folder()
    return [
        (save_preview(preview(panel.image, PANEL_SIDE), folder / f"{index:02d}.png"), f"{panel.title}. {panel.caption}")
        for index, panel in enumerate(panels_of(intermediates), start=1)
    ]
