"""Slices of a DICOM series in order of their position along the normal, and their values in physical units."""

import datetime
import itertools
import math
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from fusion_hub.volumes import jpeg_lossless
from fusion_hub.volumes.dicom_series import Series, shown_code
from fusion_hub.volumes.volume import MAX_VOXELS, VolumeError, check_size

_TOLERANCE = 0.01  # of the slice distance, by which distances may differ
_ROUNDING = 0.02  # mm, of positions in the tags
_SHEAR = 0.05  # mm between neighboring slices, in their plane
_NOT_ORTHONORMAL = 1e-3
_PARALLEL = 1e-4  # difference of direction cosines within a series
# What tells images at one position apart, in the order of the volumes, and how a message shows it.
_PHASES = {
    "TemporalPositionIndex": "time point {:g}",
    "TemporalPositionIdentifier": "time point {:g}",
    "EffectiveEchoTime": "echo time {:g} ms",
    "EchoTime": "echo time {:g} ms",
    "DiffusionBValue": "b value {:g} s/mm\N{SUPERSCRIPT TWO}",
}
# Where these do not tell them apart: times, which may differ from slice to slice.
_TIMES = ("TriggerTime", "NominalCardiacTriggerDelayTime", "TemporalPositionTimeOffset", "FrameReferenceTime")
_PARTS = {"M": "magnitude", "P": "phase", "R": "real part", "I": "imaginary part"}  # of ImageType
_NAMED = 12  # volumes in a message
# Sequences of an enhanced file that hold what the tags of a single image do.
_GEOMETRY = ("PixelMeasures", "PlanePosition", "PlaneOrientation", "PixelValueTransformation")
_PARAMETERS = (
    *("FrameContent", "MREcho", "MRDiffusion", "CardiacSynchronization", "TemporalPosition"),
    *("MRImageFrameType", "CTImageFrameType", "PETFrameType"),
)

jpeg_lossless.register()


@dataclass(frozen=True)
class Frame:
    """One slice: where it is in its file and in space, and how its samples become values."""

    file: int
    index: int
    position: np.ndarray
    rows_and_columns: np.ndarray  # direction cosines, (2, 3)
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float
    slope: float
    intercept: float
    phase: tuple[float | None, ...] = ()  # of `_PHASES`
    kind: tuple[str, ...] = ()  # ImageType
    times: tuple[float | None, ...] = ()  # of `_TIMES`, and of the acquisition
    number: float | None = None  # of the image, or of the frame in its file


@dataclass(frozen=True)
class Grid:
    """The slices in order, and the geometry of the volume, in mm, left-posterior-superior."""

    frames: tuple[Frame, ...]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]  # along columns, rows, slices
    direction: tuple[float, ...]  # 9 numbers, row by row, whose columns are the axes


def sort_frames(series: Series) -> Grid:
    """Order the slices of a series by position and check that they are one regular stack.

    Raises:
        VolumeError: missing slices, uneven spacing, several orientations, sizes or modalities, several images at one
            position, no position, directions that are not orthonormal, a tilted gantry.
    """
    _check_uniform(series)
    frames = [frame for number, header in enumerate(series.headers) for frame in _frames(number, header)]
    directions = np.stack([frame.rows_and_columns for frame in frames])
    groups = _distinct(directions.reshape(len(frames), 6), _PARALLEL)
    if len(groups) > 1:
        counts = " and ".join(map(str, groups))
        raise VolumeError(f"the series mixes {len(groups)} orientations ({counts} images): give a series of one stack")
    if len(spacings := {tuple(round(value, 5) for value in frame.spacing) for frame in frames}) > 1:
        raise VolumeError(f"the series mixes {len(spacings)} pixel spacings: give a series of one stack")
    row, column = _orthonormal(directions[0])
    normal = np.cross(row, column)
    along = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(along, kind="stable")
    frames, along = [frames[i] for i in order], along[order]
    frames = _one_volume(frames, along, series.volume)
    along = np.array([frame.position @ normal for frame in frames])
    distance = _check_distances(frames, along)
    if distance is None:
        distance = frames[0].thickness or 1.0
    else:
        _check_shear(np.stack([frame.position for frame in frames]), normal)
    between_rows, between_columns = frames[0].spacing
    direction = np.stack([row, column, normal], axis=1)
    return Grid(
        tuple(frames),
        tuple(frames[0].position),
        (between_columns, between_rows, float(distance)),
        tuple(direction.flatten()),
    )


