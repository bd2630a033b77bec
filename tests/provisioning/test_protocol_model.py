"""Every state of the lease and fencing protocol, visited; and proof that the model would find it built wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.provisioning.protocol import (
    Explored,
    Rules,
    State,
    Step,
    Worker,
    cannot_converge,
    explore,
    may_never_converge,
)

RULES = Rules()
THREE = (Worker(),) * 3

# A wish has just been accepted and has rung; from here on nothing is lost, and no clock comes to help.
DOORBELL = Rules(has_broker=True)
RUNG = State(messages=1, is_ringing=True)


def goes_well(step: Step) -> bool:
    """Newer wishes and dying engines belong to a good day; lost messages, dying workers and the clock do not."""
    return step.actor != "clock" and (not step.is_fault or step.actor in ("person", "engine"))


def require_sound(explored: Explored) -> None:
    """Nothing is broken; whatever happens it can converge, and does so under every fair schedule."""
    broken = explored.broken()
    assert broken is None, explored.path_to(broken)
    assert cannot_converge(explored) == []
    assert may_never_converge(explored) is None


def test_two_workers_that_die_and_oversleep_anywhere() -> None:
    explored = explore(State(), RULES)
    require_sound(explored)
    assert (len(explored.steps), sum(map(len, explored.steps.values()))) == (38_306, 194_006)


def test_three_workers_and_a_newer_wish() -> None:
    explored = explore(State(workers=THREE, deaths_left=0), RULES)
    require_sound(explored)
    assert len(explored.steps) == 154_381


@pytest.mark.parametrize(("start", "states"), [(RUNG, 3_879), (RUNG._replace(workers=THREE), 6_506)])
def test_messages_alone_suffice_when_none_is_lost(start: State, states: int) -> None:
    explored = explore(start, DOORBELL, allows=goes_well)
    require_sound(explored)
    assert len(explored.steps) == states


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("has_fence", "an older turn acted after a newer one"),
        ("checks_fence_under_lock", "an older turn acted after a newer one"),
        ("claim_raises_epoch", "an older turn acted after a newer one"),
        ("record_checks_epoch", "a result of an older turn was recorded"),
        ("looks_for_engine_under_lock", "two engines"),
        ("closing_raises_fence", "an engine of a cluster that is gone"),
    ],
)
def test_a_protocol_that_was_built_wrongly_is_found_broken(rule: str, found: str) -> None:
    broken = explore(State(), replace(RULES, **{rule: False}), is_patient=False).broken()
    assert broken is not None
    assert broken.broken == found


@pytest.mark.parametrize("rule", ["claim_comes_back", "record_keeps_wake_ups", "record_keeps_what_is_due"])
def test_a_protocol_that_forgets_is_found_stuck(rule: str) -> None:
    explored = explore(State(), replace(RULES, **{rule: False}))
    assert cannot_converge(explored)
    assert may_never_converge(explored) is not None


def test_a_bell_that_falls_after_the_look_is_found_to_lose_a_ring() -> None:
    explored = explore(RUNG, replace(DOORBELL, bell_falls_before_look=False), allows=goes_well)
    assert cannot_converge(explored)
