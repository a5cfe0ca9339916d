"""The image series of a DICOM file or folder, and the choice of one.

Messages name series by position, number, modality and size only: descriptions and file names may identify a person.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from fusion_hub.volumes.volume import VolumeError

_MAX_FILES = 20_000
_PREFIX = 132  # bytes up to and including "DICM"
_LISTED = 12
# Codes that messages may repeat. Any text could stand in these tags, so others are not repeated.
_CODES = (
    *("AR", "AU", "BI", "CR", "CT", "DX", "ECG", "ES", "GM", "IO", "IVUS", "KO", "M3D", "MG", "MR", "NM", "OCT", "OP"),
    *("OT", "PR", "PT", "PX", "REG", "RF", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SC", "SEG", "SM", "SR", "US"),
    *("XA", "XC"),
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
    *("STATIC", "DYNAMIC", "GATED", "WHOLE BODY", "TOMO", "GATED TOMO", "RECON TOMO", "RECON GATED TOMO"),
)


@dataclass(frozen=True)
class Series:
    """Headers of the images of one series, without pixels, and their files.

    `volume` is the number, from 1, of the chosen one of several images at each position.
    """

    uid: str
    headers: tuple[Dataset, ...]
    files: tuple[Path, ...]
    volume: int | None = None

    def __str__(self) -> str:
        first = self.headers[0]
        size = f"{first.get('Columns')}x{first.get('Rows')}"
        frames = sum(int(header.get("NumberOfFrames") or 1) for header in self.headers)
        return f"number {_number(self)}, {shown_code(first.get('Modality'))}, {frames} images of {size}"


def shown_code(value: object) -> str:
    """A code of DICOM for a message, "unknown" for what is none."""
    return str(value) if str(value) in _CODES or str(value).isdecimal() else "unknown"


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM: by its prefix, or by a first element of group 8 in files without one."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_PREFIX)
    except OSError:
        return False
    return start[-4:] == b"DICM" or (len(start) == _PREFIX and start[:3] == b"\x08\x00\x05" and start[3:4] == b"\x00")


def find_series(place: Path) -> list[Series]:
    """The image series of a DICOM file, or of a folder and the folders in it, in order of number and UID.

    Raises:
        VolumeError: there is none; or the file cannot be read.
    """
    found: dict[str, dict[tuple[str, str], tuple[Dataset, Path]]] = defaultdict(dict)
    others: set[str] = set()
    damaged = 0
    for file in _files(place):
        header = _read_header(file)
        if header is None or _is_cut_short(header):
            damaged += 1
            continue
        if "Rows" not in header or "Columns" not in header or not header.get("SOPClassUID"):
            others.add(_kind(header))
            continue
        uid = str(header.get("SeriesInstanceUID") or "")
        # Copies count once; some programs that remove identities give all slices one UID.
        key = str(header.get("SOPInstanceUID") or file), str(header.get("ImagePositionPatient") or "")
        found[uid].setdefault(key, (header, file))
    if damaged:
        if place.is_file():
            raise VolumeError(f"{place} is cut short or damaged: copy it again")
        count = "1 DICOM file that is" if damaged == 1 else f"{damaged} DICOM files that are"
        raise VolumeError(f"{place} has {count} cut short or damaged: copy the files again, or remove what is damaged")
    if not found:
        held = f"; what it holds is {', '.join(sorted(others))}" if others else ""
        raise VolumeError(f"{place} has no DICOM images{held}: give a folder or file with a CT, MR, PET or NM series")
    series = [
        Series(uid, tuple(header for header, _ in images.values()), tuple(file for _, file in images.values()))
        for uid, images in found.items()
    ]
    return sorted(series, key=lambda one: (_number(one), one.uid))


def choose_series(place: Path, wanted: str | int | None = None) -> Series:
    """The series of a file or folder that `wanted` names; None: the only one.

    A name is a number, a UID, or `#1`, `#2` ... for the position in the list that the error shows. `/2` after it, or
    alone for the only series, is the second of several images at each position.
    """
    series = find_series(place)
    name, slash, number = str("" if wanted is None else wanted).strip().partition("/")
    if slash and not (number.isdecimal() and int(number)):
        raise VolumeError(f"the series {wanted!r} has no number from 1 after its /: give one such as /2")
    if wanted is None or (slash and not name):
        chosen = series if len(series) == 1 else []
        problem = f"{place} has {len(series)} series"
    else:
        chosen = [one for one in series if name in (one.uid, str(one.headers[0].get("SeriesNumber")))]
        if not chosen and name.lstrip("#").isdecimal() and 1 <= int(name.lstrip("#")) <= len(series):
            chosen = [series[int(name.lstrip("#")) - 1]]
        if name.startswith("#") and name[1:].isdecimal():
            chosen = series[int(name[1:]) - 1 : int(name[1:])] if int(name[1:]) else []
        problem = f"{place} has {len(chosen) or 'no'} series named {name!r}"
    if len(chosen) != 1:
        listed = "; ".join(f"#{position} {one}" for position, one in enumerate(series[:_LISTED], 1))
        more = f"; and {len(series) - _LISTED} more" if len(series) > _LISTED else ""
        raise VolumeError(f"{problem}: choose one of {listed}{more} by number, UID or #position")
    return replace(chosen[0], volume=int(number)) if number else chosen[0]


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        if not is_dicom(place):
            raise VolumeError(f"{place} is no DICOM file: give a DICOM, NIfTI, NRRD or MetaImage file")
        yield place
        return
    count = 0
    for file in sorted(place.rglob("*")):
        if file.name.upper() == "DICOMDIR" or file.name.startswith(".") or not file.is_file() or not is_dicom(file):
            continue
        count += 1
        if count > _MAX_FILES:
            raise VolumeError(f"{place} has more than {_MAX_FILES:,} DICOM files: give the folder of one study")
        yield file


def _read_header(file: Path) -> Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of tags
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, EOFError, NotImplementedError):
        return None


def _is_cut_short(header: Dataset) -> bool:
    """Whether the file ends before the size of its image: an image, which has a size, without one."""
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return uid is not None and UID(uid).name.endswith("Image Storage") and "Rows" not in header


def _kind(header: Dataset) -> str:
    uid = header.get("SOPClassUID")
    name = UID(uid).name if uid else ""  # the UID itself, or what stands in its place, where it is unknown
    return name.removesuffix(" Storage") if name and name != uid else "a file without images"


def _number(series: Series) -> int:
    try:
        return int(series.headers[0].get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        return 0
