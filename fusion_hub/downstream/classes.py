"""Names and colours of classes."""

from collections.abc import Mapping

Colour = tuple[int, int, int]

COCO_CLASSES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""The 80 classes of COCO (Lin et al. 2014) in the order that YOLO files use."""

MSRS_CLASSES: tuple[str, ...] = (
    *("unlabelled", "car", "person", "bike", "curve", "car stop", "guardrail", "colour cone", "bump"),
)
"""The nine classes of MSRS (Tang et al. 2022) by label value; those of MFNet (Ha et al. 2017)."""

COLOURS: tuple[Colour, ...] = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (0, 114, 178), (190, 190, 190)),
)
"""Eight colours that people with any colour vision can tell apart: Okabe and Ito (2008), grey for their black."""

MSRS_PALETTE: tuple[Colour, ...] = ((0, 0, 0), *COLOURS[:3], *COLOURS[4:7], COLOURS[3], COLOURS[7])
"""A colour for each of `MSRS_CLASSES`; black, never drawn, for what has no label.

Not the colours of MFNet's authors: those are dark, and so are pictures of the night.
"""


def name_of(names: Mapping[int, str], class_id: int) -> str:
    """The name of a class, `class 7` where there is none."""
    return names.get(class_id, f"class {class_id}")


def colour_of(class_id: int) -> Colour:
    """The colour of a class; after eight they repeat."""
    return COLOURS[class_id % len(COLOURS)]


def palette_of(names: Mapping[int, str]) -> dict[int, Colour]:
    """Colours for the classes of a segmentation: those of MSRS where these are its classes."""
    if tuple(names[i] for i in sorted(names)) == MSRS_CLASSES:
        return dict(enumerate(MSRS_PALETTE))
    return {class_id: colour_of(class_id) for class_id in sorted(names)}
