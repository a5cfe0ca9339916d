"""Train RED. Without --config: train/configs/red_small_msrs.yaml.

accelerate launch train/red.py --config train/configs/red_small_msrs.yaml
accelerate launch train/red.py --data generated         # generated scenes: runs anywhere
"""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("red")
