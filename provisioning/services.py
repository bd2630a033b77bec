"""Change wishes and record what turns found. One transaction each: rule, row, operation, audit entry, wake-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, When
from django.db.models.functions import Now

from billing import entitlements
from common.errors import NotFound
from provisioning import licences, planner, verdicts, wakeups
from provisioning import selectors as read
from provisioning.conditions import derive, from_json, to_json, with_transitions
from provisioning.errors import (
    AlreadyDeleting,
    DeletionProtected,
    Fenced,
    InvalidSpec,
    NotCancellable,
    NotRetryable,
    StaleGeneration,
)
from provisioning.models import Channel, Cluster, Operation, OperationStep, PlanType, Region, Release
from provisioning.spec import ClusterRequest, Lifecycle, ObservedCluster, ReleaseState
from provisioning.states import (
    OPEN_STATES,
    ConditionType,
    OperationKind,
    OperationState,
    Stage,
    StepKind,
    StepState,
    is_true,
)
from tenants import audit
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.naming import clean_name
from tenants.roles import Permission
from tenants.services.organizations import lock_organization

Changes = Mapping[str, Sequence[Any]]


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


@dataclass(frozen=True, slots=True)
class Wish:
    """A change to one cluster, checked and ready to be written; without changes there is nothing to do."""

    kind: OperationKind
    fields: Mapping[str, Any]
    changes: Changes
    steps: tuple[StepKind, ...]


WishRule = Callable[[Cluster], Wish]


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


# --- Wishes ---


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
    row = _checked_cluster(actor, request)
    row.audience = tenancy.open_audience(organization_id=row.organization_id, audience_id=row.pk)
    row.save(force_insert=True)
    shown = ("name", "stage", "region_id", "plan_type_id", "release_id")
    changes = {name.removesuffix("_id"): [None, getattr(row, name)] for name in shown}
    return _record(actor, row, OperationKind.CREATE, _foresee_creation(row), changes)


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
    return _accept(actor, cluster_id, expected_generation, _update_rule(name, stage, is_protected))


def suspend_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Stop the engine and keep its data."""
    return _accept(actor, cluster_id, expected_generation, _suspend_rule)


def resume_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Start a suspended engine again on its data."""
    return _accept(actor, cluster_id, expected_generation, _resume_rule)


def revoke_access(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Make every token issued so far worthless: a new audience, and the engine restarts to know it."""
    return _accept(actor, cluster_id, expected_generation, _revoke_rule)


def request_deletion(
    *, actor: Actor, cluster_id: UUID, expected_generation: int | None = None, purge: bool = False
) -> Operation:
    """Stop the engine now and remove everything when the undo window closes; `purge` skips the window.

    Raises:
        DeletionProtected: the protection must be switched off first.
        AlreadyDeleting: it was asked for before.
    """
    return _accept(actor, cluster_id, expected_generation, _deletion_rule(purge), Permission.CLUSTERS_DELETE)


def restore_cluster(*, actor: Actor, cluster_id: UUID, expected_generation: int | None = None) -> Operation:
    """Undo a deletion while its window is open. The plan's limit is asked again."""
    return _accept(actor, cluster_id, expected_generation, _restore_rule, Permission.CLUSTERS_DELETE)


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


# --- What turns found ---


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


# --- Rules ---


def _checked_cluster(actor: Actor, request: ClusterRequest) -> Cluster:
    """An unsaved cluster that may be created; holds the organization's lock, so that limits are exact."""
    actor.require(Permission.CLUSTERS_WRITE)
    row = Cluster(
        organization_id=actor.organization,
        name=clean_name(request.name),
        stage=_stage(request.stage),
        region=_named(Region, request.region, "region", is_open=True),
        plan_type=_named(PlanType, request.plan_type, "plan_type", is_offered=True),
        channel=_named(Channel, request.channel, "channel"),
    )
    row.release = _release(row.channel, request.release)
    row.partitions = row.plan_type.partitions
    _require_licence(row.release, Stage(row.stage))
    lock_organization(actor.organization)
    _require_place(row)
    _require_free_name(row.organization_id, row.name)
    return row


def _stage(word: str) -> Stage:
    try:
        return Stage(word)
    except ValueError as error:
        raise InvalidSpec(f"“{word}” is no stage. Choose one of: {', '.join(Stage)}.", field="stage") from error


def _named(model: type[Any], slug: str, field: str, **must: Any) -> Any:
    row = model.objects.filter(pk=slug, **must).first() if "\0" not in slug else None
    if row is None:
        offered = ", ".join(model.objects.filter(**must).order_by("pk").values_list("pk", flat=True))
        raise InvalidSpec(
            f"There is no {field.replace('_', ' ')} “{slug}”. On offer: {offered or 'none at present'}.", field=field
        )
    return row


def _release(channel: Channel, version: str) -> Release:
    if not version:
        return channel.default_release
    releases = {release.version: release for release in channel.releases.filter(is_offered=True)}
    if version not in releases:
        raise InvalidSpec(
            f"There is no release “{version}” on the channel “{channel.slug}”. "
            f"On offer: {', '.join(sorted(releases)) or 'none at present'}.",
            field="release",
        )
    return releases[version]


def _require_licence(release: Release, stage: Stage) -> None:
    licences.require_allowed(
        licences.Licence(release.licence),
        stage=stage,
        offering=licences.Offering(settings.OFFERING),
        has_license_key=bool(settings.CAMUNDA_LICENSE_KEY),
    )


