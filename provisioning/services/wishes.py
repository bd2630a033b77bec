"""Change what is wished of a cluster. One transaction each: rule, row, operation, audit entry, wake-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from common.errors import NotFound
from provisioning import selectors as read
from provisioning import verdicts, wakeups
from provisioning.errors import (
    AlreadyDeleting,
    NotCancellable,
    NotForceable,
    NotRetryable,
    StaleGeneration,
    ThrowAwayCopy,
)
from provisioning.models import Cluster, Operation
from provisioning.services import drills, leftovers
from provisioning.services.backups import delete_backup, purge_backups, want_backup
from provisioning.services.endings import (
    WAY_OUT_OF_DRILL,
    WITHDRAWABLE,
    close_cluster,
    is_reversible,
    way_back,
    withdrawal_rule,
)
from provisioning.services.operations import Changes, make_due, open_operation, supersede_operations
from provisioning.services.rules import (
    Schedule,
    WishRule,
    backup_rule,
    checked_cluster,
    deletion_rule,
    foresee_creation,
    resize_rule,
    restore_backup_rule,
    restore_rule,
    resume_rule,
    revoke_rule,
    suspend_rule,
    update_rule,
    upgrade_rule,
)
from provisioning.services.trials import TRIAL
from provisioning.spec import ClusterRequest, Lifecycle
from provisioning.statements import insert
from provisioning.states import (
    OPEN_STATES,
    BackupReason,
    OperationKind,
    OperationState,
    StepKind,
    StepState,
)
from tenants import audit
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.roles import Permission

# Steps during which clients cannot reach the engine.
INTERRUPTING_STEPS = frozenset({StepKind.STOP_ENGINE, StepKind.REMOVE})


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change would do, had it been asked for in earnest.

    `expected_seconds` sums the steps' usual times; `interrupts_engine` says that clients will notice; `way_back` says
    how it can be undone and until when, "" when nothing would change.
    """

    steps: Sequence[StepKind]
    changes: Changes
    is_reversible: bool
    interrupts_engine: bool = False
    expected_seconds: float = 0.0
    way_back: str = ""


def preview(change: Callable[..., Operation], /, **arguments: Any) -> Preview:
    """What a change would do: it is made in earnest and rolled back, so it raises just what the change would raise."""
    with transaction.atomic():
        operation = change(**arguments)
        steps = [StepKind(step.kind) for step in operation.steps.all()]
        is_drill = operation.cluster.drill_of_id is not None
        transaction.set_rollback(True)
    kind = OperationKind(operation.kind)
    if (stored := Operation.objects.filter(pk=operation.pk).first()) is not None:
        if stored.state == operation.state:
            # A change that changes nothing answers with an earlier operation, which is not what it would do.
            return Preview((), {}, is_reversible=True)
        ended = {"state": [stored.state, operation.state]}
        return Preview((), ended, is_reversible=False, way_back="Ask for it again. What it has begun is removed.")
    paces = [verdicts.pace_of(step, ()) for step in steps]
    return Preview(
        steps=steps,
        changes=operation.changes,
        is_reversible=is_reversible(kind, steps),
        interrupts_engine=not is_drill and not INTERRUPTING_STEPS.isdisjoint(steps),
        expected_seconds=sum(pace.median for pace in paces if pace),
        way_back=WAY_OUT_OF_DRILL if is_drill else way_back(kind, steps),
    )


def preview_backup_deletion(*, actor: Actor, backup_id: UUID) -> Preview:
    """What deleting a backup would do; no operation stands for it. Raises what `delete_backup` raises."""
    with transaction.atomic():
        backup = delete_backup(actor=actor, backup_id=backup_id)
        transaction.set_rollback(True)
    changes = {"backup": [backup.number, None]}
    return Preview((), changes, is_reversible=False, way_back="What it holds is gone for good.")


