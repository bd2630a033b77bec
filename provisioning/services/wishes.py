"""Change what is wished of a cluster. One transaction each: rule, row, operation, audit entry, wake-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from common.errors import NotFound
from provisioning import selectors as read
from provisioning import verdicts, wakeups
from provisioning.conditions import from_json, to_json
from provisioning.errors import (
    AlreadyDeleting,
    NotCancellable,
    NotRetryable,
    StaleGeneration,
)
from provisioning.models import Cluster, Operation, OperationStep
from provisioning.services.rules import (
    Changes,
    WishRule,
    checked_cluster,
    deletion_rule,
    foresee_creation,
    restore_rule,
    resume_rule,
    revoke_rule,
    suspend_rule,
    update_rule,
)
from provisioning.spec import ClusterRequest, Lifecycle
from provisioning.states import (
    OPEN_STATES,
    ConditionType,
    OperationKind,
    OperationState,
    StepKind,
    StepState,
)
from tenants import audit
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.roles import Permission


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change would do, had it been asked for in earnest.

    `expected_seconds` sums the steps' usual times; `interrupts_engine` says that clients will notice.
    """

    kind: OperationKind
    steps: Sequence[StepKind]
    changes: Changes
    is_reversible: bool
    interrupts_engine: bool
    expected_seconds: float


def preview(change: Callable[..., Operation], /, **arguments: Any) -> Preview:
    """What a change would do: it is made in earnest and rolled back, so it raises just what the change would raise."""
    with transaction.atomic():
        operation = change(**arguments)
        steps = [StepKind(step.kind) for step in operation.steps.all()]
        transaction.set_rollback(True)
    kind = OperationKind(operation.kind)
    if Operation.objects.filter(pk=operation.pk).exists():
        # A change that changes nothing answers with an earlier operation, which is not what it would do.
        return Preview(kind, (), {}, is_reversible=True, interrupts_engine=False, expected_seconds=0.0)
    paces = [verdicts.pace_of(step, ()) for step in steps]
    return Preview(
        kind=kind,
        steps=steps,
        changes=operation.changes,
        is_reversible=kind is not OperationKind.REVOKE_ACCESS
        and (kind is not OperationKind.DELETE or StepKind.UNDO_WINDOW in steps),
        interrupts_engine=not {StepKind.STOP_ENGINE, StepKind.REMOVE}.isdisjoint(steps),
        expected_seconds=sum(pace.median for pace in paces if pace),
    )


@transaction.atomic
def create_cluster(*, actor: Actor, request: ClusterRequest) -> Operation:
    """Record the wish for a cluster (the operation's `cluster`); the reconciler makes it real.

    Raises:
        InvalidName, InvalidSpec: the name cannot be used, or something named is not on offer.
        LicenceRefuses: the release's licence does not allow the stage here.
        LimitReached: the plan's clusters are used up.
    """
    row = checked_cluster(actor, request)
    row.audience = tenancy.open_audience(organization_id=row.organization_id, audience_id=row.pk)
    row.save(force_insert=True)
    shown = ("name", "stage", "region_id", "plan_type_id", "release_id")
    changes = {name.removesuffix("_id"): [None, getattr(row, name)] for name in shown}
    return _record(actor, row, OperationKind.CREATE, foresee_creation(row), changes)


def update_cluster(
    *,
    actor: Actor,
    cluster_id: UUID,
    expected_generation: int | None = None,
    name: str | None = None,
    stage: str | None = None,
    is_protected: bool | None = None,
) -> Operation:
    """Rename a cluster, move it to another stage, or switch its deletion protection."""
    return _accept(actor, cluster_id, expected_generation, update_rule(name, stage, is_protected))


def suspend_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Stop the engine and keep its data."""
    return _accept(actor, cluster_id, expected_generation, suspend_rule)


def resume_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Start a suspended engine again on its data."""
    return _accept(actor, cluster_id, expected_generation, resume_rule)


