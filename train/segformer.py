"""`fusion-hub train segformer` as a script: `accelerate launch --quiet train/segformer.py --config segformer_msrs`."""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("segformer")
