"""Train SegFormer on what a fusion method makes of pairs with labels. Without --config: configs/segformer_msrs.yaml.

accelerate launch train/segformer.py --config train/configs/segformer_msrs.yaml
accelerate launch train/segformer.py --input difffusenet-msrs --output_dir runs/segformer/difffusenet-msrs-seed0
"""

import sys
from pathlib import Path

from fusion_hub.downstream.train_segformer import SegFormerConfig, SegFormerTask
from fusion_hub.training import ConfigError, OutputError, Trainer, TrainingConfig, parse_config

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "segformer_msrs.yaml"


def main() -> int:
    """Parse, build, run. Exit code 0 also when a signal stopped it after a checkpoint; 1 for a full disk, 2 for a wrong
    configuration."""
    try:
        training, model = parse_config((TrainingConfig, SegFormerConfig), default_config=DEFAULT_CONFIG)
        Trainer(SegFormerTask(training, model), training, model).train()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
