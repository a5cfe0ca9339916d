"""Detections and segmentations drawn over a picture. Every function returns a new PIL image of mode RGB."""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fusion_hub.downstream.classes import Colour, colour_of, name_of
from fusion_hub.downstream.protocols import Detections, Segmentation
from fusion_hub.image.luminance import quantize
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange

Box = tuple[int, int, int, int]
_DARK, _LIGHT = (17, 17, 17), (255, 255, 255)
_SMALLEST_TEXT, _LARGEST_TEXT = 11, 48  # pixels
_LETTERS_PER_SIDE = 30  # letters as high as this part of the longer side are read on a phone
_LABELS_HIDDEN = 0.1  # part of a label that may lie over other labels


def draw_detections(
    image: ImageInput,
    detections: Detections,
    *,
    emphasise: Collection[int] | None = None,
    value_range: InfraredRange | None = None,
) -> Image.Image:
    """Boxes with name and score, the best on top; a colour for each class that colour-blind people can tell apart.

    Labels keep clear of each other; in a crowd the weaker ones go without.

    Args:
        image: the picture that the detections are of, of any kind that a pipeline takes.
        detections: what to draw.
        emphasise: indices of the detections to stress, such as `Comparison.only_fused`: with a thick frame, the others
            with a thin one and without label.
        value_range: of pictures with more than 8 bits, see `FusionImageProcessor.to_rgb`.

    Raises:
        ValueError: if the detections are of a picture of another size; and as `to_rgb`.
    """
    canvas = _canvas(image, value_range, detections.size, "detections")
    draw = ImageDraw.Draw(canvas)
    font = _font(canvas.size)
    thin = max(1, round(font.size / 8))
    stressed = range(len(detections)) if emphasise is None else sorted(emphasise)
    items = [(_pixels(detection.box), detection) for detection in detections]
    for i in (*(i for i in reversed(range(len(items))) if i not in stressed), *reversed(stressed)):
        width = 2 * thin if emphasise is not None and i in stressed else thin
        _frame(draw, items[i][0], colour_of(items[i][1].class_id), width)
    labels: list[Box] = []
    for i in stressed:  # after all frames, the best first: the others have to make room
        box, detection = items[i]
        text = f"{detection.name} {detection.score:.2f}"
        place = _label_place(draw, text, box, font, labels, [other for other, _ in items])
        if place is not None:
            _label(draw, text, place, colour_of(detection.class_id), font)
            labels.append(place)
    return canvas


def overlay_segmentation(
    image: ImageInput,
    segmentation: Segmentation,
    *,
    opacity: float = 0.5,
    legend: bool = True,
    value_range: InfraredRange | None = None,
) -> Image.Image:
    """The picture with its classes in colour and outlined, and a legend of those that occur below it.

    Background and unlabelled pixels stay as they are.

    Args:
        image: the picture that the segmentation is of, of any kind that a pipeline takes.
        segmentation: what to draw.
        opacity: of the colours, in [0, 1].
        legend: whether the picture gets a strip below it, with each class and its share of the picture.
        value_range: of pictures with more than 8 bits, see `FusionImageProcessor.to_rgb`.

    Raises:
        ValueError: if the segmentation is of a picture of another size, `opacity` is out of range; and as `to_rgb`.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, got {opacity}")
    canvas = _canvas(image, value_range, segmentation.size, "segmentation")
    pixels = np.asarray(canvas).astype(np.float32)
    border = _borders(segmentation.class_map)
    shares = {i: share for i, share in segmentation.shares().items() if not segmentation.is_background(i)}
    for class_id in shares:
        inside = segmentation.class_map == class_id
        colour = np.array(_colour(segmentation, class_id), dtype=np.float32)
        pixels[inside] += opacity * (colour - pixels[inside])
        pixels[inside & border] = colour
    drawn = Image.fromarray(quantize(pixels, white=255))
    return _with_legend(drawn, segmentation, shares) if legend else drawn


def _canvas(image: ImageInput, value_range: InfraredRange | None, size: tuple[int, int], what: str) -> Image.Image:
    pixels = FusionImageProcessor().to_rgb(image, value_range=value_range)
    if pixels.shape[:2] != size:
        raise ValueError(
            f"the {what} are of a picture of {size[1]}x{size[0]}, this one is {pixels.shape[1]}x{pixels.shape[0]} "
            "(width x height): give the picture that they were found in"
        )
    return Image.fromarray(pixels)


def _font(size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that pictures look the same on every machine."""
    letters = min(max(round(max(size) / _LETTERS_PER_SIDE), _SMALLEST_TEXT), _LARGEST_TEXT)
    font = ImageFont.load_default(letters)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("this Pillow was built without FreeType and cannot draw letters: install Pillow from PyPI")
    return font


