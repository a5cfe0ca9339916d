"""See more: what a detector finds and a segmenter sees in the visible, the infrared and the fused picture."""

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusing import LANE, fuse_pair
from gpu import current_device, on_gpu
from PIL import Image
from results import new_folder, save_preview
from uploads import LOG, in_words

from fusion_hub.downstream import Detector, Segmenter, compare, draw_detections, load_detector, overlay_segmentation
from fusion_hub.pretrained import SEGMENTERS

DETECTOR_VARIABLE, SEGMENTER_VARIABLE = "FUSION_HUB_DETECTOR", "FUSION_HUB_SEGMENTER"
LOWEST = 0.1  # detections below it are not looked at
BUNDLED_SEGMENTER = "segformer-b0-msrs"
TITLES = ("Visible", "Infrared", "Fused")

NO_DETECTOR = (
    f"No detector is set up here. Start the server with `{DETECTOR_VARIABLE}` set to the path or the Hub id of a YOLO "
    'file in ONNX (such as YOLOX), and `pip install "fusion-hub[downstream]"`.'
)
SEGMENTED = (
    "The colors below are the guesses of a segmentation model for each pixel, with the share of the picture that each "
    "class takes."
)
BUNDLED_SEGMENTED = (
    f"{SEGMENTED} The model is a SegFormer-B0 that this project trained on the street scenes of MSRS, fused, visible "
    "and infrared, and their nine classes. An **illustration** too: elsewhere it may see cars and persons where there "
    "are none."
)
NO_SEGMENTER = (
    f"No segmentation model is set up here. Set `{SEGMENTER_VARIABLE}` to a folder or the Hub id of a SegFormer."
)

_loading = threading.Lock()


def detector() -> tuple[Detector | None, str]:
    """The detector that this server was started with, and why there is none."""
    with _loading:
        return _open(os.environ.get(DETECTOR_VARIABLE, ""), "detector")


def segmenter() -> tuple[Segmenter | None, str]:
    """The bundled SegFormer or the one this server was started with, and why there is none."""
    bundled = BUNDLED_SEGMENTER if SEGMENTERS[BUNDLED_SEGMENTER].available else ""
    with _loading:
        return _open(os.environ.get(SEGMENTER_VARIABLE) or bundled, "segmenter")


@lru_cache
def _open(name: str, kind: str) -> tuple[Any, str]:
    if not name:
        return None, NO_DETECTOR if kind == "detector" else NO_SEGMENTER
    try:
        if kind == "detector":
            return load_detector(name), ""
        from fusion_hub.downstream import SegformerSegmenter

        return SegformerSegmenter.from_pretrained(name, device=current_device()), ""
    except (ImportError, OSError, ValueError) as error:
        LOG.error("the %s cannot be loaded: %s", kind, error)
        how = NO_DETECTOR if kind == "detector" else NO_SEGMENTER
        return None, f"The {kind} of this server cannot be loaded; its log says why. {how}"


def forget_networks() -> None:
    """Free the loaded networks."""
    _open.cache_clear()


@on_gpu(seconds=20)
@in_words()
def detect(
    visible: str | None,
    infrared: str | None,
    model: str,
    threshold: float = 0.3,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> tuple[list[tuple[str, str]], str]:
    """Fuse a pair and look for objects in the visible, the infrared and the fused picture with one threshold.

    An illustration, no measurement: the detector was trained on photographs.

    Args:
        visible: the image that gives color.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint that fuses.
        threshold: the least score of a detection that counts, from 0.1 to 0.9.
        infrared_range: what becomes black and white in the infrared image: "auto", "dtype" (full scale), "minmax",
            "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        The pictures with detections, then with classes where a segmenter is set up; what only the fused one shows.
    """
    fusion, _ = fuse_pair(visible, infrared, model, "all", infrared_range, visible_range)
    pictures = (fusion.visible, fusion.infrared, fusion.fused)
    folder = new_folder()
    finder, no_finder = detector()
    segments, no_segments = segmenter()
    gallery: list[tuple[str, str]] = []
    words = []
    with LANE:
        if finder is not None:
            found, text = _detected(finder, pictures, threshold, folder)
            gallery += found
            words.append(text)
        else:
            words.append(no_finder)
        if segments is not None:
            gallery += _segmented(segments, pictures, folder)
            words.append(SEGMENTED if os.environ.get(SEGMENTER_VARIABLE) else BUNDLED_SEGMENTED)
        else:
            words.append(no_segments)
    return gallery, "\n\n".join(words)


def _detected(
    finder: Detector, pictures: tuple[Image.Image, ...], threshold: float, folder: Path
) -> tuple[list[tuple[str, str]], str]:
    visible, infrared, fused = (finder.detect(picture, threshold=LOWEST) for picture in pictures)
    found = compare(fused, visible, infrared, threshold=max(threshold, LOWEST))
    strong = (found.visible, found.infrared, found.fused)
    drawn = [draw_detections(picture, boxes) for picture, boxes in zip(pictures, strong, strict=True)]
    gallery = []
    for title, picture, boxes in zip(TITLES, drawn, strong, strict=True):
        counts = ", ".join(f"{name} {count}" for name, count in boxes.counts().items()) or "nothing found"
        gallery.append((save_preview(picture, folder / f"detected_{title.lower()}.png"), f"{title}: {counts}"))
    return gallery, found.sentence


def _segmented(segments: Segmenter, pictures: tuple[Image.Image, ...], folder: Path) -> list[tuple[str, str]]:
    drawn = [overlay_segmentation(picture, segments.segment(picture)) for picture in pictures]
    return [
        (save_preview(picture, folder / f"segmented_{title.lower()}.png"), f"{title}: what is where")
        for title, picture in zip(TITLES, drawn, strict=True)
    ]
