"""`fusion-hub train difffusenet` as a script: `accelerate launch --quiet train/difffusenet.py --max_steps 500`."""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("difffusenet")
