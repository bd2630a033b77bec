"""The words in which states are shown."""

from __future__ import annotations

from typing import Any

import pytest

from console.words import (
    WORDINGS,
    changes_of,
    duration,
    every_days,
    every_hours,
    facts_of,
    layout,
    title_of,
    wording_of,
)
from provisioning.states import (
    STEP_TITLES,
    BackupReason,
    BackupState,
    Condition,
    ConditionType,
    OperationKind,
    OperationState,
    Phase,
    StepKind,
    StepState,
    Truth,
)
from provisioning.verdicts import PRIORS, Verdict
from tenants.roles import Role

HUES = {"good", "busy", "slow", "bad", "you", "calm"}


STATES = [*Phase, *Verdict, *OperationState, *OperationKind, *StepState, *BackupState, *BackupReason, *Role]


@pytest.mark.parametrize("value", STATES)
def test_every_state_has_a_word_of_its_own_and_a_known_hue(value: object) -> None:
    wording = wording_of(value)
    assert wording.word[0].isupper()
    assert "_" not in wording.word
    assert wording.hue in HUES


def test_a_word_from_a_row_is_as_good_as_the_enumerations_member() -> None:
    assert wording_of("deletion_scheduled") == wording_of(Phase.DELETION_SCHEDULED)


def test_no_state_goes_without_a_word_of_its_own() -> None:
    known = {str(value) for value in STATES if not isinstance(value, StepState)}
    assert known == set(WORDINGS)


@pytest.mark.parametrize("step", list(StepKind))
def test_every_step_says_what_it_does_and_how_long_it_usually_takes(step: StepKind) -> None:
    assert STEP_TITLES[step][0].isupper()
    assert step in PRIORS or step is StepKind.UNDO_WINDOW


def test_a_drill_is_called_so() -> None:
    assert title_of(OperationKind.CREATE, is_drill=True) == "Prove a backup"
    assert title_of(OperationKind.DELETE, is_drill=True) == "Remove a drill’s copy"
    assert title_of(OperationKind.CREATE, is_drill=False) == "Create"
    assert title_of(OperationKind.RESIZE, is_drill=True) == "Resize"


def test_changes_are_told_before_and_after() -> None:
    changes: dict[str, Any] = {
        "data_epoch": [0, 4],
        "release": ["8.5.8", "8.6.0"],
        "name": [None, "orders"],
        "is_protected": [False, True],
    }
    assert changes_of(changes) == [
        ("Name", "orders"), ("Engine release", "8.5.8 → 8.6.0"), ("Protected", "no → yes"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (every_hours(0), "Only when somebody asks"),
        (every_hours(1), "Every hour"),
        (every_hours(5), "Every 5 hours"),
        (every_hours(24), "Every day"),
        (every_days(7), "Every week"),
        (every_days(30), "Every 30 days"),
        (layout(1, 1, 1), "1 broker, 1 partition"),
        (layout(1, 3, 1), "1 broker, 3 partitions"),
        (layout(3, 3, 3), "3 brokers, 3 partitions, 3 copies of each"),
    ],
)
def test_rhythms_and_layouts_are_told_in_words(words: str, expected: str) -> None:
    assert words == expected


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