def _require_place(row: Cluster) -> None:
    used = Cluster.objects.for_organization(row.organization_id).counted().count()
    entitlements.require_below(entitlements.plan_of(row.organization_id).max_clusters, used=used, what="clusters")


def _require_free_name(organization_id: UUID, name: str) -> None:
    if Cluster.objects.for_organization(organization_id).counted().filter(name=name).exists():
        raise InvalidSpec(f"You have a cluster named “{name}” already. Choose another name.", field="name")


def _foresee_creation(row: Cluster) -> tuple[StepKind, ...]:
    # Somebody has run this release here before, so it most likely needs no fetching.
    known = Cluster.objects.filter(region=row.region, release=row.release, was_healthy=True).exists()
    sight = ObservedCluster(release=ReleaseState.READY if known else ReleaseState.ABSENT)
    return planner.foresee(read.desired_of(row, lifecycle=Lifecycle.RUNNING), sight)


def _update_rule(name: str | None, stage: str | None, is_protected: bool | None) -> WishRule:
    def rule(row: Cluster) -> Wish:
        fields: dict[str, Any] = {}
        if name is not None and (cleaned := clean_name(name)) != row.name:
            lock_organization(row.organization_id)
            _require_free_name(row.organization_id, cleaned)
            fields["name"] = cleaned
        if stage is not None and _stage(stage) != row.stage:
            _require_licence(row.release, _stage(stage))
            fields["stage"] = _stage(stage).value
        if is_protected is not None:
            fields["is_protected"] = is_protected
        return Wish(OperationKind.UPDATE, fields, _changes(row, fields), steps=())

    return rule


def _suspend_rule(row: Cluster) -> Wish:
    fields = {"lifecycle": Lifecycle.SUSPENDED.value}
    return Wish(OperationKind.SUSPEND, fields, _changes(row, fields), _foresee(row, Lifecycle.SUSPENDED))


def _resume_rule(row: Cluster) -> Wish:
    _require_licence(row.release, Stage(row.stage))
    fields = {"lifecycle": Lifecycle.RUNNING.value, "start_attempts": 0, "start_after": None}
    return Wish(OperationKind.RESUME, fields, _changes(row, fields), _foresee(row, Lifecycle.RUNNING))


def _revoke_rule(row: Cluster) -> Wish:
    before = read.last_sight(row)
    epoch = tenancy.advance_audience(row.audience_id)
    row.audience.epoch = epoch
    lifecycle = Lifecycle(row.lifecycle)
    steps = planner.foresee(read.desired_of(row, lifecycle=lifecycle), before)
    return Wish(OperationKind.REVOKE_ACCESS, {}, {"access_epoch": [epoch - 1, epoch]}, steps)


def _deletion_rule(purge: bool) -> WishRule:
    def rule(row: Cluster) -> Wish:
        if row.is_protected:
            raise DeletionProtected("This cluster is protected against deletion. Switch the protection off first.")
        window = timedelta(seconds=0 if purge else settings.UNDO_WINDOW_SECONDS)
        fields = {"lifecycle": Lifecycle.DELETED.value, "delete_after": _now_of(row) + window}
        steps: tuple[StepKind, ...] = (StepKind.REMOVE, StepKind.CLOSE)
        if window:
            steps = (*_foresee(row, Lifecycle.SUSPENDED), StepKind.UNDO_WINDOW, *steps)
        return Wish(OperationKind.DELETE, fields, _changes(row, fields), steps)

    return rule


def _restore_rule(row: Cluster) -> Wish:
    if row.lifecycle != Lifecycle.DELETED:
        raise NotCancellable("This cluster is not being deleted, so there is nothing to undo.")
    if row.delete_after is None or row.delete_after <= _now_of(row):
        raise AlreadyDeleting("The undo window of this deletion has closed: its data is being removed.")
    lock_organization(row.organization_id)
    _require_place(row)
    _require_free_name(row.organization_id, row.name)
    before = _lifecycle_before_deletion(row)
    fields = {"lifecycle": before.value, "delete_after": None, "start_attempts": 0, "start_after": None}
    return Wish(OperationKind.RESTORE, fields, _changes(row, fields), _foresee(row, before))


def _lifecycle_before_deletion(row: Cluster) -> Lifecycle:
    """What the deletion replaced: a suspended cluster comes back suspended."""
    deletion = Operation.objects.filter(cluster=row, kind=OperationKind.DELETE).latest("created_at")
    return Lifecycle(deletion.changes["lifecycle"][0])


def _foresee(row: Cluster, lifecycle: Lifecycle) -> tuple[StepKind, ...]:
    return planner.foresee(read.desired_of(row, lifecycle=lifecycle), read.last_sight(row))


def _changes(row: Cluster, fields: Mapping[str, Any]) -> Changes:
    """Before and after of what a customer may know, JSON-ready; what stays as it is does not count."""
    pairs = {name: [_plain(getattr(row, name)), _plain(value)] for name, value in fields.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and not name.startswith("start_")}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _now_of(row: Cluster) -> datetime:
    """The database's time, which came with the locked row."""
    return cast(datetime, row.now)  # type: ignore[attr-defined]


# --- Writing a wish down ---


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
    if row.lifecycle == Lifecycle.DELETED and rule is not _restore_rule:
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
