"""The web's cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.web.worklist import Cursor


@given(st.integers(0, 10**9), st.text(max_size=100))
def test_a_cursor_comes_back_as_it_was(offset: int, ledger: str) -> None:
    cursor = Cursor(offset, ledger)
    assert Cursor.decode(cursor.encode()) == cursor


@given(st.text(max_size=60))
@pytest.mark.parametrize("junk", ["", "WzEsMl0", "e30", "bnVsbA", "////", "W10"])
def test_junk_is_no_cursor(junk: str, text: str) -> None:
    for candidate in (junk, text):
        with pytest.raises(ValueError):
            Cursor.decode(candidate)
