"""Train DiffFuseNet. Without --config: train/configs/difffusenet_msrs.yaml.

accelerate launch train/difffusenet.py --config train/configs/difffusenet_msrs.yaml
accelerate launch train/difffusenet.py --data generated         # drawn scenes: runs anywhere
"""

import sys
from pathlib import Path

from fusion_hub.training import ConfigError, OutputError, Trainer, TrainingConfig, parse_config
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "difffusenet_msrs.yaml"


def main() -> int:
    """Parse, build, run. Exit code 0 also when a signal stopped it after a checkpoint; 1 for a full disk, 2 for a wrong
    configuration."""
    try:
        training, model = parse_config((TrainingConfig, DiffFuseNetConfig), default_config=DEFAULT_CONFIG)
        Trainer(DiffFuseNetTask(training, model), training, model).train()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
