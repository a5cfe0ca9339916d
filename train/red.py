"""`fusion-hub train red` as a script: `accelerate launch --quiet train/red.py --config red_small_msrs`."""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("red")
