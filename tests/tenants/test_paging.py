"""Keyset pages, without a database: what is accepted, and what a cursor is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRequest
from tenants.paging import DEFAULT_LIMIT, Page, Slice, parse_page


def test_nothing_asked_for_is_the_first_page() -> None:
    assert parse_page("", "") == Page(DEFAULT_LIMIT, "")


@pytest.mark.parametrize("limit", ["0", "-1", "101", "x", "1.5", "٣٣٣", "1" * 5000])
def test_a_limit_outside_one_to_a_hundred_is_refused(limit: str) -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 100"):
        parse_page(limit, "")


@given(st.text(min_size=1, max_size=60))
def test_no_invented_cursor_is_anything_but_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="not one we gave out"):
        parse_page("", cursor)


def test_a_slice_reads_like_its_items() -> None:
    found = Slice(["a", "b"], "next")
    assert (list(found), len(found)) == (["a", "b"], 2)
