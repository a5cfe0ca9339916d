"""Train DiffFuseNet.

accelerate launch train/difffusenet.py --config train/configs/difffusenet_msrs.yaml
"""

import sys

from fusion_hub.training import ConfigError, Trainer, TrainingConfig, parse_config
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask


def main() -> int:
    """Parse, build, run. Exit code 0 also when a signal stopped it after a checkpoint; 2 for a wrong configuration."""
    try:
        training, model = parse_config((TrainingConfig, DiffFuseNetConfig))
        Trainer(DiffFuseNetTask(training, model), training, model).train()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
