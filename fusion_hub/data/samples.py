"""The sample pairs in the package: drawn by us, for first steps, the examples of the page and the documentation."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageSequence

from fusion_hub.data.synthetic import SCENE_CLASSES, ScenePicture, generated_pairs
from fusion_hub.files import write_aside

_FOLDER = Path(__file__).with_name("samples")
_STREET, _MEDICAL = "difffusenet-msrs", "difffusenet-medical"


class SamplePair(NamedTuple):
    """A drawn pair.

    Attributes:
        name: one word, such as "night".
        label: a title of a few words.
        description: one sentence on what to look at.
        model: the bundled checkpoint for it.
        visible: 8-bit RGB; for medical pairs the CT (gray), PET or SPECT (pseudo-colors).
        infrared: 8-bit gray; 16-bit counts for "raw16"; for medical pairs the MRI.
    """

    name: str
    label: str
    description: str
    model: str
    visible: Path
    infrared: Path


def sample_pairs() -> list[SamplePair]:
    """The eight drawn pairs, five of streets and three medical ones; their files are part of the package."""
    streets = (
        ("night", "Street by night", "People in the dark become bright, and the lit windows keep their colors."),
        ("day", "Street by day", "Warm people and cars stand out, and the colors of the street stay."),
        ("smoke", "Smoke", "Three people stand behind the smoke: only the infrared camera sees them."),
        ("glare", "Low sun", "The sun blinds the visible camera, but the infrared image shows who crosses the road."),
        ("raw16", "16-bit thermal", "The infrared image holds raw 16-bit counts of about 7,000 to 8,700."),
    )
    scans = (
        ("ct", "CT + MRI", "Bone is bright in the CT, soft tissue is clear in the MRI, and the fused image has both."),
        ("pet", "PET + MRI", "The colors are the uptake of the PET, and the lines are the anatomy of the MRI."),
        ("spect", "SPECT + MRI", "The coarse uptake of the SPECT gets the fine anatomy of the MRI."),
    )
    pairs = [SamplePair(*row, _STREET, _FOLDER / f"{row[0]}.jpg", _FOLDER / f"{row[0]}_ir.png") for row in streets]
    for number, row in enumerate(scans, start=1):
        files = (_FOLDER / f"brain{number}_{suffix}.png" for suffix in (row[0], "mri"))
        pairs.append(SamplePair(*row, _MEDICAL, *files))
    return pairs


SAMPLE_FOLDERS = {
    "street": "night.jpg with night_ir.png, and four more; raw16_ir.png holds raw 16-bit counts",
    "medical": "brain1_ct.png, brain2_pet.png and brain3_spect.png, each with its MRI",
    "clip": "ten frames of a video, as the folders visible/ and infrared/",
    "unregistered": "two cameras with different views, which must be aligned before fusion",
    "dataset": "train/ and val/ with vis/, ir/, boxes/ and label/, for training and evaluation",
}
"""What `write_samples` writes."""


def sample_clip() -> tuple[list[Image.Image], list[Image.Image]]:
    """The ten frames of the clip, visible (RGB) and infrared (gray), of one size."""
    bands = []
    for name, mode in (("clip", "RGB"), ("clip_ir", "L")):
        with Image.open(_FOLDER / f"{name}.webp") as clip:
            bands.append([frame.convert(mode) for frame in ImageSequence.Iterator(clip)])
    return bands[0], bands[1]


def unregistered_pair() -> dict[str, bytes]:
    """The files of the pair that must be aligned, by name, visible first: the infrared has a narrower view."""
    with Image.open(_FOLDER / "day_ir.png") as infrared:
        narrow = infrared.resize((320, 256), Image.Resampling.BICUBIC, box=(70, 84, 550, 468))
    return {"visible.jpg": (_FOLDER / "day.jpg").read_bytes(), "infrared.png": _png(narrow)}


def write_samples(folder: Path) -> None:
    """Write the samples into a folder: pairs, a clip, an unregistered pair and a small data set, 4 MB in all.

    Raises:
        FileExistsError: a file of this name is there with other content; nothing is written then.
        OSError: the folder cannot be written.
    """
    files = {folder / name: content for name, content in _sample_files()}
    for path, content in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != content):
            raise FileExistsError(f"{path} exists and is not the sample: choose another folder, or move it away")
    for path, content in files.items():
        if not path.exists():
            with write_aside(path) as aside:
                aside.write_bytes(content)


def _sample_files() -> Iterator[tuple[str, bytes]]:
    """The path in the folder, and the content of each file."""
    for pair in sample_pairs():
        for file in (pair.visible, pair.infrared):
            yield f"{'street' if pair.model == _STREET else 'medical'}/{file.name}", file.read_bytes()
    for band, frames in zip(("visible", "infrared"), sample_clip(), strict=True):
        yield from ((f"clip/{band}/{number:04d}.png", _png(frame)) for number, frame in enumerate(frames))
    for name, content in unregistered_pair().items():
        yield f"unregistered/{name}", content
    # Scenes of even seeds share no picture with those of odd seeds.
    for split, count, seed in (("train", 9, 0), ("val", 6, 1)):
        yield from _dataset_files(f"dataset/{split}", generated_pairs(count, seed, 240, 320))


def _dataset_files(folder: str, pairs: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Pictures, class maps and COCO boxes of scenes."""
    boxes: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(SCENE_CLASSES)],
    }
    for number, pair in enumerate(pairs):
        source: ScenePicture = pair["visible"]
        scene = source.scene()
        for band, pixels in (("vis", scene.visible), ("ir", scene.infrared), ("label", scene.classes)):
            assert pixels is not None  # brains have no classes; they are not in the data set
            yield f"{folder}/{band}/{pair['name']}.png", _png(Image.fromarray(pixels))
        image = {"id": number, "file_name": f"{pair['name']}.png", "width": source.width, "height": source.height}
        boxes["images"].append(image)
        for label, left, top, right, bottom in scene.boxes:
            box = [round(value, 1) for value in (left, top, right - left, bottom - top)]
            row = {"id": len(boxes["annotations"]), "image_id": number, "category_id": SCENE_CLASSES.index(label)}
            boxes["annotations"].append({**row, "bbox": box})
    yield f"{folder}/boxes/boxes.json", json.dumps(boxes, indent=1).encode()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
