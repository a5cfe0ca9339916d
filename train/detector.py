"""`fusion-hub train detector` as a script: `accelerate launch --quiet train/detector.py --config detector_msrs`."""

from fusion_hub.cli.train import script

if __name__ == "__main__":
    script("detector")
