"""Train a detector on fused pictures of pairs with boxes. Without --config: train/configs/detector_msrs.yaml.

accelerate launch train/detector.py --config train/configs/detector_msrs.yaml
accelerate launch train/detector.py --input difffusenet-msrs --output_dir runs/detector/difffusenet-msrs-seed0
"""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("detector")