@transaction.atomic
def create_cluster(*, actor: Actor, request: ClusterRequest) -> Operation:
    """Record the wish for a cluster (the operation's `cluster`); the reconciler makes it real.

    Raises:
        InvalidName, InvalidSpec: the name cannot be used, or something named is not on offer.
        LicenceRefuses: the release's licence does not allow the stage here.
        LimitReached: the plan's clusters are used up.
        NoPlace: the region is full, or no region fits.
    """
    row = checked_cluster(actor, request)
    row.audience = tenancy.open_audience(organization_id=row.organization_id, audience_id=row.pk)
    insert(row)
    shown = ("name", "stage", "region_id", "plan_type_id", "release_id")
    changes = {name.removesuffix("_id"): [None, getattr(row, name)] for name in shown}
    if row.data_source_id is not None:
        changes["data_source"] = [None, str(row.data_source_id)]
    return _record(actor, row, OperationKind.CREATE, foresee_creation(row), changes)


def update_cluster(
    *,
    actor: Actor,
    cluster_id: UUID,
    expected_generation: int | None = None,
    name: str | None = None,
    stage: str | None = None,
    is_protected: bool | None = None,
    backup_every_hours: int | None = None,
    backups_kept: int | None = None,
    drill_every_days: int | None = None,
) -> Operation:
    """Rename a cluster, move it to another stage, switch its deletion protection, or set when it is backed up."""
    schedule = Schedule(backup_every_hours, backups_kept, drill_every_days)
    return _accept(actor, cluster_id, expected_generation, update_rule(name, stage, is_protected, schedule))


def suspend_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Stop the engine and keep its data."""
    return _accept(actor, cluster_id, expected_generation, suspend_rule)


def resume_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Start a suspended engine again on its data."""
    return _accept(actor, cluster_id, expected_generation, resume_rule)


