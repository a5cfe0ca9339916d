"""What detectors, metrics and the network itself show of one pair: the functions behind the tabs of `views.py`."""

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fuse import LANE, MEDICAL, as_png, fuse_pair, preview, save_preview
from gpu import current_device, on_gpu
from PIL import Image
from storage import new_folder
from uploads import LOG, Refusal, error_messages

from fusion_hub import downstream, evaluation
from fusion_hub.data.pairs import Pair
from fusion_hub.downstream.protocols import Color, Segmentation, color_of, name_of
from fusion_hub.evaluation.records import GUARD_METRICS, measure_pair, summarize, warnings_of
from fusion_hub.evaluation.report import heading
from fusion_hub.evaluation.statistics import format_value
from fusion_hub.explain import explain as panels_of
from fusion_hub.metrics import find_metric
from fusion_hub.pretrained import DETECTORS, SEGMENTERS

DETECTOR_VARIABLE, SEGMENTER_VARIABLE = "FUSION_HUB_DETECTOR", "FUSION_HUB_SEGMENTER"
MIN_SCORE = 0.1  # the lowest threshold
FEW_CLASSES = 10  # so many are listed, also where none was found
BUNDLED_DETECTOR, BUNDLED_SEGMENTER = "detector-nano-msrs", "segformer-b0-msrs"
TITLES = ("Visible", "Infrared", "Fused")

_loading = threading.Lock()


def detector_name() -> str:
    """The detector of this server: what its operator chose, or the bundled one; empty where it has none."""
    usable = DETECTORS[BUNDLED_DETECTOR].available and find_spec("onnxruntime") is not None
    return os.environ.get(DETECTOR_VARIABLE) or (BUNDLED_DETECTOR if usable else "")


def segmenter_name() -> str:
    """As `detector_name`, for the segmenter."""
    return os.environ.get(SEGMENTER_VARIABLE) or (BUNDLED_SEGMENTER if SEGMENTERS[BUNDLED_SEGMENTER].available else "")


@lru_cache
def load_once(kind: str, name: str) -> Any:
    """The detector or segmenter of this server, or None; the log says why."""
    if not name:
        return None
    try:
        if kind == "detector":
            return downstream.load_detector(name)
        return downstream.SegformerSegmenter.from_pretrained(name, device=current_device())
    except (ImportError, OSError, ValueError) as error:
        LOG.error("the %s cannot be loaded: %s", kind, error)
        return None


def _missing(kind: str, name: str) -> str:
    cause = "could not be loaded; the server's log says why" if name else "is not set up on this server"
    return f"<p>The {kind} {cause}.</p>"


