"""Write the cards of bundled checkpoints from the files beside their weights.

python model_cards/render.py                    # all of them
python model_cards/render.py difffusenet-msrs

Writes the checkpoint's `README.md` and, beside this file, `<name>.md`. `template.md.j2` links to the template.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fusion_hub.files import write_aside
from fusion_hub.hub.cards import render_model_card, render_predictor_card, validate_card
from fusion_hub.pipelines.checkpoints import DETECTORS, PRETRAINED, SEGMENTERS, DetectorInfo, SegmenterInfo

HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None, output: Path = HERE) -> int:
    """Render the cards of the named checkpoints. Returns 1 if a card is not valid; that card is not written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundled = {**PRETRAINED, **SEGMENTERS, **DETECTORS}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"bundled checkpoints: {', '.join(bundled)}")
    names = parser.parse_args(argv).names or bundled
    if unknown := [name for name in names if name not in bundled]:
        parser.error(f"{unknown[0]!r} is not bundled: choose among {', '.join(bundled)}")
    failed = False
    for name in names:
        folder = bundled[name].folder
        info = bundled[name]
        if isinstance(info, SegmenterInfo | DetectorInfo):
            text = render_predictor_card(info)
            problems = validate_card(text, folder, "segmenter" if name in SEGMENTERS else "detector")
        else:
            text = render_model_card(folder, name=name, summary=info.summary, licence=info.license)
            problems = validate_card(text, folder)
        if problems:
            print(f"{name}: the card is not valid:", *problems, sep="\n  ", file=sys.stderr)
            failed = True
            continue
        for path in (folder / "README.md", output / f"{name}.md"):
            with write_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
            print(path)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