def revoke_access(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Make every token issued so far worthless: a new audience, and the engine restarts to know it."""
    return _accept(actor, cluster_id, expected_generation, revoke_rule)


def resize_cluster(
    *, actor: Actor, cluster_id: UUID, plan_type: str, expected_generation: int | None = None
) -> Operation:
    """Give a cluster another size with the same partitions.

    Raises:
        PathBlocked: the size has other partitions, which are fixed for a cluster's life.
        ChangeUnderWay: an upgrade has to end first.
    """
    return _accept(actor, cluster_id, expected_generation, resize_rule(plan_type))


def upgrade_cluster(
    *,
    actor: Actor,
    cluster_id: UUID,
    release: str,
    expected_generation: int | None = None,
    without_backup: bool = False,
) -> Operation:
    """Move a cluster to a later release: a backup first, and back to the former release if the new one is not well.

    Raises:
        PathBlocked: the release cannot follow the present one.
        LicenceRefuses, NotAvailable, ChangeUnderWay: as they say.
    """
    rule = upgrade_rule(release, without_backup=without_backup)
    return _accept(actor, cluster_id, expected_generation, rule)


def back_up_cluster(
    *,
    actor: Actor,
    cluster_id: UUID,
    expected_generation: int | None = None,
    reason: BackupReason = BackupReason.ASKED_FOR,
) -> Operation:
    """Take a backup now.

    Raises:
        NotAvailable: the engine is not healthy.
        ChangeUnderWay: an upgrade, or another backup, has to end first.
    """
    return _accept(actor, cluster_id, expected_generation, backup_rule(reason))


def restore_backup(
    *, actor: Actor, cluster_id: UUID, backup_id: UUID, expected_generation: int | None = None
) -> Operation:
    """Put a backup's data in place of what the cluster works on; what it works on now is kept until the new is well.

    Raises:
        NotFound: no such backup in the organization.
        BackupNotUsable: it is not complete, or has another layout or release.
    """
    rule = restore_backup_rule(backup_id)
    return _accept(actor, cluster_id, expected_generation, rule, Permission.CLUSTERS_DELETE)


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
    """Call an operation off by wishing the opposite; returns the operation that undoes it, or itself if none does.

    Raises:
        NotCancellable: it is over, or past the point from which something sensible is left to go back to.
    """
    operation = _operation_for_update(actor, operation_id)
    _require_for(actor, operation)
    if not read.can_cancel(operation):
        raise NotCancellable("This operation cannot be called off any more: it is over or past its point of return.")
    kind, cluster_id = OperationKind(operation.kind), operation.cluster_id
    if operation.cluster.drill_of_id is not None:
        audit.record(actor, action="operation.cancelled", target=operation)
        return drills.end(operation.cluster, error_code="cancelled", sentence="It was called off.")
    if kind is OperationKind.CREATE:
        return request_deletion(actor=actor, cluster_id=cluster_id, purge=True)
    if kind is OperationKind.BACK_UP:
        return _call_off_backup(actor, operation)
    if kind in WITHDRAWABLE:
        return _accept(actor, cluster_id, None, withdrawal_rule(operation, read.begun_steps(operation)))
    opposite = {
        OperationKind.SUSPEND: resume_cluster,
        OperationKind.RESUME: suspend_cluster,
        OperationKind.DELETE: restore_cluster,
    }[kind]
    return opposite(actor=actor, cluster_id=cluster_id)


def _call_off_backup(actor: Actor, operation: Operation) -> Operation:
    """Nothing changed in the engine, so there is nothing to undo; what it wrote so far is removed from the store."""
    supersede_operations(operation.cluster, error_code="cancelled", sentence="It was called off.")
    audit.record(actor, action="operation.cancelled", target=operation)
    operation.refresh_from_db()
    return operation


@transaction.atomic
def force_operation(*, actor: Actor, operation_id: UUID) -> Operation:
    """End a deletion without the region's word that everything is gone; what may be left there stands in the ledger.

    Raises:
        NotForceable: it is no deletion, or it is getting on by itself.
    """
    actor.require(Permission.CLUSTERS_DELETE)
    operation = _operation_for_update(actor, operation_id)
    if not read.can_force(operation):
        raise NotForceable(
            "Only a deletion that does not get on can be ended by force. Everything else can be called off or tried "
            "again."
        )
    row = operation.cluster
    leftovers.record_forced(row, by=actor.label)
    # The region's row, where the cluster is not counted any more, comes before those of backups, as for a new cluster.
    close_cluster(row)
    if row.drill_of_id is None and not operation.steps.filter(kind=StepKind.UNDO_WINDOW).exists():
        purge_backups(row)
    sentence = "Ended by force: what may be left in the region is recorded, and removed when the region allows."
    operation.steps.exclude(state=StepState.DONE).update(state=StepState.SKIPPED, waits_for="")
    operation.state = OperationState.SUCCEEDED
    operation.finished_at = Now()
    operation.error_code, operation.error_message = "forced", sentence
    operation.save()
    audit.record(actor, action="cluster.deletion_forced", target=row)
    operation.refresh_from_db()
    return operation


@transaction.atomic
def retry_operation(*, actor: Actor, operation_id: UUID) -> Operation:
    """Try a failed operation again, or one that waits for its next try at once.

    Raises:
        NotRetryable: it did not fail, or a later change has taken its place.
    """
    actor.require(Permission.CLUSTERS_WRITE)
    operation = _operation_for_update(actor, operation_id)
    _require_for(actor, operation)
    if not read.can_retry(operation):
        raise NotRetryable("There is nothing to try again: this operation did not fail, or a later change replaced it.")
    row = operation.cluster
    if operation.state == OperationState.FAILED and _lacks_backup(operation):
        is_asked_for = operation.kind == OperationKind.BACK_UP
        want_backup(row, BackupReason.ASKED_FOR if is_asked_for else BackupReason.BEFORE_UPGRADE)
    was_limited = row.trial_ends_at is not None
    make_due(row)
    if was_limited:
        Cluster.objects.filter(pk=row.pk).update(trial_ends_at=Now() + TRIAL)
    again = operation.steps.filter(state__in=(StepState.FAILED, StepState.RUNNING))
    # How many brokers were replaced so far decides whether there is a way back.
    again.exclude(kind=StepKind.ROLL_BROKERS).update(attempts=0)
    again.update(state=StepState.PENDING)
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


def _require_for(actor: Actor, operation: Operation) -> None:
    """Whoever ends a change, or has it tried again, needs the right to begin it."""
    if operation.kind in _NEEDS_DELETE and operation.cluster.drill_of_id is None:
        actor.require(Permission.CLUSTERS_DELETE)


_NEEDS_DELETE = frozenset({OperationKind.DELETE, OperationKind.RESTORE, OperationKind.RESTORE_BACKUP})


def _lacks_backup(operation: Operation) -> bool:
    """Whether the backup that it was to take has been given up."""
    return operation.steps.filter(kind=StepKind.TAKE_BACKUP).exclude(state=StepState.DONE).exists()


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
    if row.drill_of_id is not None:
        raise ThrowAwayCopy("This is a copy that proves a backup: it is removed by itself. Call its operation off.")
    if row.lifecycle == Lifecycle.DELETED and rule is not restore_rule:
        raise AlreadyDeleting("This cluster is being deleted. While its undo window is open you can restore it.")
    wish = rule(row)
    if not wish.changes:
        return _latest(actor, row)
    for name, value in wish.fields.items():
        setattr(row, name, value)
    row.spec_generation += 1
    if wish.kind is OperationKind.UPDATE:
        # It asks nothing of the region, so it neither ends a stall nor disturbs a turn.
        Cluster.objects.filter(pk=row.pk).update(due_at=Now())
    else:
        make_due(row)
    row.save(update_fields=[*wish.fields, "spec_generation"])
    operation = _record(actor, row, wish.kind, wish.steps, wish.changes)
    if wish.backup is not None:
        want_backup(row, wish.backup)
    return operation


def _latest(actor: Actor, row: Cluster) -> Operation:
    """The answer to a change that changes nothing; of a cluster that was adopted nothing was asked before."""
    latest = Operation.objects.filter(cluster=row).order_by("-created_at").first()
    return latest or _record(actor, row, OperationKind.UPDATE, (), {})


def _locked(actor: Actor, cluster_id: UUID, expected_generation: int | None) -> Cluster:
    rows = Cluster.objects.for_organization(actor.organization).live().select_for_update(of=("self",), no_key=True)
    related = rows.select_related(
        "audience", "region", "plan_type", "release", "former_release", "channel", "data_source"
    ).annotate(now=Now())
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
    """Write the operation that stands for an accepted change, and its audit entry."""
    # An update asks nothing of the region: it is over at once, and what is under way goes on.
    over: dict[str, Any] = {}
    if kind is OperationKind.UPDATE:
        over = {"state": OperationState.SUCCEEDED.value, "started_at": Now(), "finished_at": Now()}
        ongoing = Operation.objects.filter(cluster=row, spec_generation=row.spec_generation - 1)
        ongoing.filter(state__in=(*OPEN_STATES, OperationState.FAILED)).update(spec_generation=row.spec_generation)
    elif kind is not OperationKind.CREATE:  # nothing has been asked of it before
        sentence = f"A later change ({kind.value.replace('_', ' ')}) took its place."
        supersede_operations(row, error_code="superseded", sentence=sentence)
    operation = open_operation(actor, row, kind, steps, changes, **over)
    audit.record(actor, action=f"cluster.{kind.value}_requested", target=row, changes=changes)
    return operation


def _operation_for_update(actor: Actor, operation_id: UUID) -> Operation:
    """The operation with its cluster, both locked: the cluster first, as every change and every turn does."""
    actor.require(Permission.CLUSTERS_WRITE)
    rows = Operation.objects.for_organization(actor.organization).filter(pk=operation_id)
    clusters = Cluster.objects.for_organization(actor.organization).filter(pk__in=rows.values("cluster_id"))
    if not clusters.select_for_update(no_key=True).values_list("pk", flat=True):
        raise NotFound("There is no such operation in this organization.")
    return rows.select_for_update(of=("self",), no_key=True).select_related("cluster__audience").get()
