"""What the tests of SegFormer and detector training share: small scenes, small configurations."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fusion_hub.data import generate_scene
from fusion_hub.downstream.train_detector import DetectorConfig, DetectorTask
from fusion_hub.downstream.train_segformer import SegFormerConfig, SegFormerTask
from fusion_hub.training import Source, TrainingConfig

SCENES = ("day_road", "night_street", "smoke")
LABELS, BOXES = ["unlabelled", "car", "person"], ["person", "car"]


def write_scenes(folder: Path) -> Path:
    """Three scenes with label maps, and boxes in all but the last."""
    coco: dict[str, Any] = {"categories": [{"id": 1, "name": "car"}, {"id": 7, "name": "person"}], "images": []}
    coco["annotations"] = []
    for seed, kind in enumerate(SCENES):
        scene = generate_scene(seed, 96, 128, kind)
        for band, picture in (("vis", scene.visible), ("ir", scene.infrared), ("label", scene.classes)):
            (folder / band).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / band / f"{seed}_{kind}.png")
        coco["images"].append({"id": seed, "file_name": f"{seed}_{kind}.png", "width": 128, "height": 96})
        for box in scene.boxes if seed < 2 else ():
            left, top, right, bottom = box[1:]
            category = {"car": 1, "person": 7}[box.label]
            row = {"image_id": seed, "category_id": category, "bbox": [left, top, right - left, bottom - top]}
            coco["annotations"].append({"id": len(coco["annotations"]), "iscrowd": 0, **row})
    (folder / "boxes").mkdir()
    (folder / "boxes" / "boxes.json").write_text(json.dumps(coco))
    return folder


def run_config(output: Path, drawn: Path, **values: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "output_dir": str(output),
        "sources": [Source(str(drawn))],
        "max_steps": 8,
        "batch_size": 4,
        "crop_size": 64,
        "smallest_scale": 0.8,
        "gain_jitter": 0.2,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "checkpoint_every": 4,
        "log_every": 1,
        "validate_every": None,
        "tracker": "none",
    }
    return TrainingConfig(**(defaults | values))


AUGMENTATION = {"largest_scale": 1.3, "gamma_jitter": 0.2, "rare_class_crops": 0.5}


def segformer_config(cache: Path, **values: Any) -> SegFormerConfig:
    defaults = {"cache_dir": str(cache), "classes": LABELS, "variant": "tiny", "lovasz": 1.0, **AUGMENTATION}
    return SegFormerConfig(**(defaults | values))  # type: ignore[arg-type]


def detector_config(cache: Path, **values: Any) -> DetectorConfig:
    network = {"image_size": [64, 96], "variant": "tiny", "queries": 12, "denoising_queries": 6}
    return DetectorConfig(**({"cache_dir": str(cache), "classes": BOXES, **network, **AUGMENTATION} | values))


TASKS: dict[str, Any] = {"segformer": (SegFormerTask, segformer_config), "detector": (DetectorTask, detector_config)}
