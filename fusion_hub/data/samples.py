"""The sample pairs in the package: drawn by us, for first steps, the examples of the page and the documentation."""

from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).with_name("samples")
_STREET, _MEDICAL = "difffusenet-msrs", "difffusenet-medical"


class SamplePair(NamedTuple):
    """A drawn pair.

    Attributes:
        name: stem of the visible file, such as "night".
        label: a title of a few words.
        description: one sentence on what to look at.
        model: the bundled checkpoint for it.
        visible: 8-bit RGB; for medical pairs the CT (gray), PET or SPECT (pseudo-colors).
        infrared: 8-bit gray; 16-bit counts for "raw16"; for medical pairs the MRI.
    """

    name: str
    label: str
    description: str
    model: str
    visible: Path
    infrared: Path


def sample_pairs() -> list[SamplePair]:
    """The eight drawn pairs, five of streets and three medical ones; their files are part of the package."""
    streets = (
        ("night", "Street by night", "People in the dark become bright, and the lit windows keep their colors."),
        ("day", "Street by day", "Warm people and cars stand out, and the colors of the street stay."),
        ("smoke", "Smoke", "Three people stand behind the smoke: only the infrared camera sees them."),
        ("glare", "Low sun", "The sun blinds the visible camera, but the infrared image shows who crosses the road."),
        ("raw16", "16-bit thermal", "The infrared image holds raw 16-bit counts of about 7,000 to 8,700."),
    )
    scans = (
        ("ct", "CT + MRI", "Bone is bright in the CT, soft tissue is clear in the MRI, and the fused image has both."),
        ("pet", "PET + MRI", "The colors are the uptake of the PET, and the lines are the anatomy of the MRI."),
        ("spect", "SPECT + MRI", "The coarse uptake of the SPECT gets the fine anatomy of the MRI."),
    )
    return [
        *(SamplePair(*row, _STREET, _FOLDER / f"{row[0]}.jpg", _FOLDER / f"{row[0]}_ir.png") for row in streets),
        *(SamplePair(*row, _MEDICAL, _FOLDER / f"{row[0]}.png", _FOLDER / f"{row[0]}_mri.png") for row in scans),
    ]
