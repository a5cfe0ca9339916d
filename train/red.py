"""Train RED. Without --config: train/configs/red_small_msrs.yaml.

accelerate launch train/red.py --config train/configs/red_small_msrs.yaml
accelerate launch train/red.py --data generated         # generated scenes: runs anywhere
"""

import sys
from pathlib import Path

from fusion_hub.training.red import REDConfig, REDTask
from fusion_hub.training.trainer import main

if __name__ == "__main__":
    sys.exit(main(REDTask, REDConfig, Path(__file__).parent / "configs" / "red_small_msrs.yaml"))
