"""What the commands say of a set, from its names and headers, before they load a network."""

import json
from collections.abc import Mapping
from pathlib import Path

from fusion_hub import data, image
from fusion_hub.cli.common import WRONG_USE, CommandError, print_message
from fusion_hub.image.subject import SCANS, name_words


def warn_of_stretch(dataset: "data.PairedDataset", option: str, name: str = "", pipeline: Path | None = None) -> None:
    """Say once that each infrared image of a set of raw counts gets black and white of its own without `option`.

    Not of a single pair, a stream, images that keep their scale, or MRI, whose values have no common scale; nor where
    the stored `pipeline` has a range.
    """
    if dataset.length is None or dataset.length < 2 or (pipeline is not None and _has_own_range(pipeline)):
        return
    source = dataset[0].infrared_source
    if not isinstance(source, Path | Mapping) or _words(source) & SCANS[1]:
        return
    try:
        kind = image.read_header(source).dtype
    except (ValueError, OSError):  # reported when it is fused
        return
    if kind.startswith(("uint", "int")) and kind != "uint8":
        print_message(
            f"warning: {name}{': ' * bool(name)}the infrared images have {kind.lstrip('uint')} bits, and each is "
            f"stretched by itself: give {option} LOW,HIGH for the same black and white in all of them"
        )


def _has_own_range(pipeline: Path) -> bool:
    try:
        return bool(json.loads((pipeline / "model_index.json").read_bytes()).get("infrared_range", "auto") != "auto")
    except (OSError, ValueError, AttributeError):  # reported when it is loaded
        return False


def check_overlay(dataset: "data.PairedDataset") -> None:
    """Refuse an overlay of a CT, by its name; warn of a gray scan whose name does not tell what it is."""
    warned = False
    for pair in dataset if dataset.length is not None else ():
        file, words = data.source_file(pair.visible_source), _words(pair.visible_source) & SCANS[0]
        if words == {"ct"}:
            raise CommandError(
                f"--colors overlay shows the uptake in PET and SPECT, but the name of {file} says CT: leave it out",
                WRONG_USE,
            )
        if file is None or words or warned:
            continue
        try:
            warned = image.read_header(file).channels < 3
        except (ValueError, OSError):  # reported when it is fused
            continue
        if warned:
            print_message(
                f"warning: {file} is gray: --colors overlay is for PET and SPECT, and colors each value as uptake"
            )


def _words(source: "data.ImageSource") -> set[str]:
    file = data.source_file(source)
    return name_words(None if file is None else str(file))
