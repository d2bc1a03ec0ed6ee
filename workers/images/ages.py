"""Patients' ages as headers and tables write them."""

import re

from pydicom import Dataset


def years(age: str) -> float | None:
    """Return an age in years from a number or a DICOM age string ("045Y", "018M": PS3.5 section 6.2); else None."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)([DWMY])?", age.strip().upper())
    if not match:
        return None
    return float(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(match[2], 1.0)


def years_between(born: str, seen: str) -> int | None:
    """Return the whole years from one DICOM date to another (VR DA: PS3.5 section 6.2); None if they don't say."""
    if not (re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", seen) and born <= seen):
        return None
    return int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])


def age_of(ds: Dataset, *, bare: bool) -> float | None:
    """Return a patient's age in years by Patient's Age (0010,1010), else by the dates; None if they don't say.

    ``bare``: whether a number without a unit counts as years, as public collections write it.
    """
    stated = str(ds.get("PatientAge", "") or "").strip()
    if stated and (bare or not stated[-1].isdecimal()) and (age := years(stated)) is not None:
        return age
    return years_between(str(ds.get("PatientBirthDate", "") or ""), str(ds.get("StudyDate", "") or ""))
