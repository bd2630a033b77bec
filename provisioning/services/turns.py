"""Record what turns found: the sight on the cluster's row, and how far its operation is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Case, F, When
from django.db.models.functions import Now

from provisioning import planner
from provisioning import selectors as read
from provisioning.conditions import derive, from_json, to_json, with_transitions
from provisioning.errors import (
    Fenced,
)
from provisioning.models import Cluster, Operation, OperationStep
from provisioning.spec import Lifecycle, ObservedCluster
from provisioning.states import (
    OPEN_STATES,
    ConditionType,
    OperationState,
    StepKind,
    StepState,
    is_true,
)
from tenants import services as tenancy


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What one reconcile turn found and did.

    Attributes:
        observed: None when the region gave no answer.
        action: what is left to do, None when converged.
        executed: whether `action` was carried out in this turn.
        error_code, error_message: of the failure, "" when there was none.
        is_permanent: the failure waits for a person.
        waits_for: sentence for people, "" when nothing is waited for.
        due_in_seconds: when the next turn should be; None: not before something changes.
    """

    observed: ObservedCluster | None
    action: planner.Action | None
    executed: bool = False
    error_code: str = ""
    error_message: str = ""
    is_permanent: bool = False
    waits_for: str = ""
    due_in_seconds: float | None = None


