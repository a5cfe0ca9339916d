"""Train DiffFuseNet. Without --config: train/configs/difffusenet_msrs.yaml.

accelerate launch train/difffusenet.py --config train/configs/difffusenet_msrs.yaml
accelerate launch train/difffusenet.py --data generated         # generated scenes: runs anywhere
"""

import sys
from pathlib import Path

from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask
from fusion_hub.training.trainer import main

if __name__ == "__main__":
    sys.exit(main(DiffFuseNetTask, DiffFuseNetConfig, Path(__file__).parent / "configs" / "difffusenet_msrs.yaml"))
