"""Where a new cluster goes: tables of regions, and what holds for any of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.placement import LABEL, Place, choose, exclusion, refusal, why_none

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
GERMANY = frozenset({"country=de"})

PLACES = st.lists(
    st.builds(
        Place,
        slug=st.text("abc", min_size=1, max_size=3),
        labels=st.frozensets(st.sampled_from(["country=de", "class=gold"])),
        is_open=st.booleans(),
        draining_since=st.none() | st.just(NOON),
        maintenance_since=st.none() | st.just(NOON),
        silent_since=st.none() | st.just(NOON),
        placed=st.integers(0, 5),
        max_clusters=st.none() | st.integers(0, 5),
    ),
    unique_by=lambda place: place.slug,
    max_size=5,
)


@pytest.mark.parametrize(
    ("change", "refused", "excluded"),
    [
        ({}, "", ""),
        ({"is_open": False}, "takes no new clusters", "takes no new clusters"),
        ({"draining_since": NOON, "is_open": False}, "emptied since 2026-11-28 12:00 UTC", "emptied since"),
        ({"placed": 4, "max_clusters": 4}, "it is full", "it is full"),
        ({"placed": 5, "max_clusters": 4}, "it is full", "it is full"),
        ({"labels": frozenset()}, "not country=de", "not country=de"),
        ({"maintenance_since": NOON}, "", "in maintenance since 2026-11-28 12:00 UTC"),
        ({"silent_since": NOON}, "", "not answered since 2026-11-28 12:00 UTC"),
    ],
)
def test_each_rule_has_its_words(change: dict[str, Any], refused: str, excluded: str) -> None:
    place = replace(Place("frankfurt", GERMANY, max_clusters=10), **change)
    for words, found in ((refused, refusal(place, GERMANY)), (excluded, exclusion(place, GERMANY))):
        assert words in found
        assert bool(words) is bool(found)


def test_the_least_filled_in_proportion_comes_first_and_the_name_decides_between_equals() -> None:
    small = Place("small", placed=1, max_clusters=2)
    large = Place("large", placed=100, max_clusters=400)
    other = Place("other", placed=1, max_clusters=4)
    uncounted = Place("machine", placed=0)
    assert choose([small, uncounted, other, large]) == large
    assert choose([other, small, uncounted]) == other
    assert choose([uncounted]) == uncounted
    assert choose([replace(uncounted, slug="b"), replace(uncounted, slug="a", placed=1)]) == replace(
        uncounted, slug="b"
    )


def test_when_none_fits_the_sentence_says_which_rule_excludes_which() -> None:
    places = [Place("b", is_open=False), Place("a", GERMANY, placed=2, max_clusters=2)]
    assert why_none(places, GERMANY) == ("No region can take this cluster. a: it is full; b: it is not country=de.")
    assert why_none([]) == "There is no region yet."


@given(PLACES, st.frozensets(st.sampled_from(["country=de", "class=gold"])))
def test_whatever_the_regions_the_choice_fits_and_does_not_depend_on_their_order(
    places: list[Place], labels: frozenset[str]
) -> None:
    chosen = choose(places, labels)
    assert chosen == choose(reversed(places), labels)
    if chosen is None:
        assert all(exclusion(place, labels) for place in places)
    else:
        assert chosen.has_room
        assert labels <= chosen.labels
        assert not exclusion(chosen, labels)


@pytest.mark.parametrize(
    ("word", "is_one"), [("a=b", True), ("country=de-be.1", True), ("a", False), ("A=b", False), ("a=b,c=d", False)]
)
def test_a_label_is_a_name_and_a_value(word: str, is_one: bool) -> None:
    assert bool(LABEL.fullmatch(word)) is is_one
