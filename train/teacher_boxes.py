"""Boxes for pairs without any, by a detector of COCO's classes: a set from which `train/detector.py` can learn.

python train/teacher_boxes.py ../shared/data/roadscene train --detector yolox_nano.onnx --output runs/teacher/roadscene

The detector sees the visible image, the infrared one and their average, whole and in parts; what it finds in any of
them counts. The set links to the images. Use it for training only: it lacks objects and has wrong ones.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_hub.downstream import load_detector
from fusion_hub.downstream.inputs import open_inputs
from fusion_hub.downstream.protocols import Detector
from fusion_hub.downstream.yolo import nms
from fusion_hub.training.config import Source

CLASSES = ("person", "bicycle", "car")
TEACHER_CLASSES = {"person": 0, "bicycle": 1, "car": 2, "truck": 2, "bus": 2}  # COCO calls vans trucks
SEEN = ("visible", "infrared", "average")


def look(detector: Detector, picture: Image.Image, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and ids that a detector finds in an image and, enlarged, in each of its quarters."""
    size, found = np.array(picture.size), []
    for corner, share in ((np.zeros(2), 1.0), *((np.array(place) * 0.4, 0.6) for place in np.ndindex(2, 2))):
        low, high = (corner * size).round(), ((corner + share) * size).round()
        seen = detector.detect(picture.crop((*low, *high)), threshold=threshold)
        names = [seen.names[int(class_id)] for class_id in seen.class_ids]
        boxes = seen.boxes + np.tile(low, 2)
        # An object at an inner edge is cut there.
        cut = ((boxes[:, :2] < low + 3) & (low > 0)) | ((boxes[:, 2:] > high - 3) & (high < size))
        known = np.array([name in TEACHER_CLASSES for name in names], bool) & ~cut.any(1)
        ids = np.array([TEACHER_CLASSES.get(name, 0) for name in names], int)
        found.append((boxes[known], seen.scores[known], ids[known]))
    boxes, scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return boxes, scores, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of a paired set")
    parser.add_argument("split", help="its split")
    parser.add_argument("--detector", required=True, help="ONNX file with the classes of COCO")
    parser.add_argument("--output", required=True, type=Path, help="folder of the new set")
    parser.add_argument("--exclude", help="CSV file of pairs to leave out")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of a box")
    parser.add_argument("--every", type=int, default=1, help="use every N-th pair only, for videos")
    given = parser.parse_args()
    detector, inputs = load_detector(given.detector, threads=1), [open_inputs(name) for name in SEEN]
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    for folder in ("vis", "ir", "boxes"):
        (given.output / "train" / folder).mkdir(parents=True, exist_ok=True)
    pairs = list(Source(given.data, given.split, exclude=given.exclude).resolve().open())
    for pair in pairs[:: given.every]:
        for folder, source in (("vis", pair.visible_source), ("ir", pair.infrared_source)):
            file = Path(str(source)).resolve()
            link = given.output / "train" / folder / f"{pair.name}{file.suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to(file)
        pictures = [one.picture(pair) for one in inputs]
        found = [look(detector, picture, given.threshold) for picture in pictures]
        boxes, scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        width, height = pictures[0].size
        number = len(content["images"])
        content["images"].append({"id": number, "file_name": pair.name, "width": width, "height": height})
        for index in nms(boxes, scores, ids, 0.5):
            left, top, right, bottom = np.clip(boxes[index], 0, [width, height, width, height]).tolist()
            box = {"bbox": [left, top, right - left, bottom - top], "category_id": int(ids[index])}
            content["annotations"].append({"id": len(content["annotations"]), "image_id": number, **box})
    file = given.output / "train" / "boxes" / "teacher.json"
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{len(content['annotations'])} boxes in {len(content['images'])} pictures: {file}")


if __name__ == "__main__":
    main()
