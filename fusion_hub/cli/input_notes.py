"""What the commands say of a set, from its names and headers, before they load a network."""

import json
from collections.abc import Mapping
from pathlib import Path

from fusion_hub import data, image
from fusion_hub.cli.common import print_message
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
        header = image.read_header(source, role="infrared")
    except (ValueError, OSError):  # reported when it is fused
        return
    kind, degrees = header.dtype, header.format == "FLIR"
    if degrees or (kind.startswith(("uint", "int")) and kind != "uint8"):
        what = "hold temperatures" if degrees else f"have {kind.lstrip('uint')} bits"
        print_message(
            f"warning: {name}{': ' * bool(name)}the infrared images {what}, and each is stretched by itself: give "
            f"{option} LOW,HIGH{' in degrees C' * degrees} for the same black and white in all of them"
        )


def _has_own_range(pipeline: Path) -> bool:
    try:
        return bool(json.loads((pipeline / "model_index.json").read_bytes()).get("infrared_range", "auto") != "auto")
    except (OSError, ValueError, AttributeError):  # reported when it is loaded
        return False


def warn_of_overlay(dataset: "data.PairedDataset") -> None:
    """Say, of the first CT by its name or gray scan of unknown kind, that an overlay shows what PET and SPECT measure.

    Not an error, as a folder may hold both, and PET without colors is common.
    """
    for pair in dataset if dataset.length is not None else ():
        file, words = data.source_file(pair.visible_source), _words(pair.visible_source) & SCANS[0]
        try:
            if file is None or (words and words != {"ct"}) or (not words and image.read_header(file).channels >= 3):
                continue
        except (ValueError, OSError):  # reported when it is fused
            continue
        print_message(
            f"warning: {file} {'is named as a CT' if words else 'has no colors'}: --colors overlay draws every value "
            "as uptake, so use it only for PET and SPECT"
        )
        return


def _words(source: "data.ImageSource") -> set[str]:
    file = data.source_file(source)
    return name_words(None if file is None else str(file))
