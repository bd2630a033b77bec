"""One turn for one cluster: claim, observe, plan, act, record. Repeats and losses of wake-ups change nothing."""

from __future__ import annotations

import logging
import random
import time
import uuid
from datetime import timedelta
from uuid import UUID

from common.errors import Permanent, Temporary
from provisioning import executor, planner, services
from provisioning import selectors as read
from provisioning.conditions import code_of
from provisioning.errors import EngineKeepsEnding, Fenced, ReleaseUnavailable
from provisioning.models import Cluster
from provisioning.planner import Action, PrepareRelease, StartEngine
from provisioning.services import TurnOutcome
from provisioning.spec import ObservedCluster, ReleaseState
from provisioning.states import Condition

logger = logging.getLogger(__name__)

# Every backend call begins something and returns; the slowest (writing a certificate, starting a process) takes
# about a second on a busy machine. Ten of them, and then twice that for a machine that swaps.
LEASE_TTL = timedelta(seconds=20)

# After an action was begun, and while one is waited for. The watch rings earlier when it sees the change.
AFTER_ACTION_SECONDS = 0.3
WAITING_SECONDS = 1.0

# A converged cluster is looked at this often even if no change was ever reported (a watch may miss some).
RESYNC_SECONDS = 300.0

# The same for a running engine that no watch looks after: its end must be noticed within half a minute all the same.
UNWATCHED_SECONDS = 20.0

MAX_BACKOFF_SECONDS = 300.0


def reconcile(cluster_id: UUID) -> int:
    """Take turns for a due cluster while each one began something; returns how many were taken.

    A turn that only waits gives the lease back: the watch or the sweep rings again.
    """
    turns = 0
    while turn(cluster_id):
        turns += 1
        time.sleep(AFTER_ACTION_SECONDS)
    return turns


def turn(cluster_id: UUID) -> bool:
    """Take one turn; True when it began an action, so that another turn is worth taking soon.

    Three statements when nothing is to be done: claim, read, record.
    """
    if not Cluster.objects.claim(cluster_id, ttl=LEASE_TTL):
        return False
    turn_id, started = uuid.uuid4().hex, time.monotonic()
    subject = read.turn_subject(cluster_id)
    outcome = _outcome(subject, turn_id)
    try:
        services.record_turn(subject, outcome)
    except Fenced:
        logger.warning("turn was overtaken", extra={"cluster_id": cluster_id, "turn_id": turn_id})
        return False
    if outcome.action is not None or outcome.error_code:
        logger.info(
            "turn: %s%s",
            outcome.action.step if outcome.action else "observed",
            "" if outcome.executed else " (waiting)",
            extra={
                "cluster_id": cluster_id,
                "organization_id": subject.row.organization_id,
                "spec_generation": subject.row.spec_generation,
                "turn_id": turn_id,
                "code": outcome.error_code,
                "seconds": round(time.monotonic() - started, 3),
            },
        )
    return outcome.executed


def show_plan(cluster_id: UUID) -> tuple[read.TurnSubject, ObservedCluster, Action | None]:
    """What a turn would do now, without doing it. Calls the region.

    Raises:
        Temporary: the region gave no answer.
    """
    subject = read.turn_subject(cluster_id)
    backend = executor.backend_of(subject.row.region.slug, subject.row.region.backend)
    observed = backend.observe(subject.desired)
    return subject, observed, planner.plan(subject.desired, observed)


def _outcome(subject: read.TurnSubject, turn_id: str) -> TurnOutcome:
    """Observe, plan and act; whatever goes wrong becomes an outcome too."""
    observed: ObservedCluster | None = None
    action: Action | None = None
    try:
        backend = executor.backend_of(subject.row.region.slug, subject.row.region.backend)
        observed = backend.observe(subject.desired)
        action = planner.plan(subject.desired, observed)
        if action is None:
            return _resting(subject, observed)
        if subject.stall is not None:
            return _stalled(subject.stall, observed, action)
        _refuse_hopeless(subject, observed, action)
        executed = executor.execute(action, backend, subject.desired, epoch=subject.row.lease_epoch)
    except Temporary as error:
        seconds = max(error.retry_after_seconds, _backoff_seconds(subject.row.failures))
        return TurnOutcome(observed, action, error_code=error.code, error_message=error.message, due_in_seconds=seconds)
    except Permanent as error:
        # Without an operation there is nothing that a person could retry: look again by ourselves.
        is_permanent = subject.open_operation_id is not None
        return TurnOutcome(
            observed,
            action,
            error_code=error.code,
            error_message=error.message,
            is_permanent=is_permanent,
            due_in_seconds=None if is_permanent else MAX_BACKOFF_SECONDS,
        )
    except Exception:  # the loop's rim: one broken cluster must not stop the others, and must not spin
        logger.exception("turn failed", extra={"cluster_id": subject.row.pk, "turn_id": turn_id})
        sentence = f"Something unexpected went wrong. We look into it; the reference is {turn_id}."
        return TurnOutcome(
            observed, action, error_code="internal", error_message=sentence, due_in_seconds=MAX_BACKOFF_SECONDS
        )
    waits_for = observed.waits_for or observed.release_detail
    due = AFTER_ACTION_SECONDS if executed else WAITING_SECONDS
    return TurnOutcome(observed, action, executed=executed, waits_for=waits_for, due_in_seconds=due)


def _backoff_seconds(failures: int) -> float:
    """Twice as long after each failure. Days of failures have no power of two that a float could hold."""
    return min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 10))


def _resting(subject: read.TurnSubject, observed: ObservedCluster) -> TurnOutcome:
    """All is as it is wished."""
    is_unwatched = observed.running and not observed.age_seconds
    seconds = UNWATCHED_SECONDS if is_unwatched else RESYNC_SECONDS
    seconds *= random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, hides nothing
    if not subject.is_in_undo_window:
        return TurnOutcome(observed, None, due_in_seconds=seconds)
    until = subject.row.delete_after
    assert until is not None, "an undo window has an end"
    return TurnOutcome(
        observed,
        None,
        waits_for=f"The undo window closes at {until:%Y-%m-%d %H:%M} UTC; until then the cluster can be restored.",
        due_in_seconds=min(seconds, (until - subject.now).total_seconds()),
    )


def _stalled(stall: Condition, observed: ObservedCluster, action: Action) -> TurnOutcome:
    """Look, but do nothing before a person has acted."""
    return TurnOutcome(observed, action, error_code=code_of(stall), error_message=stall.message, is_permanent=True)


def _refuse_hopeless(subject: read.TurnSubject, observed: ObservedCluster, action: Action) -> None:
    """Hold an action back that was tried just now and failed."""
    # Without an operation every other turn may try, with the longest back-off in between.
    has_tried = subject.has_tried_release if subject.open_operation_id else not subject.row.failures
    if isinstance(action, PrepareRelease) and observed.release is ReleaseState.FAILED and has_tried:
        raise ReleaseUnavailable(observed.release_detail)
    if isinstance(action, StartEngine) and (after := subject.row.start_after) is not None and after > subject.now:
        raise _keeps_ending(subject.row.start_attempts, observed, wait=after - subject.now)


def _keeps_ending(attempts: int, observed: ObservedCluster, *, wait: timedelta) -> Temporary:
    why = observed.last_exit or "It ended soon after it was started."
    seconds = wait.total_seconds()
    sentence = f"{why} Start {attempts + 1} follows in {seconds:.0f} s."
    return EngineKeepsEnding(sentence, retry_after_seconds=seconds, attempts=attempts)
