"""The web's cursor."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.web.worklist import Cursor

TIMES = st.floats(0, 1e10)
PLACES = st.tuples(TIMES, st.integers(0, 4), TIMES, st.integers(0, 2**63 - 1)).map(json.dumps)


@given(st.integers(0, 10**9), PLACES)
def test_a_cursor_comes_back_as_it_was(offset: int, ledger: str) -> None:
    cursor = Cursor(offset, ledger)
    assert Cursor.decode(cursor.encode()) == cursor


@given(st.integers(0, 10**9), st.text(min_size=1, max_size=100))
def test_one_that_the_ledger_did_not_make_is_none(offset: int, ledger: str) -> None:
    with pytest.raises(ValueError):
        Cursor.decode(Cursor(offset, ledger).encode())


@given(st.text(max_size=60))
@pytest.mark.parametrize("junk", ["", "WzEsMl0", "e30", "bnVsbA", "////", "W10"])
def test_junk_is_no_cursor(junk: str, text: str) -> None:
    for candidate in (junk, text):
        with pytest.raises(ValueError):
            Cursor.decode(candidate)
