"""Train RED. Without --config: train/configs/red_small_msrs.yaml.

accelerate launch train/red.py --config train/configs/red_small_msrs.yaml
accelerate launch train/red.py --data generated         # drawn scenes: runs anywhere
"""

import sys
from pathlib import Path

from fusion_hub.training import ConfigError, OutputError, Trainer, TrainingConfig, parse_config
from fusion_hub.training.red import REDConfig, REDTask

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "red_small_msrs.yaml"


def main() -> int:
    """Parse, build, run. Exit code 0 also when a signal stopped it after a checkpoint; 1 for a full disk, 2 for a wrong
    configuration."""
    try:
        training, model = parse_config((TrainingConfig, REDConfig), default_config=DEFAULT_CONFIG)
        Trainer(REDTask(training, model), training, model).train()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