@on_gpu(seconds=20)
@error_messages()
def detect(
    visible: str | None,
    infrared: str | None,
    model: str,
    threshold: float = 0.3,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    steps: str = "default",
) -> tuple[list[tuple[str, str]], str, list[tuple[str, str]], str]:
    """Fuse a pair, then detect and segment objects in the visible, the infrared and the fused image.

    This is an illustration, not an evaluation: small networks miss objects and see some that are not there.

    Args:
        visible: the image that gives color.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint that fuses.
        threshold: lowest score of a detection that counts, from 0.1 to 0.9.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        steps: of RED models: "default", "all", a number, or "auto".

    Returns:
        The pictures with boxes; an HTML table with the number of objects of each class; the pictures with a color for
        each class of pixel; an HTML table with the share of the picture that each class covers.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise Refusal("Unknown threshold", f"The threshold is a number from {MIN_SCORE} to 0.9.")
    fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range, steps=steps)
    sources = (fusion.visible, fusion.infrared, fusion.fused)
    names = detector_name(), segmenter_name()
    with _loading:
        detector = load_once("detector", names[0])
        segmenter = load_once("segmenter", names[1])
    with LANE:
        found = detector and [detector.detect(picture, threshold=MIN_SCORE) for picture in sources]
        maps = segmenter and [segmenter.segment(picture) for picture in sources]
    folder = new_folder()
    detected, segmented = [], []
    counts, shares = _missing("detector", names[0]), _missing("segmentation model", names[1])

    def save(kind: str, picture: Image.Image, title: str) -> tuple[str, str]:
        return save_preview(picture, folder / f"{kind}_{title.lower()}.png"), title

    if found:
        comparison = downstream.compare(found[2], found[0], found[1], threshold=max(threshold, MIN_SCORE))
        strong = (comparison.visible, comparison.infrared, comparison.fused)
        for title, picture, boxes in zip(TITLES, sources, strong, strict=True):
            detected.append(save("detected", downstream.draw_detections(picture, boxes), title))
        colors = {name: color_of(class_id) for class_id, name in detector.names.items()}
        numbers = [boxes.counts() for boxes in strong]
        classes = colors if len(colors) <= FEW_CLASSES else comparison.counts  # those found, of the 80 of COCO
        lines = {name: [number.get(name, 0) for number in numbers] for name in classes}
        counts = f"{swatch_table('Objects', lines, colors)}<p>{escape(comparison.sentence)}</p>"
    if maps:
        for title, picture, one in zip(TITLES, sources, maps, strict=True):
            drawn = downstream.overlay_segmentation(picture, one, legend=False)
            segmented.append(save("segmented", drawn, title))
        shares = _share_table(maps)
    return detected, counts, segmented, shares


def _share_table(maps: Sequence[Segmentation]) -> str:
    """The legend: each class that occurs, with its color and its share of each picture."""
    found = [one.shares() for one in maps]
    names, palette = maps[0].names, maps[0].palette
    largest = {class_id: max(share.get(class_id, 0) for share in found) for share in found for class_id in share}
    ids = sorted((one for one in largest if not maps[0].is_background(one)), key=lambda one: -largest[one])
    if not ids:
        return "<p>No class was found in any of the three pictures.</p>"

    def percent(share: float) -> str:
        return f"{share:.0%}" if share >= 0.01 or not share else "<1%"

    lines = {name_of(names, one): [percent(share.get(one, 0)) for share in found] for one in ids}
    colors = {name_of(names, one): palette.get(one, color_of(one)) for one in ids}
    return swatch_table("Share of the picture", lines, colors)


def swatch_table(title: str, lines: Mapping[str, Sequence[object]], colors: Mapping[str, Color]) -> str:
    """An HTML table with a line for each class: its color, its name, and a value for each of the three pictures."""
    rows = (
        f'<tr><th scope="row"><span class="swatch" style="background:rgb{colors[name]}"></span>{escape(name)}</th>'
        + "".join(f"<td>{escape(str(value))}</td>" for value in values)
        + "</tr>"
        for name, values in lines.items()
    )
    return _table((title, *TITLES), rows, "counted")


def _table(columns: Sequence[str], rows: Iterable[str], kind: str) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in columns)
    thead, tbody = f"<thead><tr>{head}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<table class="numbers {kind}">{thead}{tbody}</table>'


MEASURE_MAX_PIXELS = 2_000_000  # the metrics of a larger pair take too long for a page
METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM")
RULES = ("average", "maximum")
MEASURED = ("Metric", "Fused", "Average", "Maximum", "What it says")


@on_gpu(seconds=20)
@error_messages()
def measure(
    visible: str | None,
    infrared: str | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    steps: str = "default",
) -> tuple[list[list[str]], str]:
    """Fuse a pair and measure the fused image with the metrics of the papers.

    Args:
        visible: the image that gives color; the pair has at most 2 megapixels. For medical pairs: CT, PET or SPECT.
        infrared: the other image, of the same size. For medical pairs: MRI.
        model: name of the bundled checkpoint that fuses.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        steps: of RED models: "default", "all", a number, or "auto".

    Returns:
        A row for each metric: name, its value for the fused image and for two simple rules, its meaning; and warnings.
    """
    options: dict[str, Any] = {"max_pixels": MEASURE_MAX_PIXELS, "steps": steps}
    fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range, **options)
    pair = Pair("pair", *(Image.fromarray(source) for source in fusion.sources))
    fused = as_png(fusion.image)
    methods = [evaluation.Method(model, "model", lambda pair, dataset: fused), *map(evaluation.baseline_method, RULES)]
    rows = []
    with LANE:
        for method in methods:  # as `fusion-hub evaluate` measures one pair
            record = measure_pair(evaluation.luminance(method.fuse(pair, "")), *fusion.sources, METRICS)
            rows.append(summarize(method, "pair", {"pair": record}, METRICS))
    names = dict(zip(("visible", "infrared"), names_of(visible, model), strict=True))
    lines = [_table_line(name, rows, names) for name in (*METRICS, *GUARD_METRICS)]
    return lines, _guard_rails(rows, names)


def names_of(path: str | None, model: str) -> tuple[str, str]:
    """What the texts call the two images of a pair: for medical ones, the scan as its file's name says."""
    if model != MEDICAL:
        return "visible", "infrared"
    words = re.findall("[a-z]+", Path(str(path)).stem.lower())
    return next((word.upper() for word in words if word in ("ct", "pet", "spect")), "scan"), "MRI"