def record_turn(subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    """Write what a turn found, and give its lease back. One statement when no operation is open.

    Raises:
        Fenced: another turn holds the lease by now, so nothing was written.
    """
    if subject.open_operation_id is None and not isinstance(outcome.action, planner.CloseCluster):
        _write_sight(subject, outcome)
        return
    with transaction.atomic():
        _write_sight(subject, outcome)
        if isinstance(outcome.action, planner.CloseCluster):
            tenancy.close_audience(subject.row.audience_id)
        if subject.open_operation_id is not None:
            _write_progress(subject.open_operation_id, subject, outcome)


def _write_sight(subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    fields = _sight_fields(subject, outcome)
    held = Cluster.objects.filter(pk=subject.row.pk, lease_epoch=subject.row.lease_epoch)
    if not held.update(due_at=_next_due(outcome), lease_expires_at=None, seen_at=Now(), **fields):
        raise Fenced("Another turn took over.")


def _next_due(outcome: TurnOutcome) -> Case | None:
    """When the next turn should be. A tombstone has none, not even when it was woken while it became one."""
    if isinstance(outcome.action, planner.CloseCluster):
        return None
    # A wake-up during the turn has set an earlier due time than the claim did: it must not be lost.
    woken = When(due_at__lt=F("lease_expires_at"), then=F("due_at"))
    next_due = None if outcome.due_in_seconds is None else Now() + timedelta(seconds=outcome.due_in_seconds)
    return Case(woken, default=next_due)


def _sight_fields(subject: read.TurnSubject, outcome: TurnOutcome) -> dict[str, Any]:
    row, observed = subject.row, outcome.observed
    previous = from_json(row.conditions)
    derived = derive(
        subject.desired,
        observed,
        outcome.action,
        deletion_requested=row.lifecycle == Lifecycle.DELETED,
        stalled_reason=outcome.error_code if outcome.is_permanent else "",
        message=outcome.error_message or outcome.waits_for,
    )
    facts = with_transitions(derived, previous, now=subject.now.isoformat())
    fields: dict[str, Any] = {
        "conditions": to_json(facts),
        "was_healthy": row.was_healthy or is_true(facts, ConditionType.AVAILABLE),
        "failures": row.failures + 1 if outcome.error_code else 0,
    }
    if not outcome.error_code:
        fields["observed_generation"] = row.spec_generation
    if observed is not None and observed.endpoint is not None:
        fields |= {"endpoint_grpc": observed.endpoint.grpc, "endpoint_rest": observed.endpoint.rest}
    if isinstance(outcome.action, planner.StartEngine) and outcome.executed:
        fields |= _started(row, subject.now)
    elif outcome.action is None and row.start_after is not None and row.start_after <= subject.now:
        # It has outlived its own back-off, so the next start begins to count anew.
        fields |= {"start_attempts": 0, "start_after": None}
    if isinstance(outcome.action, planner.CloseCluster):
        fields |= {"deleted_at": Now(), "endpoint_grpc": "", "endpoint_rest": ""}
    return fields


def _started(row: Cluster, now: datetime) -> dict[str, Any]:
    attempts = row.start_attempts + 1
    return {"start_attempts": attempts, "start_after": now + timedelta(seconds=min(300, 2**attempts))}


def _write_progress(operation_id: UUID, subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    """Derive the steps' states from where the planner stands; nothing is accumulated, so repeats change nothing."""
    operation = Operation.objects.select_for_update().get(pk=operation_id)
    if operation.state not in OPEN_STATES or operation.spec_generation != subject.row.spec_generation:
        return
    steps = _steps_of(operation, outcome)
    current = _current_position(steps, subject, outcome)
    for index, step in enumerate(steps):
        _move_step(step, index - current, outcome, subject.now)
    OperationStep.objects.bulk_update(steps, ["state", "waits_for", "started_at", "finished_at", "attempts"])
    operation.started_at = operation.started_at or subject.now
    operation.error_code, operation.error_message = outcome.error_code, outcome.error_message
    operation.state = OperationState.RUNNING
    if outcome.is_permanent:
        operation.state, operation.finished_at = OperationState.FAILED, subject.now
    elif current == len(steps) and _is_through(outcome):
        operation.state, operation.finished_at = OperationState.SUCCEEDED, subject.now
    operation.save()


def _steps_of(operation: Operation, outcome: TurnOutcome) -> list[OperationStep]:
    """The foreseen steps, with one before them when a release that was there before has to be made ready again."""
    steps = list(operation.steps.order_by("position"))
    kind = StepKind.PREPARE_RELEASE
    if outcome.action is None or outcome.action.step is not kind or any(step.kind == kind for step in steps):
        return steps
    first = OperationStep.objects.create(
        organization_id=operation.organization_id, operation=operation, position=0, kind=kind.value
    )
    return [first, *steps]


def _is_through(outcome: TurnOutcome) -> bool:
    """Nothing is left to do: an operation without foreseen steps is not over before that either."""
    return not outcome.error_code and (outcome.action is None or isinstance(outcome.action, planner.CloseCluster))


def _current_position(steps: Sequence[OperationStep], subject: read.TurnSubject, outcome: TurnOutcome) -> int:
    """Index of the step the planner stands at; past the end when all is done."""
    if outcome.observed is None and outcome.action is None:
        return next((i for i, step in enumerate(steps) if step.state != StepState.DONE), 0)
    kind = outcome.action.step if outcome.action else None
    if kind is None and subject.desired.lifecycle is not Lifecycle(subject.row.lifecycle):
        kind = StepKind.UNDO_WINDOW
    if kind is StepKind.CLOSE:
        kind = None
    position = next((index for index, step in enumerate(steps) if step.kind == kind), 0 if kind else len(steps))
    # A start is through when the call returns; what follows it is the wait for the engine.
    return position + 1 if outcome.executed and kind is StepKind.START_ENGINE else position


def _move_step(step: OperationStep, ahead: int, outcome: TurnOutcome, now: datetime) -> None:
    """Bring one step up to date; it lies `ahead` steps after the current one."""
    acted = outcome.executed and outcome.action is not None and step.kind == outcome.action.step
    step.attempts += 1 if acted else 0
    if ahead < 0:
        if step.state not in (StepState.DONE, StepState.SKIPPED) or acted:
            step.started_at = step.started_at or (now if acted else None)
            step.state = StepState.DONE if step.started_at else StepState.SKIPPED
            step.finished_at, step.waits_for = now, ""
        return
    if ahead > 0:
        step.state, step.started_at, step.finished_at, step.waits_for = StepState.PENDING, None, None, ""
        return
    step.state = StepState.FAILED if outcome.is_permanent else StepState.RUNNING
    step.started_at = step.started_at or now
    step.finished_at = now if outcome.is_permanent else None
    step.waits_for = outcome.error_message or outcome.waits_for
