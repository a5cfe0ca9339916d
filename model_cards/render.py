"""Write the cards of bundled checkpoints from what lies beside their weights, so that card and files cannot disagree.

python model_cards/render.py                    # all of them
python model_cards/render.py difffusenet-msrs

Writes the checkpoint's `README.md` and, beside this file, `<name>.md`. `fusion_hub.hub.cards` says which files
are read; `template.md.j2` is a link to its template.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fusion_hub.hub.cards import render_model_card, render_segmenter_card, validate_card
from fusion_hub.pretrained import PRETRAINED, SEGMENTERS

HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None, output: Path = HERE) -> int:
    """Render the cards of the named checkpoints. 1 if one of them is not valid; that one is not written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundled = [*PRETRAINED, *SEGMENTERS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"bundled checkpoints: {', '.join(bundled)}")
    names = parser.parse_args(argv).names or bundled
    if unknown := [name for name in names if name not in bundled]:
        parser.error(f"{unknown[0]!r} is not bundled: choose among {', '.join(bundled)}")
    failed = False
    for name in names:
        text, problems = render(name)
        if problems:
            print(f"{name}: the card is not valid:", *problems, sep="\n  ", file=sys.stderr)
            failed = True
            continue
        info = PRETRAINED.get(name) or SEGMENTERS[name]
        for path in (info.folder / "README.md", output / f"{info.name}.md"):
            write(text, path)
            print(path)
    return int(failed)


def render(name: str) -> tuple[str, list[str]]:
    """The card of a bundled checkpoint, and what is wrong with it."""
    if name in SEGMENTERS:
        segmenter = SEGMENTERS[name]
        text = render_segmenter_card(segmenter)
        return text, validate_card(text, segmenter.folder, "segmenter")
    info = PRETRAINED[name]
    text = render_model_card(info.folder, name=name, summary=info.summary, licence=info.license)
    return text, validate_card(text, info.folder)


def write(text: str, path: Path) -> None:
    """Write aside, then rename."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


if __name__ == "__main__":
    sys.exit(main())