def _pixels(box: tuple[float, float, float, float]) -> Box:
    """The pixels that a box of edges covers: the last column and row are inside it."""
    left, top, right, bottom = box
    x, y = int(left), int(top)
    return x, y, max(x, int(np.ceil(right)) - 1), max(y, int(np.ceil(bottom)) - 1)


def _frame(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    """A coloured line between two dark ones: it is seen on any ground."""
    left, top, right, bottom = box
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=width + 2)
    draw.rectangle(box, outline=colour, width=width)


def _label_place(
    draw: ImageDraw.ImageDraw, text: str, box: Box, font: ImageFont.FreeTypeFont, labels: list[Box], boxes: list[Box]
) -> Box | None:
    """The rectangle of a label at a box that hides least; None where it would hide a good part of other labels."""
    picture_width, picture_height = draw.im.size
    pad = _pad(font)
    width = int(np.ceil(draw.textlength(text, font=font))) + 2 * pad
    height = sum(font.getmetrics()) + pad
    left, top, right, bottom = box
    places = []
    for y in (top - height, bottom + 1, top, bottom - height + 1):
        for x in (left, right - width + 1):
            x0 = min(max(x, 0), max(picture_width - width, 0))
            y0 = min(max(y, 0), max(picture_height - height, 0))
            places.append((x0, y0, x0 + width - 1, y0 + height - 1))

    def hidden(place: Box) -> tuple[int, int]:
        return sum(_shared(place, label) for label in labels), sum(_shared(place, other) for other in boxes)

    best = min(places, key=hidden)
    return best if hidden(best)[0] <= width * height * _LABELS_HIDDEN else None


def _label(draw: ImageDraw.ImageDraw, text: str, place: Box, colour: Colour, font: ImageFont.FreeTypeFont) -> None:
    draw.rectangle(place, fill=colour, outline=_DARK)
    draw.text((place[0] + _pad(font), place[1] + _pad(font) // 2), text, font=font, fill=_ink(colour))


def _pad(font: ImageFont.FreeTypeFont) -> int:
    return max(2, round(font.size / 6))


def _shared(first: Box, second: Box) -> int:
    """Pixels in both rectangles."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    return max(width, 0) * max(height, 0)


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (WCAG relative luminance)."""
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if luminance > 0.179 else _LIGHT


def _borders(class_map: np.ndarray) -> np.ndarray:
    """Pixels `(H, W)` with a neighbour above, below, left or right of another class."""
    border = np.zeros(class_map.shape, dtype=bool)
    across, down = class_map[:, 1:] != class_map[:, :-1], class_map[1:] != class_map[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _colour(segmentation: Segmentation, class_id: int) -> Colour:
    return segmentation.palette.get(class_id, colour_of(class_id))


def _with_legend(picture: Image.Image, segmentation: Segmentation, shares: dict[int, float]) -> Image.Image:
    """The picture above lines of coloured squares with names."""
    font = _font(picture.size)
    ascent, descent = font.getmetrics()
    line, gap = round(1.5 * (ascent + descent)), round(font.size / 2)
    entries = [(_colour(segmentation, i), f"{name_of(segmentation.names, i)} {_percent(s)}") for i, s in shares.items()]
    entries = entries or [(_LIGHT, "nothing found")]
    places, x, y = [], gap, 0
    for _, text in entries:
        width = round(font.size + 0.5 * gap + font.getlength(text) + 2 * gap)
        if x > gap and x + width - gap > picture.width:
            x, y = gap, y + line
        places.append((x, y))
        x += width
    whole = Image.new("RGB", (picture.width, picture.height + y + line), _LIGHT)
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for (colour, text), (left, top) in zip(entries, places, strict=True):
        middle = picture.height + top + line // 2
        half = font.size / 2
        draw.rectangle((left, middle - half, left + font.size, middle + half), fill=colour, outline=_DARK)
        draw.text((left + font.size + gap // 2, middle), text, font=font, fill=_DARK, anchor="lm")
    return whole


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"
