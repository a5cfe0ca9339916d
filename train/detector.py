"""Train a detector on fused pictures of pairs with boxes. Without --config: train/configs/detector_msrs.yaml.

accelerate launch train/detector.py --config train/configs/detector_msrs.yaml
accelerate launch train/detector.py --input difffusenet-msrs --output_dir runs/detector/difffusenet-msrs-seed0
"""

import sys
from pathlib import Path

from fusion_hub.downstream.train_detector import DetectorConfig, DetectorTask
from fusion_hub.training.trainer import main

if __name__ == "__main__":
    sys.exit(main(DetectorTask, DetectorConfig, Path(__file__).parent / "configs" / "detector_msrs.yaml"))
