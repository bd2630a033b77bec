"""Record what turns found: the sight on the cluster's row, and how far its operation is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from provisioning import planner
from provisioning import selectors as read
from provisioning.conditions import derive, from_json, to_json, with_transitions
from provisioning.errors import Fenced, RemovalsHeld, WorkerKeepsDying
from provisioning.models import Cluster, Operation, OperationStep
from provisioning.services import backups, drills, leftovers
from provisioning.services.trials import TRIAL, withdrawn_fields
from provisioning.spec import Lifecycle, ObservedCluster, Work
from provisioning.states import (
    OPEN_STATES,
    PASSED_STEPS,
    ConditionType,
    Hold,
    OperationKind,
    OperationState,
    StepKind,
    StepState,
    is_true,
)
from tenants import audit
from tenants import services as tenancy
from tenants.actor import SYSTEM


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What one reconcile turn found and did.

    Attributes:
        observed: None when the region gave no answer.
        action: what is left to do, None when converged.
        executed: whether `action` was carried out in this turn.
        error_code, error_message: of the failure, "" when there was none.
        is_permanent: the failure waits for a person.
        is_stall: nothing more is done for the cluster before that person has acted.
        is_closing: the region has said, to this very turn, that nothing is left.
        is_withdrawn: the failure ends the change that is in progress, and what was before it is wished again.
        waits_for: sentence for people, "" when nothing is waited for.
        due_in_seconds: when the next turn should be; None: not before something changes.
    """

    observed: ObservedCluster | None
    action: planner.Action | None
    executed: bool = False
    error_code: str = ""
    error_message: str = ""
    is_permanent: bool = False
    is_withdrawn: bool = False
    waits_for: str = ""
    due_in_seconds: float | None = None

    @property
    def is_stall(self) -> bool:
        # A backup that failed leaves the engine as it is, and as well as it was.
        return self.is_permanent and (self.action is None or self.action.step is not StepKind.TAKE_BACKUP)

    @property
    def is_closing(self) -> bool:
        return isinstance(self.action, planner.CloseCluster) and not self.error_code


