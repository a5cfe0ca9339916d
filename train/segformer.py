"""Train SegFormer on fused pictures of pairs with labels. Without --config: train/configs/segformer_msrs.yaml.

accelerate launch train/segformer.py --config train/configs/segformer_msrs.yaml
accelerate launch train/segformer.py --input difffusenet-msrs --output_dir runs/segformer/difffusenet-msrs-seed0
"""

import sys
from pathlib import Path

from fusion_hub.downstream.train_segformer import SegFormerConfig, SegFormerTask
from fusion_hub.training.trainer import main

if __name__ == "__main__":
    sys.exit(main(SegFormerTask, SegFormerConfig, Path(__file__).parent / "configs" / "segformer_msrs.yaml"))
