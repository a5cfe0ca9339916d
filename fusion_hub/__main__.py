"""`python -m fusion_hub` is `fusion-hub`."""

from fusion_hub.cli import main

if __name__ == "__main__":
    main()
