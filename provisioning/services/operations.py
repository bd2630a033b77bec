"""Operations as rows: one accepted change with the steps that it is foreseen to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from provisioning import wakeups
from provisioning.conditions import from_json, to_json
from provisioning.models import Cluster, Operation, OperationStep
from provisioning.services import backups
from provisioning.statements import insert
from provisioning.states import OPEN_STATES, ConditionType, OperationKind, OperationState, StepKind, StepState
from tenants.actor import Actor

Changes = Mapping[str, Sequence[Any]]


def open_operation(
    actor: Actor, row: Cluster, kind: OperationKind, steps: Sequence[StepKind], changes: Changes, **over: Any
) -> Operation:
    """Write an operation with its steps, and ring. `over` sets fields of one that is over as it begins."""
    operation = Operation(
        **over,
        organization_id=row.organization_id,
        cluster=row,
        kind=kind.value,
        changes=changes,
        spec_generation=row.spec_generation,
        actor_kind=actor.kind.value,
        actor_label=actor.label,
    )
    if over:
        operation.save(force_insert=True)
    else:
        insert(operation)
    if steps:
        # Position 0 is kept free for a step that turns out to be needed first.
        insert(*(_step(operation, position, kind) for position, kind in enumerate(steps, start=1)))
    wakeups.ring(row.pk)
    return operation


def _step(operation: Operation, position: int, kind: StepKind) -> OperationStep:
    return OperationStep(
        organization_id=operation.organization_id, operation=operation, position=position, kind=kind.value
    )


def supersede_operations(row: Cluster, *, error_code: str, sentence: str) -> None:
    """End what is in progress for a cluster; a backup that was to be taken is given up."""
    for operation in Operation.objects.filter(cluster=row, state__in=OPEN_STATES):
        operation.state = OperationState.CANCELLED
        operation.finished_at = Now()
        operation.error_code, operation.error_message = error_code, sentence
        operation.save()
        operation.steps.exclude(state=StepState.DONE).update(state=StepState.SKIPPED, waits_for="")
    backups.give_up_wanted(row, sentence)


def make_due(row: Cluster) -> None:
    """Forget a stall and former failures, and let the next turn come at once.

    A turn that is under way decides on the former wish and would write its stall back: it is fenced off.
    """
    kept = [condition for condition in from_json(row.conditions) if condition.type is not ConditionType.STALLED]
    row.conditions = to_json(kept)
    row.failures = 0
    Cluster.objects.filter(pk=row.pk).update(
        conditions=row.conditions,
        failures=0,
        deaths=0,
        start_attempts=0,
        start_after=None,
        trial_ends_at=None,
        due_at=Now(),
        lease_epoch=F("lease_epoch") + 1,
        lease_expires_at=None,
    )
