"""The words in which states are shown."""

from __future__ import annotations

import pytest

from console.words import duration, facts_of, wording_of
from provisioning.states import (
    Condition,
    ConditionType,
    OperationKind,
    OperationState,
    Phase,
    StepState,
    Truth,
)
from provisioning.verdicts import Verdict
from tenants.roles import Role

HUES = {"good", "busy", "slow", "bad", "you", "calm"}


@pytest.mark.parametrize("value", [*Phase, *Verdict, *OperationState, *OperationKind, *StepState, *Role])
def test_every_state_has_a_word_of_its_own_and_a_known_hue(value: object) -> None:
    wording = wording_of(value)
    assert wording.word[0].isupper()
    assert "_" not in wording.word
    assert wording.hue in HUES


def test_a_word_from_a_row_is_as_good_as_the_enumerations_member() -> None:
    assert wording_of("deletion_scheduled") == wording_of(Phase.DELETION_SCHEDULED)


def test_an_unknown_word_stands_for_itself() -> None:
    assert wording_of("half_full").word == "Half full"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.42, "0.4 s"),
        (12.4, "12 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3780, "1 h 3 min"),
        (200_000, "2 days"),
    ],
)
def test_durations_are_short_and_have_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("kind", "status", "hue"),
    [
        (ConditionType.AVAILABLE, Truth.TRUE, "good"),
        (ConditionType.AVAILABLE, Truth.FALSE, "calm"),
        (ConditionType.AVAILABLE, Truth.UNKNOWN, "slow"),
        (ConditionType.STALLED, Truth.TRUE, "bad"),
        (ConditionType.STALLED, Truth.FALSE, "calm"),
    ],
)
def test_conditions_become_facts(kind: ConditionType, status: Truth, hue: str) -> None:
    (fact,) = facts_of([Condition(kind, status, "Reason", "a sentence")])
    assert (fact.hue, fact.detail) == (hue, "a sentence")
    assert fact.title
    assert fact.answer
