"""Turn a finished run into a bundled checkpoint: half precision, with the configuration it was trained with.

A DiffFuseNet also gets `model.onnx`, which fuses without PyTorch.

python train/bundle.py runs/difffusenet_msrs/pipeline difffusenet-msrs
python train/bundle.py runs/segformer/bundle/pipeline segformer-b0-msrs
python train/bundle.py runs/detector/bundle/pipeline detector-nano-msrs
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fusion_hub import DiffFuseNetPipeline, FusionPipeline
from fusion_hub.pipelines import export
from fusion_hub.pretrained import DETECTORS, PRETRAINED, SEGMENTERS
from fusion_hub.training import load_config, save_config


def main() -> None:
    """Convert a finished run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, help="pipeline folder of a finished run")
    parser.add_argument(
        "name", choices=sorted([*PRETRAINED, *SEGMENTERS, *DETECTORS]), help="name in fusion_hub.pretrained"
    )
    arguments = parser.parse_args()

    if arguments.name in PRETRAINED:
        folder, benchmark = PRETRAINED[arguments.name].folder, "quality"
        pipeline = FusionPipeline.from_pretrained(arguments.pipeline)
        pipeline.model.half()
        pipeline.save_pretrained(folder)
        shutil.copyfile(arguments.pipeline / "training.json", folder / "training.json")
        if isinstance(pipeline, DiffFuseNetPipeline):
            export.export(arguments.name, "onnx")
    elif arguments.name in SEGMENTERS:
        folder, benchmark = SEGMENTERS[arguments.name].folder, "segmentation"
        bundle_segmenter(arguments.pipeline, folder)
    else:
        folder, benchmark = DETECTORS[arguments.name].folder, "zero_shot"
        folder.mkdir(exist_ok=True)
        for file in ("model.onnx", "inputs.json", "training.json"):
            shutil.copyfile(arguments.pipeline / file, folder / file)
    config = load_config(arguments.pipeline / "config.yaml")
    for key, value in config.items():  # no paths of one machine in a published file
        if isinstance(value, str) and os.path.isabs(value):
            config[key] = os.path.relpath(value)
    config["output_dir"] = f"runs/{arguments.name.replace('-', '_')}"
    save_config(config, folder / "config.yaml")
    print(f"{folder}: now measure with benchmarks/{benchmark}.py and render the card with model_cards/render.py")


def bundle_segmenter(source: Path, folder: Path) -> None:
    """Write a SegFormer, its processor, and the reports of its runs; earlier runs are in `earlier`, in order."""
    from transformers import SegformerForSemanticSegmentation

    SegformerForSemanticSegmentation.from_pretrained(source).half().save_pretrained(folder)
    for file in ("preprocessor_config.json", "segmentation.json"):
        shutil.copyfile(source / file, folder / file)
    stages = list(reversed(runs_of(source)))
    content = {**stages[-1], "earlier": stages[:-1]}
    (folder / "training.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def runs_of(pipeline: Path) -> list[dict[str, Any]]:
    """`training.json` of a run and of the runs whose weights it started from, as far as they exist; the last first."""
    report = json.loads((pipeline / "training.json").read_text(encoding="utf-8"))
    about = json.loads((pipeline / "segmentation.json").read_text(encoding="utf-8"))
    report["inputs"] = [one["name"] for one in about["inputs"]]
    start = load_config(pipeline / "config.yaml").get("initial_weights")
    return [report, *(runs_of(Path(start)) if start and (Path(start) / "training.json").is_file() else [])]


if __name__ == "__main__":
    main()