def read_values(series: Series, grid: Grid, max_voxels: int = MAX_VOXELS) -> np.ndarray:
    """Values `(S, R, C)` float32 of the sorted slices: `slope * sample + intercept`, each slice with its own.

    Raises:
        VolumeError: color, samples that are no numbers, or a compression without a decoder.
    """
    header = series.headers[0]
    rows, columns = int(header.Rows), int(header.Columns)
    check_size((columns, rows, len(grid.frames)), "the series", max_voxels)
    values = np.empty((len(grid.frames), rows, columns), dtype=np.float32)
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(grid.frames):
        places.setdefault(frame.file, []).append(place)
    for number, slices in places.items():
        samples = _samples(series.files[number])
        if samples.shape[1:] != (rows, columns):
            raise VolumeError(f"a file of the series holds {samples.shape[2]}x{samples.shape[1]} pixels: it is damaged")
        for place in slices:
            frame = grid.frames[place]
            # float64, as 16-bit samples times a slope plus an intercept need more than 24 bits
            values[place] = samples[frame.index] * np.float64(frame.slope) + frame.intercept
    return values


def _samples(file: Path) -> np.ndarray:
    """Stored samples `(frames, rows, columns)` of a file, signed where the file says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(file, force=True)
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise VolumeError("the series has an image without pixels: copy its files again")
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        compression = _compression(syntax)
        _check_streams(dataset, compression)
        if compression != "no compression" and not _can_decode(syntax):
            raise VolumeError(
                f"the series is compressed as {compression}, for which no decoder is installed: decompress it, for "
                "example with gdcmconv --raw"
            )
        try:
            samples = dataset.pixel_array
        except Exception as error:  # decoders raise what they like
            raise VolumeError(
                f"the pixels of the series cannot be decoded ({compression}), they are shorter than its tags say or "
                "damaged: copy the files again"
            ) from error
    stored, allocated = int(dataset.get("BitsStored") or 0), int(dataset.get("BitsAllocated") or 0)
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise VolumeError(
            "the series stores its values in the upper bits (HighBit), which is retired: convert it first"
        )
    if samples.dtype.kind in "iu" and 0 < stored < allocated:
        samples = _used_bits(samples, stored)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not has_physical_unit(dataset):
        low, high = _stored_range(dataset)
        samples = (low + high) - samples.astype(np.int64)
    return samples.reshape(-1, *samples.shape[-2:])


def _compression(syntax: UID | None) -> str:
    try:
        return syntax.name if syntax is not None and syntax.is_compressed else "no compression"
    except ValueError:  # no transfer syntax of the standard
        raise VolumeError(
            "the series is stored in a private transfer syntax: convert it, for example with gdcmconv --raw"
        ) from None


def _can_decode(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:  # pydicom knows no decoder at all
        return False


def _check_streams(dataset: Dataset, compression: str) -> None:
    """Refuse compressed frames of another size than the tags say, before a decoder makes room for them."""
    if compression == "no compression" or "PixelData" not in dataset:
        return
    wanted = int(dataset.Rows), int(dataset.Columns)
    try:
        sizes = {_stream_size(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=_count(dataset))}
    except Exception:  # the decoder says what is wrong
        return
    for rows, columns in sizes - {None, wanted}:  # type: ignore[misc]
        raise VolumeError(
            f"a frame of the series holds {columns}x{rows} pixels ({compression}), its tags say "
            f"{wanted[1]}x{wanted[0]}: it is damaged"
        )


def _count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _stream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 frame states; None for what is none of these."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000, maybe after boxes
    if start >= 0:
        width, height, left, top = struct.unpack_from(">4L", frame, start + 8)
        return height - top, width - left
    if frame[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xFF:
            place += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack_from(">2H", frame, place + 5)
            return rows, columns
        place += 2 + length
    return None


def has_physical_unit(header: Dataset) -> bool:
    """Whether values mean something by themselves, as HU and Bq/ml do: MONOCHROME1 then concerns the display only."""
    return header.get("Modality") in ("CT", "PT")


def _used_bits(samples: np.ndarray, stored: int) -> np.ndarray:
    """Samples without the bits that do not belong to them, such as overlays in the upper four of sixteen."""
    unused = 8 * samples.dtype.itemsize - stored
    return (samples << unused) >> unused  # of signed types, >> extends the sign


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.get("PixelRepresentation") else (0, 2**bits - 1)


def _check_uniform(series: Series) -> None:
    """Refuse color, and sizes or modalities that differ within the series."""
    for name, what in (("Modality", "modalities"), ("Rows", "sizes"), ("Columns", "sizes"), ("SOPClassUID", "kinds")):
        if len(values := {header.get(name) for header in series.headers}) > 1:
            kinds = "" if what == "kinds" else f" ({', '.join(sorted(map(shown_code, values)))})"
            raise VolumeError(f"the series mixes {what} of images{kinds}: give a series of one stack")
    if any("ModalityLUTSequence" in header for header in series.headers):
        raise VolumeError(
            "the series has a table of values (Modality LUT) in place of slope and intercept: apply it first"
        )
    for name in ("RescaleSlope", "RescaleIntercept"):
        if len({name in header for header in series.headers}) > 1:
            raise VolumeError(f"some images of the series have a {name} and others have none: it is damaged")
    for name in ("Units", "SUVType", "PatientWeight") if series.headers[0].get("Modality") == "PT" else ():
        if len({str(header.get(name) or "") for header in series.headers}) > 1:
            raise VolumeError(f"the images of the PET series differ in {name}: give a series of one stack")
    first = series.headers[0]
    color = first.get("PhotometricInterpretation", "MONOCHROME2")
    if int(first.get("SamplesPerPixel") or 1) != 1 or color == "PALETTE COLOR":
        raise VolumeError(
            f"the series holds color pictures ({shown_code(color)}): give the gray images they were made from"
        )
    if len(series.headers) > 1 and any(int(header.get("NumberOfFrames") or 1) > 1 for header in series.headers):
        raise VolumeError(
            f"the series has {len(series.headers)} files with several frames each, as time series have: give one file"
        )


def _frames(file: int, header: Dataset) -> list[Frame]:
    count = _count(header)
    if "SharedFunctionalGroupsSequence" in header or "PerFrameFunctionalGroupsSequence" in header:
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        if len(groups) != count:
            raise VolumeError(f"the file has {count} frames but positions of {len(groups)}: it is damaged")
        return [_frame(file, index, _merged(header, shared, group)) for index, group in enumerate(groups)]
    if header.get("Modality") == "NM" and "DetectorInformationSequence" in header:
        return _nuclear_frames(file, header, count)
    if count > 1:
        raise VolumeError(f"the file has {count} frames without a position each: give a series or an enhanced file")
    return [_frame(file, 0, header)]


def _merged(header: Dataset, shared: Dataset, group: Dataset) -> Dataset:
    """The tags of one frame of an enhanced file as those of a single image."""
    merged = Dataset()
    for name in ("RescaleSlope", "RescaleIntercept", "Modality"):
        if name in header:
            setattr(merged, name, header.get(name))
    for name in (*_GEOMETRY, *_PARAMETERS):
        for source in (shared, group):
            for item in (source.get(f"{name}Sequence") or [])[:1]:
                merged.update(item)
    return merged


def _nuclear_frames(file: int, header: Dataset, count: int) -> list[Frame]:
    """Slices of a SPECT reconstruction, stacked along the normal in the order of the frames."""
    kind = header.get("ImageType") or []
    if len(kind) < 3 or kind[2] != "RECON TOMO":
        name = shown_code(kind[2]) if len(kind) > 2 else "no reconstruction"
        raise VolumeError(f"the NM file holds {name}, not RECON TOMO: give the reconstructed slices of one SPECT")
    first = Dataset()
    first.update(header.DetectorInformationSequence[0])
    for name in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "ImageOrientationPatient"):
        if name in header:
            setattr(first, name, header.get(name))
    start = _frame(file, 0, first)
    # Its sign is the direction of stacking (PS3.3 C.8.4.15).
    distance = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
    order = header.get("SliceVector")
    numbers = [int(n) - 1 for n in order] if order is not None and not isinstance(order, int) else list(range(count))
    if sorted(numbers) != list(range(count)):
        raise VolumeError(f"the NM file has {count} frames of {len(set(numbers))} slices: give one SPECT, not gated")
    if distance == 0 and count > 1:
        raise VolumeError("the NM file does not say how far apart its slices are: give one with SpacingBetweenSlices")
    step = np.cross(*start.rows_and_columns) * distance
    return [
        Frame(
            file,
            index,
            start.position + number * step,
            start.rows_and_columns,
            start.spacing,
            start.thickness,
            start.slope,
            start.intercept,
        )
        for index, number in enumerate(numbers)
    ]


def _frame(file: int, index: int, tags: Dataset) -> Frame:
    try:
        position = np.array(tags.ImagePositionPatient, dtype=np.float64)
        directions = np.array(tags.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        spacing = tuple(float(value) for value in tags.PixelSpacing)
        slope, intercept = float(tags.get("RescaleSlope", 1)), float(tags.get("RescaleIntercept", 0))
        thickness = abs(float(tags.get("SliceThickness") or 0))
    except AttributeError as error:
        missing = error.name or "ImagePositionPatient"
        raise VolumeError(
            f"the images have no place in space ({missing} is missing): give the original series"
        ) from None
    except (TypeError, ValueError):
        raise VolumeError("position, orientation or spacing of an image is no number: the series is damaged") from None
    numbers = [*position, *directions.flat, *spacing, slope, intercept]
    if len(numbers) != 13 or not np.isfinite(numbers).all() or min(spacing) <= 0 or slope == 0:
        raise VolumeError(
            "position, orientation, spacing or rescale of an image is out of range: the series is damaged"
        )
    phase = tuple(None if (value := _number(tags.get(name))) is None else round(value, 2) for name in _PHASES)
    kind = tags.get("FrameType") or tags.get("ImageType") or ()
    times = *(_number(tags.get(name)) for name in _TIMES), _moment(tags)
    instance = _number(tags.get("InstanceNumber"))
    return Frame(
        file,
        index,
        position,
        directions,
        (spacing[0], spacing[1]),
        thickness,
        slope,
        intercept,
        phase,
        (kind,) if isinstance(kind, str) else tuple(map(str, kind)),
        times,
        float(index) if instance is None else instance,
    )


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _moment(tags: Dataset) -> float | None:
    """Date and time of the acquisition in seconds; the time of day where there is no date."""
    stated = str(tags.get("FrameAcquisitionDateTime") or tags.get("AcquisitionDateTime") or "")
    date, clock = stated[:8], stated[8:]
    if not stated:
        date, clock = (str(tags.get(name) or "") for name in ("AcquisitionDate", "AcquisitionTime"))
    found = re.match(r"(\d\d)(\d\d)?(\d\d(?:\.\d+)?)?", clock)
    if not found:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    try:
        day = datetime.datetime.strptime(date, "%Y%m%d").toordinal()
    except ValueError:
        day = 0
    return 86_400 * day + 3600 * hours + 60 * minutes + seconds


def _distinct(rows: np.ndarray, tolerance: float) -> list[int]:
    """Sizes of the groups of rows that agree."""
    sizes = []
    while len(rows):
        same = np.abs(rows - rows[0]).max(axis=1) <= tolerance
        sizes.append(int(same.sum()))
        rows = rows[~same]
    return sizes


def _orthonormal(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row, column = directions
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > _NOT_ORTHONORMAL:
        text = ", ".join(f"{value:g}" for value in directions.flat)
        raise VolumeError(f"the direction cosines {text} are not orthonormal: the series is damaged")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _one_volume(frames: Sequence[Frame], along: np.ndarray, number: int | None) -> list[Frame]:
    """The frames of one volume of a series that has equally many images at each position.

    Raises:
        VolumeError: there are several and `number` is None or too large; or they cannot be told apart for certain.
    """
    rounding = min(_ROUNDING, frames[0].thickness / 4 or _ROUNDING)
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) >= rounding).tolist()
    stacks = [list(frames[start:end]) for start, end in itertools.pairwise([*starts, len(frames)])]
    counts = {len(stack) for stack in stacks}
    count = max(counts)
    if count == 1:
        if number not in (None, 1):
            raise VolumeError(f"the series has one image at each position, so there is no /{number}: leave it out")
        return list(frames)
    if len(counts) > 1:
        raise VolumeError(
            f"the series has {len(frames)} images at {len(stacks)} positions, {min(counts)} to {count} at each, as a "
            "series over time of which some are missing: copy it whole, or give one with an image at each position"
        )
    if len(stacks) == 1:
        raise VolumeError(f"the series has {count} images at one position: give a series of slices")
    if max(np.ptp([frame.position for frame in stack], axis=0).max() for stack in stacks) > _SHEAR + rounding:
        raise VolumeError(f"the series holds {count} stacks beside each other: give a series of one stack")
    held = f"the series has {count} images at each of {len(stacks)} positions"
    phases = [sorted((_key(frame) for frame in stack), key=str) for stack in stacks]
    if any(phase != phases[0] for phase in phases):
        raise VolumeError(
            f"{held}, which differ from position to position in echo time, b value, time point or type: give a series "
            "with one image at each position"
        )
    shown = _sorted_in_place(stacks)
    if shown is None:
        raise VolumeError(
            f"{held}, and no tag tells for certain which belong together: give a series with one image at each position"
        )
    if number is None:
        raise VolumeError(f"{held}: choose one as the series, {shown}, or as in 12/1 where there are several series")
    if number > count:
        raise VolumeError(f"{held}, so there is no /{number}: choose one, {shown}")
    return [stack[number - 1] for stack in stacks]


def _key(frame: Frame) -> tuple[tuple[float | None, ...], tuple[str, ...]]:
    return frame.phase, frame.kind


def _sorted_in_place(stacks: list[list[Frame]]) -> str | None:
    """Sort the images at each position alike, and say what the numbers mean; None where that is not certain."""
    count = len(stacks[0])

    def order(frame: Frame) -> tuple[tuple[float, ...], tuple[str, ...]]:
        return tuple(-math.inf if value is None else value for value in frame.phase), frame.kind

    for stack in stacks:
        stack.sort(key=order)
    if len({_key(frame) for frame in stacks[0]}) == count:
        names = [f"/{n} ({_named(frame, stacks[0])})" for n, frame in enumerate(stacks[0][:_NAMED], 1)]
        return ", ".join(names) + (f" ... /{count}" if count > _NAMED else "")
    for which in range(len(stacks[0][0].times)):
        times = [[frame.times[which] for frame in stack] for stack in stacks]
        if all(None not in column and len(set(column)) == count for column in times):
            for stack in stacks:
                stack.sort(key=lambda frame: (order(frame), frame.times[which] or 0.0))
            return f"/1 to /{count} in the order of their times"
    for stack in stacks:
        stack.sort(key=lambda frame: (order(frame), frame.number or 0.0))
    numbers = np.array([[math.nan if frame.number is None else frame.number for frame in stack] for stack in stacks])
    steps = np.diff(numbers, axis=1)
    one_after_another = (numbers.max(axis=0)[:-1] < numbers.min(axis=0)[1:]).all()
    if (steps > 0).all() and (one_after_another or (steps == steps[0, 0]).all()):
        return f"/1 to /{count} in the order of their numbers"
    return None


def _named(frame: Frame, stack: Sequence[Frame]) -> str:
    """What tells an image from the others at its position."""
    words = [
        text.format(value)
        for i, (text, value) in enumerate(zip(_PHASES.values(), frame.phase, strict=True))
        if value is not None and len({f.phase[i] for f in stack}) > 1
    ]
    if len({f.kind for f in stack}) > 1:
        words.append(next((_PARTS[code] for code in frame.kind if code in _PARTS), "another type"))
    return ", ".join(words) or "without such a tag"


def _check_distances(frames: Sequence[Frame], along: np.ndarray) -> float | None:
    """The distance of neighboring slices; None for a single one."""
    gaps = np.diff(along)
    if not len(gaps):
        return None
    usual = float(np.median(gaps))
    allowed = max(_TOLERANCE * usual, _ROUNDING)
    # The mean is the more exact one where all gaps are alike.
    wide = np.flatnonzero(np.abs(gaps - usual) > allowed)
    if not len(wide):
        return float(gaps.mean())
    multiples = gaps[wide] / usual
    first = int(wide[0])
    where = f"between {along[first]:.2f} and {along[first + 1]:.2f} mm along the normal"
    if len(wide) <= len(gaps) / 2 and (np.abs(multiples - np.rint(multiples)) < 0.1).all() and (multiples > 1.5).all():
        missing = int(np.rint(multiples - 1).sum())
        raise VolumeError(
            f"{missing} of the series' slices {'are' if missing > 1 else 'is'} missing: {where} the distance is "
            f"{gaps[first]:.2f} mm, elsewhere {usual:.2f} mm; copy the whole series"
        )
    raise VolumeError(
        f"the slices are unevenly spaced: {where} the distance is {gaps[first]:.2f} mm, elsewhere {usual:.2f} mm; "
        "resample the series, or give one of even spacing"
    )


def _check_shear(positions: np.ndarray, normal: np.ndarray) -> None:
    steps = np.diff(positions, axis=0)
    aside = np.linalg.norm(steps - (steps @ normal)[:, None] * normal, axis=1)
    if aside.max() > _SHEAR:
        raise VolumeError(
            f"the slices are shifted by up to {aside.max():.2f} mm in their plane, as with a tilted gantry: correct "
            "the tilt, for example with dcm2niix"
        )
