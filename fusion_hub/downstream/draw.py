"""Detections and segmentations drawn over an image. Every function returns a new PIL image of mode RGB."""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fusion_hub.downstream.protocols import Color, Detections, Segmentation, color_of, name_of
from fusion_hub.image.luminance import quantize
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange

Box = tuple[int, int, int, int]
_DARK, _LIGHT = (17, 17, 17), (255, 255, 255)
_MIN_TEXT, _MAX_TEXT = 11, 48  # pixels
_LETTERS_PER_SIDE = 30  # letters of this fraction of the longer side are legible on a phone
_MAX_HIDDEN = 0.1  # fraction of a label that may lie over other labels


def draw_detections(
    image: ImageInput,
    detections: Detections,
    *,
    emphasise: Collection[int] | None = None,
    value_range: InfraredRange | None = None,
) -> Image.Image:
    """Draw boxes with name and score, the best on top, in a color-blind safe color for each class.

    Labels do not overlap; where there is no room, those with lower scores are left out.

    Args:
        image: the image in which the detections were found (any input of a pipeline).
        detections: what to draw.
        emphasise: indices of detections to emphasize, such as `Comparison.only_fused`: they get a thick frame; the
            others get a thin one without a label.
        value_range: for images with more than 8 bits, see `FusionImageProcessor.to_rgb`.

    Raises:
        ValueError: the detections belong to an image of another size; and as `to_rgb`.
    """
    canvas = _canvas(image, value_range, detections.size, "detections")
    draw = ImageDraw.Draw(canvas)
    font = _font(canvas.size)
    thin = max(1, round(font.size / 8))
    shown = range(len(detections)) if emphasise is None else sorted(emphasise)
    items = list(detections)
    first = np.floor(detections.boxes[:, :2])  # from edges to pixels: the last column and row are inside the box
    last = np.maximum(first, np.ceil(detections.boxes[:, 2:]) - 1)
    boxes: list[Box] = [tuple(box) for box in np.concatenate([first, last], 1).astype(int).tolist()]
    for i in (*(i for i in reversed(range(len(items))) if i not in shown), *reversed(shown)):
        width = 2 * thin if emphasise is not None and i in shown else thin
        left, top, right, bottom = boxes[i]  # a colored line between two dark ones is visible on any background
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=width + 2)
        draw.rectangle(boxes[i], outline=color_of(items[i].class_id), width=width)
    pad = max(2, round(font.size / 6))
    labels: list[Box] = []
    for i in shown:  # after all frames; the best choose their position first
        text, color = f"{items[i].name} {items[i].score:.2f}", color_of(items[i].class_id)
        size = int(np.ceil(draw.textlength(text, font=font))) + 2 * pad, sum(font.getmetrics()) + pad
        position = _label_position(size, boxes[i], canvas.size, labels, boxes)
        if position is not None:
            draw.rectangle(position, fill=color, outline=_DARK)
            draw.text((position[0] + pad, position[1] + pad // 2), text, font=font, fill=_ink(color))
            labels.append(position)
    return canvas


def overlay_segmentation(
    image: ImageInput,
    segmentation: Segmentation,
    *,
    opacity: float = 0.5,
    legend: bool = True,
    value_range: InfraredRange | None = None,
) -> Image.Image:
    """Draw the classes in color with outlines, and a legend of those that occur below the image.

    Background and unlabeled pixels stay unchanged.

    Args:
        image: the image that was segmented (any input of a pipeline).
        segmentation: what to draw.
        opacity: of the colors, in [0, 1].
        legend: add a strip below the image with each class and its share of the image.
        value_range: for images with more than 8 bits, see `FusionImageProcessor.to_rgb`.

    Raises:
        ValueError: the segmentation belongs to an image of another size, `opacity` is out of range; and as `to_rgb`.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, got {opacity}")
    canvas = _canvas(image, value_range, segmentation.size, "segmentation")
    pixels = np.asarray(canvas).astype(np.float32)
    class_map = segmentation.class_map
    border = ndimage.morphological_gradient(class_map, footprint=ndimage.generate_binary_structure(2, 1)) > 0
    entries = []
    for class_id, share in segmentation.shares().items():
        if segmentation.is_background(class_id):
            continue
        color = segmentation.palette.get(class_id, color_of(class_id))
        inside = class_map == class_id
        pixels[inside] += opacity * (np.array(color, dtype=np.float32) - pixels[inside])
        pixels[inside & border] = color
        percent = f"{share:.0%}" if share >= 0.01 else "<1%"
        entries.append((color, f"{name_of(segmentation.names, class_id)} {percent}"))
    drawn = Image.fromarray(quantize(pixels, white=255))
    return _with_legend(drawn, entries or [(_LIGHT, "nothing found")]) if legend else drawn


def _canvas(image: ImageInput, value_range: InfraredRange | None, size: tuple[int, int], what: str) -> Image.Image:
    pixels = FusionImageProcessor().to_rgb(image, value_range=value_range)
    if pixels.shape[:2] != size:
        raise ValueError(
            f"the {what} belong to an image of {size[1]}x{size[0]}, but this image has "
            f"{pixels.shape[1]}x{pixels.shape[0]} (width x height): give the image they were computed from"
        )
    return Image.fromarray(pixels)


def _font(size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that images look the same on every machine."""
    font = ImageFont.load_default(min(max(round(max(size) / _LETTERS_PER_SIDE), _MIN_TEXT), _MAX_TEXT))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("this Pillow was built without FreeType and cannot draw text: install Pillow from PyPI")
    return font


def _label_position(
    size: tuple[int, int], box: Box, canvas: tuple[int, int], labels: list[Box], boxes: list[Box]
) -> Box | None:
    """The rectangle of a label at a box that hides least; None where it would hide a good part of other labels."""
    (width, height), (left, top, right, bottom) = size, box
    limit_x, limit_y = max(canvas[0] - width, 0), max(canvas[1] - height, 0)
    positions = []
    for y in (top - height, bottom + 1, top, bottom - height + 1):
        for x in (left, right - width + 1):
            x0, y0 = min(max(x, 0), limit_x), min(max(y, 0), limit_y)
            positions.append((x0, y0, x0 + width - 1, y0 + height - 1))

    def hidden(position: Box) -> tuple[int, int]:
        return sum(_shared(position, label) for label in labels), sum(_shared(position, other) for other in boxes)

    best = min(positions, key=hidden)
    return best if hidden(best)[0] <= width * height * _MAX_HIDDEN else None


def _shared(first: Box, second: Box) -> int:
    """Number of pixels in both rectangles."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    return max(width, 0) * max(height, 0)


def _ink(color: Color) -> Color:
    """Black or white, whichever has more contrast (WCAG relative luminance)."""
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if luminance > 0.179 else _LIGHT


def _with_legend(image: Image.Image, entries: list[tuple[Color, str]]) -> Image.Image:
    """The image above lines of colored squares with texts."""
    font = _font(image.size)
    line, gap = round(1.5 * sum(font.getmetrics())), round(font.size / 2)
    positions, x, y = [], gap, 0
    for _, text in entries:
        width = round(font.size + 0.5 * gap + font.getlength(text) + 2 * gap)
        if x > gap and x + width - gap > image.width:
            x, y = gap, y + line
        positions.append((x, y))
        x += width
    whole = Image.new("RGB", (image.width, image.height + y + line), _LIGHT)
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for (color, text), (left, top) in zip(entries, positions, strict=True):
        middle, half = image.height + top + line // 2, font.size / 2
        draw.rectangle((left, middle - half, left + font.size, middle + half), fill=color, outline=_DARK)
        draw.text((left + font.size + gap // 2, middle), text, font=font, fill=_DARK, anchor="lm")
    return whole