def _table_line(name: str, rows: list[evaluation.Row], names: Mapping[str, str]) -> list[str]:
    metric = find_metric(name)
    better = "Higher" if metric.direction == "up" else "Lower"
    meaning = f"{better} is better: {metric.rewards}. Fooled by {metric.fooled_by}."
    base, _, band = heading(name).partition("_")
    title = f"{base}, {names[band[:-2]]}{band[-2:]}" if band else base.replace(" ", ", sum " if metric.parts else " ")
    return [title, *(format_value(name, row.metrics[name].mean) for row in rows), _renamed(meaning, names)]


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\b(visible|infrared)\b", lambda found: names[found[0]], text)


def _guard_rails(rows: list[evaluation.Row], names: Mapping[str, str]) -> str:
    row, average, maximum = rows
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
    return _renamed("\n\n".join(lines), names)


def measured_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows of `measure` as an HTML table: a bar for each value, and a mark at the best of each row."""
    return _table(MEASURED, map(_measured_row, rows), "measured")


def _measured_row(row: Sequence[str]) -> str:
    name, *values, meaning = row
    meaning = meaning.partition(": ")[2]  # the arrow says which direction is better
    meaning = f"{meaning[:1].upper()}{meaning[1:]}"
    numbers = [float(value) for value in values if value != "n/a"]
    best = (max if "↑" in name else min)(numbers, default=0)
    longest = max([*map(abs, numbers), 1e-9])
    cells = []
    for value, method in zip(values, MEASURED[1:], strict=False):
        number = 0.0 if value == "n/a" else float(value)
        wins = value != "n/a" and number == best
        text = f'<strong>{value}<span class="best" title="best">●</span></strong>' if wins else value
        bar = f'<span class="bar" style="width:{max(number, 0) / longest:.0%}"></span>'
        cells.append(f'<td data-method="{method}">{text}{bar}</td>')
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}<td class="meaning">{escape(meaning)}</td></tr>'


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
    steps: str = "default",
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Fuse a pair and show what the network computed, step by step.

    Args:
        visible: the image that gives color; the pair has at most 1.3 megapixels. For medical pairs: CT, PET or SPECT.
        infrared: the other image, of the same size. For medical pairs: MRI.
        model: name of the bundled checkpoint.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        steps: of RED models: "default", "all", a number, or "auto".

    Returns:
        At most six pictures that need no knowledge of the network, then those of all steps, both in order of
        computation, each with a caption of one or two sentences.
    """
    options: dict[str, Any] = {"max_pixels": EXPLAIN_MAX_PIXELS, "return_intermediates": True, "steps": steps}
    _, intermediates = fuse_pair(visible, infrared, model, infrared_range, visible_range, **options)
    folder = new_folder()
    story: list[tuple[str, str]] = []
    everything: list[tuple[str, str]] = []
    for index, panel in enumerate(panels_of(intermediates, names_of(visible, model)), start=1):
        file = save_preview(preview(panel.image, PANEL_SIDE), folder / f"{index:02d}.png")
        everything.append((file, f"{panel.title}. {panel.caption}"))
        if panel.plain:
            story.append((file, f"{len(story) + 1}. {panel.title}. {panel.plain}"))
    return story, everything
