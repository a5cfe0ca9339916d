"""Train DiffFuseNet. Without --config: train/configs/difffusenet_msrs.yaml.

accelerate launch train/difffusenet.py --config train/configs/difffusenet_msrs.yaml
accelerate launch train/difffusenet.py --data generated         # generated scenes: runs anywhere
"""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("difffusenet")
