"""`python -m fusion_hub.cli` is `fusion-hub`; launchers such as torchrun start it this way."""

from fusion_hub.cli import main

if __name__ == "__main__":
    main()
