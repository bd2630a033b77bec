"""Names: what people may call things."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.errors import InvalidName
from tenants.naming import MAX_NAME_LENGTH, clean_name


@pytest.mark.parametrize("name", ["Acorn", "Café Müller", "東京 支店", "عربي", "O’Brien & Söhne (2)", "🚀"])
def test_what_people_write_is_kept(name: str) -> None:
    assert clean_name(name) == name


def test_one_spelling_is_kept_of_two_that_look_the_same() -> None:
    assert clean_name("Cafe\u0301") == "Caf\u00e9"


def test_the_longest_name_fits_and_one_more_does_not() -> None:
    assert clean_name("x" * MAX_NAME_LENGTH)
    with pytest.raises(InvalidName, match="51 characters; 50 is the most"):
        clean_name("x" * (MAX_NAME_LENGTH + 1))


@pytest.mark.parametrize(
    "mark", ["\u202e", "\u200e", "\u2066", "\u200b", "\ufeff", "\x00", "\x1b", "\u2028", "\ue000", "\ud800"]
)
def test_invisible_characters_are_named_with_their_place(mark: str) -> None:
    with pytest.raises(InvalidName) as refused:
        clean_name(f"ab{mark}c", field="title")
    assert f"Character 3 of this name (U+{ord(mark):04X})" in refused.value.message
    assert refused.value.details == {"field": "title", "position": 3}


@given(st.text(max_size=80))
def test_whatever_is_accepted_is_short_visible_and_stays_as_it_is(name: str) -> None:
    try:
        cleaned = clean_name(name)
    except InvalidName:
        return
    assert 0 < len(cleaned) <= MAX_NAME_LENGTH
    assert not any(unicodedata.category(character).startswith("C") for character in cleaned)
    assert clean_name(cleaned) == cleaned
