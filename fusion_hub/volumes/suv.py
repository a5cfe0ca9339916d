"""SUV of PET by body weight, from the tags of its series."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

_LONGEST_DECAY = timedelta(hours=24)
# Seconds: Rb-82, O-15, N-13, C-11, Ga-68, F-18, Cu-61, Sc-44, Cu-64, Y-86, Br-76, Y-90, Zr-89, I-124.
_HALF_LIVES = (75.5, 122.2, 598, 1221, 4063, 6586, 12_000, 14_290, 45_720, 53_060, 58_320, 230_500, 282_300, 360_800)
_HALF_LIFE_TOLERANCE = 0.05
_LEAST_DOSE = 1e5  # Bq; doses in MBq, against the standard, are smaller numbers


def body_weight_factor(slices: Sequence[Dataset]) -> tuple[float | None, str]:
    """What the values of a PET series in Bq/ml are multiplied with to give g/ml, SUV by body weight.

    `SUV = value * weight / (dose at the time to which the values are decay-corrected)`: for DecayCorrection START the
    dose has decayed from the injection to the series time, for ADMIN it is the injected dose. After the calculation of
    the Quantitative Imaging Biomarkers Alliance (QIBA FDG-PET/CT profile, "vendor-neutral pseudo-code for SUV").

    Args:
        slices: headers of all slices.

    Returns:
        The factor, or None with the reason.
    """
    first = slices[0]
    corrected = first.get("CorrectedImage") or []
    if "DECY" not in corrected or "ATTN" not in corrected:
        return None, "it is not corrected for decay and attenuation (CorrectedImage)"
    items = first.get("RadiopharmaceuticalInformationSequence") or [Dataset()]
    if len(items) != 1:
        return None, f"it names {len(items)} radiopharmaceuticals"
    try:
        weight = float(first.get("PatientWeight") or 0)
        dose = float(items[0].get("RadionuclideTotalDose") or 0)
        half_life = float(items[0].get("RadionuclideHalfLife") or 0)
        if not 0 < weight < 700:
            return None, "its weight of the patient is missing or wrong"
        if dose < _LEAST_DOSE:
            return None, "its injected dose is missing or not in Bq"
        if first.get("DecayCorrection") == "ADMIN":
            return weight * 1000 / dose, ""
        if first.get("DecayCorrection") != "START":
            return None, "its values are not decay-corrected to the start of the scan (DecayCorrection)"
        if not any(abs(half_life / known - 1) < _HALF_LIFE_TOLERANCE for known in _HALF_LIVES):
            return None, f"its half-life of {half_life:g} s is that of no nuclide for PET"
        scan = _moment(first.get("SeriesDate"), first.get("SeriesTime"))
        acquired = [_moment(one.get("AcquisitionDate"), one.get("AcquisitionTime")) for one in slices]
        injected = _injection(items[0], scan, first.get("TimezoneOffsetFromUTC"))
    except (TypeError, ValueError, OverflowError):
        return None, "its dose, weight or times cannot be read"
    if scan is None or injected is None:
        return None, "its time of injection or of the series is missing"
    if any(moment is not None and scan > moment for moment in acquired):
        return None, "its series time is later than its acquisition, so it was processed later"
    decay = scan - injected
    if not timedelta(0) <= decay <= _LONGEST_DECAY:
        return None, f"its injection lies {decay.total_seconds() / 3600:.1f} hours before the scan"
    return weight * 1000 / (dose * 2 ** (-decay.total_seconds() / half_life)), ""


def _moment(date: Any, time: Any) -> datetime | None:
    if not date or not time:
        return None
    day, clock = DA(date), TM(time)
    return None if day is None or clock is None else datetime.combine(day, clock)


def _injection(item: Dataset, scan: datetime | None, zone: Any) -> datetime | None:
    """The injection; where only its time of day is known, the last such moment before the scan.

    `zone` is that of the series' times, such as "+0100". A moment with a zone of its own is converted to it, and is
    of no use without it.
    """
    if stated := item.get("RadiopharmaceuticalStartDateTime"):
        moment = DT(stated)
        if moment is None or moment.tzinfo is None:
            return moment
        return moment.astimezone(datetime.strptime(str(zone), "%z").tzinfo).replace(tzinfo=None)
    clock = TM(item.get("RadiopharmaceuticalStartTime") or "")
    if clock is None or scan is None:
        return None
    injected = datetime.combine(scan.date(), clock)
    return injected if injected <= scan else injected - timedelta(days=1)
