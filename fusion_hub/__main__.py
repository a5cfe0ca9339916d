"""`python -m fusion_hub` is `fusion-hub`."""

from .cli import main

if __name__ == "__main__":
    main()