def revoke_access(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Make every token issued so far worthless: a new audience, and the engine restarts to know it."""
    return _accept(actor, cluster_id, expected_generation, revoke_rule)


def request_deletion(
    *, actor: Actor, cluster_id: UUID, expected_generation: int | None = None, purge: bool = False
) -> Operation:
    """Stop the engine now and remove everything when the undo window closes; `purge` skips the window.

    Raises:
        DeletionProtected: the protection must be switched off first.
        AlreadyDeleting: it was asked for before.
    """
    return _accept(actor, cluster_id, expected_generation, deletion_rule(purge), Permission.CLUSTERS_DELETE)


def restore_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Undo a deletion while its window is open. The plan's limit is asked again."""
    return _accept(actor, cluster_id, expected_generation, restore_rule, Permission.CLUSTERS_DELETE)


@transaction.atomic
def cancel_operation(*, actor: Actor, operation_id: UUID) -> Operation:
    """Call an operation off by wishing the opposite; returns the operation that undoes it.

    Raises:
        NotCancellable: it is over, or past the point from which something sensible is left to go back to.
    """
    operation = _operation_for_update(actor, operation_id)
    begun = [StepKind(step.kind) for step in operation.steps.all() if step.state != StepState.PENDING]
    if not read.can_cancel(operation, begun):
        raise NotCancellable("This operation cannot be called off any more: it is over or past its point of return.")
    kind = OperationKind(operation.kind)
    if kind is OperationKind.CREATE:
        return request_deletion(actor=actor, cluster_id=operation.cluster_id, purge=True)
    opposite = {
        OperationKind.SUSPEND: resume_cluster,
        OperationKind.RESUME: suspend_cluster,
        OperationKind.DELETE: restore_cluster,
    }[kind]
    return opposite(actor=actor, cluster_id=operation.cluster_id)


@transaction.atomic
def retry_operation(*, actor: Actor, operation_id: UUID) -> Operation:
    """Try a failed operation again, or one that waits for its next try at once.

    Raises:
        NotRetryable: it did not fail, or a later change has taken its place.
    """
    actor.require(Permission.CLUSTERS_WRITE)
    operation = _operation_for_update(actor, operation_id)
    if not read.can_retry(operation):
        raise NotRetryable("There is nothing to try again: this operation did not fail, or a later change replaced it.")
    _make_due(operation.cluster)
    operation.steps.filter(state__in=(StepState.FAILED, StepState.RUNNING)).update(state=StepState.PENDING, attempts=0)
    operation.state = OperationState.RUNNING
    operation.attempts += 1
    operation.error_code = operation.error_message = ""
    operation.finished_at = None
    operation.save()
    audit.record(
        actor, action="operation.retry_requested", target=operation, changes={"attempts": [None, operation.attempts]}
    )
    wakeups.ring(operation.cluster_id)
    return operation


@transaction.atomic
def _accept(
    actor: Actor,
    cluster_id: UUID,
    expected_generation: int | None,
    rule: WishRule,
    permission: Permission = Permission.CLUSTERS_WRITE,
) -> Operation:
    """Check a change under the row's lock and write it; one that changes nothing answers with the latest operation."""
    actor.require(permission)
    row = _locked(actor, cluster_id, expected_generation)
    if row.lifecycle == Lifecycle.DELETED and rule is not restore_rule:
        raise AlreadyDeleting("This cluster is being deleted. While its undo window is open you can restore it.")
    wish = rule(row)
    if not wish.changes:
        return Operation.objects.filter(cluster=row).latest("created_at")
    for name, value in wish.fields.items():
        setattr(row, name, value)
    row.spec_generation += 1
    if wish.kind is OperationKind.UPDATE:
        # It asks nothing of the region, so it neither ends a stall nor disturbs a turn.
        Cluster.objects.filter(pk=row.pk).update(due_at=Now())
    else:
        _make_due(row)
    row.save(update_fields=[*wish.fields, "spec_generation"])
    return _record(actor, row, wish.kind, wish.steps, wish.changes)


def _locked(actor: Actor, cluster_id: UUID, expected_generation: int | None) -> Cluster:
    rows = Cluster.objects.for_organization(actor.organization).live().select_for_update(of=("self",), no_key=True)
    related = rows.select_related("audience", "region", "plan_type", "release", "channel").annotate(now=Now())
    row = related.filter(pk=cluster_id).first()
    if row is None:
        raise NotFound("There is no such cluster in this organization.")
    if expected_generation is not None and expected_generation != row.spec_generation:
        raise StaleGeneration(
            f"The cluster has changed since you read it: it is at generation {row.spec_generation}, "
            f"you named {expected_generation}. Read it again and repeat your change.",
            spec_generation=row.spec_generation,
        )
    return row


def _record(actor: Actor, row: Cluster, kind: OperationKind, steps: Sequence[StepKind], changes: Changes) -> Operation:
    """Write the operation that stands for an accepted change, its audit entry, and ring."""
    # An update asks nothing of the region: it is over at once, and what is under way goes on.
    over: dict[str, Any] = {}
    if kind is OperationKind.UPDATE:
        over = {"state": OperationState.SUCCEEDED.value, "started_at": Now(), "finished_at": Now()}
        ongoing = Operation.objects.filter(cluster=row, spec_generation=row.spec_generation - 1)
        ongoing.filter(state__in=(*OPEN_STATES, OperationState.FAILED)).update(spec_generation=row.spec_generation)
    else:
        _supersede(row, by=kind)
    operation = Operation.objects.create(
        **over,
        organization_id=row.organization_id,
        cluster=row,
        kind=kind.value,
        changes=changes,
        spec_generation=row.spec_generation,
        actor_kind=actor.kind.value,
        actor_label=actor.label,
    )
    OperationStep.objects.bulk_create(
        OperationStep(organization_id=row.organization_id, operation=operation, position=position, kind=step.value)
        # Position 0 is kept free, see `_steps_of`.
        for position, step in enumerate(steps, start=1)
    )
    audit.record(actor, action=f"cluster.{kind.value}_requested", target=row, changes=changes)
    wakeups.ring(row.pk)
    return operation


def _supersede(row: Cluster, *, by: OperationKind) -> None:
    """A newer wish is accepted while the old one is in progress; the old operation ends there."""
    for operation in Operation.objects.filter(cluster=row, state__in=OPEN_STATES):
        operation.state = OperationState.CANCELLED
        operation.finished_at = Now()
        operation.error_code = "superseded"
        operation.error_message = f"A later change ({by.value.replace('_', ' ')}) took its place."
        operation.save()
        operation.steps.exclude(state=StepState.DONE).update(state=StepState.SKIPPED, waits_for="")


def _make_due(row: Cluster) -> None:
    """Forget a stall and former failures, and let the next turn come at once.

    A turn that is under way decides on the former wish and would write its stall back: it is fenced off.
    """
    kept = [condition for condition in from_json(row.conditions) if condition.type is not ConditionType.STALLED]
    row.conditions = to_json(kept)
    row.failures = 0
    Cluster.objects.filter(pk=row.pk).update(
        conditions=row.conditions,
        failures=0,
        start_after=None,
        due_at=Now(),
        lease_epoch=F("lease_epoch") + 1,
        lease_expires_at=None,
    )


def _operation_for_update(actor: Actor, operation_id: UUID) -> Operation:
    """The operation with its cluster, both locked: the cluster first, as every change and every turn does."""
    actor.require(Permission.CLUSTERS_WRITE)
    rows = Operation.objects.for_organization(actor.organization).filter(pk=operation_id)
    clusters = Cluster.objects.for_organization(actor.organization).filter(pk__in=rows.values("cluster_id"))
    if not clusters.select_for_update(no_key=True).values_list("pk", flat=True):
        raise NotFound("There is no such operation in this organization.")
    return rows.select_for_update(of=("self",), no_key=True).select_related("cluster__audience").get()