def record_turn(subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    """Write what a turn found, and give its lease back. One statement when no operation is open.

    Raises:
        Fenced: another turn holds the lease by now, so nothing was written.
    """
    if subject.open_operation_id is None and not outcome.is_closing:
        _write_sight(subject, outcome)
        return
    with transaction.atomic():
        _write_sight(subject, outcome)
        _write_backup(subject, outcome)
        operation = None
        if subject.open_operation_id is not None:
            operation = _write_progress(subject.open_operation_id, subject, outcome)
        if outcome.is_closing:
            _close(subject, operation)
        if operation is not None and operation.state == OperationState.SUCCEEDED:
            _conclude(subject, operation)


def _write_backup(subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    """Bring the wanted backup's row up to date with what the engine says of it."""
    if subject.desired.backup is None:
        return
    if outcome.observed is not None and outcome.observed.backup is Work.DONE:
        backups.complete_wanted(subject.row)
    elif outcome.is_permanent or outcome.is_withdrawn:
        backups.give_up_wanted(subject.row, outcome.error_message)


def _close(subject: read.TurnSubject, operation: Operation | None) -> None:
    tenancy.close_audience(subject.row.audience_id)
    has_window = operation is None or operation.steps.filter(kind=StepKind.UNDO_WINDOW).exists()
    if not has_window and subject.row.drill_of_id is None:
        backups.purge_backups(subject.row)
    # It may have ended before its creation or a restore came to its end.
    leftovers.record_copied(subject.row)


def _conclude(subject: read.TurnSubject, operation: Operation) -> None:
    """What follows from a change's success."""
    row = subject.row
    if row.is_on_trial or row.former_release_id is not None:
        Cluster.objects.filter(pk=row.pk).update(former_release=None, is_on_trial=False, trial_ends_at=None)
    if operation.kind in (OperationKind.CREATE, OperationKind.RESTORE_BACKUP):
        leftovers.record_copied(row)
    # In maintenance nobody knows since when it has been healthy: it is called off at the end.
    is_measured = row.drill_of_id is not None and row.region.maintenance_since is None
    if operation.kind == OperationKind.CREATE and is_measured:
        drills.conclude(row, subject.now)


def _write_sight(subject: read.TurnSubject, outcome: TurnOutcome) -> None:
    """Write what has changed since the claim, and no more: most turns find everything as it was."""
    row = subject.row
    changed = {name: value for name, value in _sight_fields(subject, outcome).items() if value != getattr(row, name)}
    due = outcome.due_in_seconds
    if not Cluster.objects.give_back(row, due_in_seconds=due, is_closed=outcome.is_closing, **changed):
        raise Fenced("Another turn took over.")


def _sight_fields(subject: read.TurnSubject, outcome: TurnOutcome) -> dict[str, Any]:
    row, observed = subject.row, outcome.observed
    previous = from_json(row.conditions)
    derived = derive(
        subject.desired,
        observed,
        outcome.action,
        deletion_requested=row.lifecycle == Lifecycle.DELETED,
        stalled_reason=outcome.error_code if outcome.is_stall else "",
        unseen_reason=outcome.error_code,
        message=outcome.error_message or outcome.waits_for,
    )
    facts = with_transitions(derived, previous, now=subject.now.isoformat())
    fields: dict[str, Any] = {
        "conditions": to_json(facts),
        "was_healthy": row.was_healthy or is_true(facts, ConditionType.AVAILABLE),
        "failures": row.failures + 1 if outcome.error_code else 0,
        "deaths": row.deaths if outcome.error_code == WorkerKeepsDying.code else 0,
        "seen_at": subject.now,
    }
    if not outcome.error_code:
        fields["observed_generation"] = row.spec_generation
    if observed is not None and observed.endpoint is not None:
        fields |= {"endpoint_grpc": observed.endpoint.grpc, "endpoint_rest": observed.endpoint.rest}
    is_start = isinstance(outcome.action, planner.StartEngine) and bool(outcome.action.nodes) and outcome.executed
    if is_start:
        fields |= _started(subject)
    elif _counts_anew(subject, outcome):
        fields |= {"start_attempts": 0, "start_after": None}
    if row.is_on_trial and row.trial_ends_at is None and (is_start or _runs_as_wished(subject, observed)):
        fields["trial_ends_at"] = subject.now + TRIAL
    if outcome.error_code == Fenced.code:
        # We hold the row, and the region has seen turns that this database knows nothing of.
        fields["hold"] = Hold.SET_BACK.value
    elif outcome.error_code == RemovalsHeld.code:
        fields["hold"] = Hold.UNEXPLAINED.value
    elif row.hold and outcome.action is None and not outcome.error_code and row.lifecycle != Lifecycle.DELETED:
        # Nothing is left to do, so nothing can go wrong: wish and region agree.
        fields["hold"] = Hold.NONE.value
    if outcome.is_closing:
        fields |= {"deleted_at": subject.now, "endpoint_grpc": "", "endpoint_rest": ""}
    return fields


def _counts_anew(subject: read.TurnSubject, outcome: TurnOutcome) -> bool:
    """Whether the next start is another matter: it was told to end, or has outlived its own back-off."""
    if isinstance(outcome.action, planner.StopEngine) and outcome.executed:
        return True
    after, observed = subject.row.start_after, outcome.observed
    has_passed = after is not None and after <= subject.now
    return has_passed and observed is not None and planner.is_steady(subject.desired, observed)


def _started(subject: read.TurnSubject) -> dict[str, Any]:
    attempts = subject.row.start_attempts + 1
    return {"start_attempts": attempts, "start_after": subject.now + timedelta(seconds=min(300, 2**attempts))}


def _runs_as_wished(subject: read.TurnSubject, observed: ObservedCluster | None) -> bool:
    """Whether a broker runs on what is on trial, whoever started it.

    The turn that started it may have died before its record, and where the region brings a stopped broker back by
    itself no turn starts it. Before the backup of an upgrade what is wished is what was before.
    """
    if observed is None or subject.is_half_way:
        return False
    wished = subject.desired.digest
    return any(one.running and one.digest == wished and one.has_wished_data for one in observed.brokers)


def _write_progress(operation_id: UUID, subject: read.TurnSubject, outcome: TurnOutcome) -> Operation | None:
    """Derive the steps' states from where the planner stands; nothing is accumulated, so repeats change nothing."""
    operation = Operation.objects.select_for_update().get(pk=operation_id)
    if operation.state not in OPEN_STATES or operation.spec_generation != subject.row.spec_generation:
        return None
    steps = _steps_of(operation, outcome)
    current = _current_position(steps, subject, outcome)
    for index, step in enumerate(steps):
        _move_step(step, index - current, outcome, subject.now)
    OperationStep.objects.bulk_update(steps, ["state", "waits_for", "started_at", "finished_at", "attempts"])
    operation.started_at = operation.started_at or subject.now
    operation.error_code, operation.error_message = outcome.error_code, outcome.error_message
    operation.state = OperationState.RUNNING
    if outcome.is_permanent or outcome.is_withdrawn:
        operation.state, operation.finished_at = OperationState.FAILED, subject.now
    elif current == len(steps) and _is_through(outcome) and not subject.is_half_way:
        operation.state, operation.finished_at = OperationState.SUCCEEDED, subject.now
    operation.save()
    if outcome.is_withdrawn:
        _withdraw(operation)
    if outcome.is_permanent and subject.row.drill_of_id is not None and operation.kind == OperationKind.CREATE:
        drills.note_failure(subject.row, outcome.error_message)
    return operation


def _withdraw(operation: Operation) -> None:
    """Wish again what was before the change, and let the loop see to it at once."""
    fields = withdrawn_fields(operation) | {"start_attempts": 0, "start_after": None, "failures": 0}
    Cluster.objects.filter(pk=operation.cluster_id).update(
        spec_generation=F("spec_generation") + 1, due_at=Now(), **fields
    )
    audit.record(SYSTEM, action=f"cluster.{operation.kind}_withdrawn", target=operation.cluster)


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
    return outcome.is_closing or (not outcome.error_code and outcome.action is None)


def _current_position(steps: Sequence[OperationStep], subject: read.TurnSubject, outcome: TurnOutcome) -> int:
    """Index of the step the planner stands at; past the end when all is done."""
    if outcome.observed is None and outcome.action is None:
        return next((i for i, step in enumerate(steps) if step.state not in PASSED_STEPS), 0)
    kind = outcome.action.step if outcome.action else None
    if kind is None and subject.desired.lifecycle is not Lifecycle(subject.row.lifecycle):
        kind = StepKind.UNDO_WINDOW
    if kind is StepKind.CLOSE:
        kind = None
    first_open = next((i for i, step in enumerate(steps) if step.state not in PASSED_STEPS), len(steps))
    position = next((index for index, step in enumerate(steps) if step.kind == kind), first_open)
    if kind is None:
        position = first_open + 1 if subject.is_half_way else len(steps)
    # A start is through when the call returns; what follows it is the wait for the engine.
    return position + 1 if outcome.executed and kind is StepKind.START_ENGINE else position


def _move_step(step: OperationStep, ahead: int, outcome: TurnOutcome, now: datetime) -> None:
    """Bring one step up to date; it lies `ahead` steps after the current one."""
    acted = outcome.executed and outcome.action is not None and step.kind == outcome.action.step
    step.attempts += 1 if acted else 0
    if ahead < 0:
        if step.state not in PASSED_STEPS or acted:
            step.started_at = step.started_at or (now if acted else None)
            step.state = StepState.DONE if step.started_at else StepState.SKIPPED
            step.finished_at, step.waits_for = now, ""
        return
    if ahead > 0:
        step.state, step.started_at, step.finished_at, step.waits_for = StepState.PENDING, None, None, ""
        return
    has_failed = outcome.is_permanent or outcome.is_withdrawn
    step.state = StepState.FAILED if has_failed else StepState.RUNNING
    step.started_at = step.started_at or now
    step.finished_at = now if has_failed else None
    step.waits_for = outcome.error_message or outcome.waits_for
