"""Train a detector on what a fusion method makes of pairs with boxes. Without --config: configs/detector_msrs.yaml.

accelerate launch train/detector.py --config train/configs/detector_msrs.yaml
accelerate launch train/detector.py --input difffusenet-msrs --output_dir runs/detector/difffusenet-msrs-seed0
"""

import sys
from pathlib import Path

from fusion_hub.downstream.train_detector import DetectorConfig, DetectorTask
from fusion_hub.training import ConfigError, OutputError, Trainer, TrainingConfig, parse_config

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "detector_msrs.yaml"


def main() -> int:
    """Parse, build, run. Exit code 0 also when a signal stopped it after a checkpoint; 1 for a full disk, 2 for a wrong
    configuration."""
    try:
        training, model = parse_config((TrainingConfig, DetectorConfig), default_config=DEFAULT_CONFIG)
        Trainer(DetectorTask(training, model), training, model).train()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
