from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.states import OperationState, StepKind
from provisioning.verdicts import MIN_HISTORY, PRIORS, STUCK_FACTOR, Pace, Verdict, judge, pace_of, percent_done

PACE = Pace(median=4.0, p95=10.0)


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(0.0, Verdict.PROGRESSING), (10.0, Verdict.PROGRESSING), (10.1, Verdict.SLOW), (41.0, Verdict.STUCK)],
)
def test_a_step_is_judged_by_how_long_it_usually_takes(seconds: float, verdict: Verdict) -> None:
    assert judge(OperationState.RUNNING, step_seconds=seconds, pace=PACE) is verdict


@pytest.mark.parametrize(
    ("code", "can_free", "verdict"),
    [
        ("no_capacity", True, Verdict.NEEDS_YOU),
        ("no_capacity", False, Verdict.NEEDS_US),
        ("release_unavailable", True, Verdict.NEEDS_US),
    ],
)
def test_an_error_says_whose_turn_it_is(code: str, can_free: bool, verdict: Verdict) -> None:
    for state in (OperationState.RUNNING, OperationState.FAILED):
        found = judge(state, step_seconds=1, pace=PACE, error_code=code, can_free_capacity=can_free)
        assert found is verdict


@pytest.mark.parametrize("state", [OperationState.SUCCEEDED, OperationState.CANCELLED])
def test_what_is_over_has_no_verdict(state: OperationState) -> None:
    assert judge(state, step_seconds=99, pace=PACE, error_code="superseded") is None


def test_a_step_begun_again_and_again_is_stuck() -> None:
    assert judge(OperationState.RUNNING, step_seconds=1, pace=PACE, attempts=4) is Verdict.STUCK


def test_waiting_for_a_date_is_progress() -> None:
    pace = pace_of(StepKind.UNDO_WINDOW, [])
    assert pace is None
    assert judge(OperationState.RUNNING, step_seconds=80_000, pace=pace) is Verdict.PROGRESSING


def test_history_replaces_the_priors_once_there_is_enough() -> None:
    few, enough = [100.0] * (MIN_HISTORY - 1), [100.0] * MIN_HISTORY
    assert pace_of(StepKind.START_ENGINE, few) == PRIORS[StepKind.START_ENGINE]
    assert pace_of(StepKind.START_ENGINE, enough) == Pace(median=100.0, p95=100.0)


def test_every_step_that_is_work_has_a_prior() -> None:
    assert set(PRIORS) == set(StepKind) - {StepKind.UNDO_WINDOW}
    assert all(0 < pace.median <= pace.p95 for pace in PRIORS.values())
    assert STUCK_FACTOR > 1


@given(
    st.lists(st.sampled_from([*PRIORS.values(), None]), max_size=6),
    st.integers(0, 6),
    st.floats(0, 1e6),
)
def test_percent_never_says_done_before_it_is(paces: list[Pace | None], finished: int, seconds: float) -> None:
    assert 0 <= percent_done(paces, finished=min(finished, len(paces)), step_seconds=seconds) <= 99


def test_percent_grows_with_the_steps_and_within_a_step() -> None:
    paces = [Pace(10, 20), Pace(10, 20)]
    shown = [percent_done(paces, finished=f, step_seconds=s) for f, s in [(0, 0), (0, 5), (1, 0), (1, 5), (1, 500)]]
    assert shown == [0, 25, 50, 75, 97]
