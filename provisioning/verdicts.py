"""A verdict instead of a status: is an operation on its way, slow, stuck, or waiting for somebody? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from provisioning.states import OperationState, StepKind


class Verdict(StrEnum):
    """What a person should make of an operation that is not over."""

    PROGRESSING = "progressing"
    SLOW = "slow"
    STUCK = "stuck"
    NEEDS_YOU = "needs_you"
    NEEDS_US = "needs_us"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step usually takes, in seconds: half of them at most `median`, 95 of 100 at most `p95`."""

    median: float
    p95: float


# For as long as an installation has no history of its own. Estimates, generous for a machine with two busy cores:
# fetching 200 MB and unpacking 240 MB is bound by the network, a first start by class loading.
PRIORS: dict[StepKind, Pace] = {
    StepKind.PREPARE_RELEASE: Pace(median=40.0, p95=180.0),
    StepKind.START_ENGINE: Pace(median=1.0, p95=5.0),
    StepKind.AWAIT_HEALTHY: Pace(median=6.0, p95=30.0),
    StepKind.STOP_ENGINE: Pace(median=3.0, p95=10.0),
    StepKind.TAKE_BACKUP: Pace(median=3.0, p95=60.0),
    StepKind.RESTORE_DATA: Pace(median=10.0, p95=120.0),
    StepKind.ROLL_BROKERS: Pace(median=40.0, p95=180.0),
    StepKind.RESCALE: Pace(median=5.0, p95=60.0),
    StepKind.RETIRE_BROKERS: Pace(median=4.0, p95=15.0),
    StepKind.REBALANCE: Pace(median=0.5, p95=5.0),
    StepKind.LET_GO: Pace(median=0.5, p95=5.0),
    StepKind.REMOVE: Pace(median=2.0, p95=10.0),
    StepKind.CLOSE: Pace(median=0.5, p95=5.0),
}

# Fewer finished steps than this say less than the priors do.
MIN_HISTORY = 5

# What goes bit by bit is asked for at every look until nothing of it is left: how often says nothing.
ASKED_AGAIN = frozenset({StepKind.ROLL_BROKERS, StepKind.RETIRE_BROKERS, StepKind.LET_GO, StepKind.REMOVE})

# Past this multiple of its 95th percentile a step is not slow any more but stuck.
STUCK_FACTOR = 4.0


def pace_of(step: StepKind, history_seconds: Sequence[float]) -> Pace | None:
    """The pace from finished steps, or the committed prior; None for a step whose length is a date, not work."""
    if step is StepKind.UNDO_WINDOW:
        return None
    if len(history_seconds) < MIN_HISTORY:
        return PRIORS[step]
    ordered = sorted(history_seconds)
    return Pace(median=ordered[len(ordered) // 2], p95=ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))])


def judge(
    state: OperationState,
    *,
    step_seconds: float,
    pace: Pace | None,
    error_code: str = "",
    attempts: int = 0,
    can_free_capacity: bool = False,
) -> Verdict | None:
    """The verdict on an operation; None when it is over and well, or was called off.

    Args:
        step_seconds: how long the current step has been running.
        error_code: code of the failure, or of what the current step was last refused with; "" when nothing was.
        attempts: how often the current step was begun, 0 for one that is begun again and again by its nature.
        can_free_capacity: the organization runs other clusters where capacity is missing, and could suspend one.
    """
    if state in (OperationState.SUCCEEDED, OperationState.CANCELLED):
        return None
    if error_code:
        return Verdict.NEEDS_YOU if error_code == "no_capacity" and can_free_capacity else Verdict.NEEDS_US
    if state is OperationState.FAILED:
        return Verdict.NEEDS_US
    if pace is None:
        return Verdict.PROGRESSING
    if step_seconds > STUCK_FACTOR * pace.p95 or attempts > 3:
        return Verdict.STUCK
    return Verdict.SLOW if step_seconds > pace.p95 else Verdict.PROGRESSING


def percent_done(paces: Sequence[Pace | None], *, finished: int, step_seconds: float) -> int:
    """How much of the usual time lies behind, 0 to 99; the caller says 100 when the operation succeeded."""
    weights = [pace.median if pace else 0.0 for pace in paces]
    total = sum(weights)
    if not total:
        return 0
    current = weights[finished] if finished < len(weights) else 0.0
    behind = sum(weights[:finished]) + min(step_seconds, 0.95 * current)
    return min(99, int(100 * behind / total))
