"""Train SegFormer on fused pictures of pairs with labels. Without --config: train/configs/segformer_msrs.yaml.

accelerate launch train/segformer.py --config train/configs/segformer_msrs.yaml
accelerate launch train/segformer.py --input difffusenet-msrs --output_dir runs/segformer/difffusenet-msrs-seed0
"""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("segformer")
