"""Turn a finished run into a bundled checkpoint: half precision, with the configuration it was trained with.

python train/bundle.py runs/difffusenet_msrs/pipeline difffusenet-msrs
"""

import argparse
import os
import shutil
from pathlib import Path

from fusion_hub import FusionPipeline
from fusion_hub.pretrained import PRETRAINED
from fusion_hub.training import load_config, save_config


def main() -> None:
    """Parse, convert, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, help="pipeline folder of a finished run")
    parser.add_argument("name", choices=sorted(PRETRAINED), help="name in fusion_hub.pretrained.PRETRAINED")
    arguments = parser.parse_args()

    folder = PRETRAINED[arguments.name].folder
    pipeline = FusionPipeline.from_pretrained(arguments.pipeline)
    pipeline.model.half()
    pipeline.save_pretrained(folder)
    config = load_config(arguments.pipeline / "config.yaml")
    for key, value in config.items():  # no place of one machine in a published file
        if isinstance(value, str) and os.path.isabs(value):
            config[key] = os.path.relpath(value)
    save_config(config, folder / "config.yaml")
    shutil.copyfile(arguments.pipeline / "training.json", folder / "training.json")
    print(f"{folder}: now measure with benchmarks/quality.py and render the card with model_cards/render.py")


if __name__ == "__main__":
    main()
