"""Patients' ages as headers write them."""

import pytest
from pydicom import Dataset

from workers.images.ages import age_of


@pytest.mark.parametrize(
    ("stated", "born", "age", "age_if_bare"),
    [
        ("045Y", "", 45, 45), ("4Y", "", 4, 4), ("018M", "", 1.5, 1.5), ("", "", None, None), ("ADULT", "", None, None),
        ("45", "", None, 45), ("45", "20200301", 6, 45), ("ADULT", "20200301", 6, 6), ("045Y", "20200301", 45, 45),
    ],
)  # fmt: skip
def test_a_number_without_a_unit_is_an_age_only_where_it_is_asked_for(
    stated: str, born: str, age: float | None, age_if_bare: float | None
) -> None:
    ds = Dataset()
    ds.PatientBirthDate, ds.StudyDate = born, "20270101"
    ds.add_new("PatientAge", "LO", stated)
    assert age_of(ds, bare=False) == age
    assert age_of(ds, bare=True) == age_if_bare
