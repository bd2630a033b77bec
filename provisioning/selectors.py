"""Read clusters, operations and the catalogue. Another organization's object is absent, never forbidden."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from common.errors import NotFound
from provisioning import conditions, licences, placement, statements, verdicts
from provisioning.errors import InMaintenance
from provisioning.models import Backup, Channel, Cluster, Operation, OperationStep, PlanType, Region, Release
from provisioning.spec import (
    BackupRef,
    DesiredCluster,
    DesiredData,
    DesiredRelease,
    DesiredSize,
    Gateway,
    Lifecycle,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
)
from provisioning.states import (
    OPEN_STATES,
    PASSED_STEPS,
    STEP_TITLES,
    BackupReason,
    BackupState,
    Condition,
    ConditionType,
    OperationKind,
    OperationState,
    Phase,
    StepKind,
    StepState,
    Truth,
    is_true,
    summarize,
)
from tenants.actor import Actor, PrincipalKind
from tenants.paging import Page, Slice, position_of, slice_newest_first, slice_of
from tenants.roles import Permission

# Finished steps that say how long a step takes here; more would only say how long it once took.
HISTORY_ROWS = 200

# Removals that nobody asked for, at once, in a small region; see `unexplained_removals`.
MAX_UNEXPLAINED_REMOVALS = 3


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be chosen when creating a cluster."""

    regions: Sequence[Region]
    plan_types: Sequence[PlanType]
    channels: Sequence[Channel]


@dataclass(frozen=True, slots=True)
class StepView:
    """A step as people and programs see it; `seconds` is its duration so far, None before it began."""

    kind: StepKind
    title: str
    state: StepState
    waits_for: str
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    attempts: int


@dataclass(frozen=True, slots=True)
class OperationView:
    """An operation with its verdict.

    One that proves a backup, which `drill_of` names, bears the name of the cluster that the backup is of.
    """

    id: UUID
    cluster_id: UUID
    cluster_name: str
    is_cluster_gone: bool
    drill_of: UUID | None
    kind: OperationKind
    changes: Mapping[str, Sequence[Any]]
    receipt: Mapping[str, Sequence[str]] | None
    state: OperationState
    verdict: verdicts.Verdict | None
    percent: int
    waits_for: str
    spec_generation: int
    actor_kind: str
    actor_label: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str
    error_message: str
    attempts: int
    steps: Sequence[StepView]
    can_cancel: bool
    can_retry: bool
    can_force: bool

    @property
    def is_open(self) -> bool:
        """Whether it is still going on."""
        return self.state in OPEN_STATES

    @property
    def is_confirmed(self) -> bool:
        """Whether the region has said that it came about; one that was ended by force may have left something."""
        return self.state is OperationState.SUCCEEDED and not self.error_code


@dataclass(frozen=True, slots=True)
class Proof:
    """What the last drill of any of a cluster's backups showed."""

    backup_id: UUID
    verified_at: datetime
    recovery_seconds: float
    loss_seconds: float


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster's row with what is derived from it on read.

    `upgrades` are the releases of its channel that it can be moved to now; `backed_up_at` is when its newest whole
    backup was begun.
    """

    row: Cluster
    phase: Phase
    conditions: Sequence[Condition]
    current_operation_id: UUID | None
    upgrades: Sequence[str]
    backed_up_at: datetime | None
    proof: Proof | None

    @property
    def is_available(self) -> bool:
        """Whether the engine itself said that all its partitions are healthy."""
        return is_true(self.conditions, ConditionType.AVAILABLE)

    @property
    def host_name(self) -> str:
        """The cluster's own name in its region's domain."""
        return host_name_of(self.row)


@dataclass(frozen=True, slots=True)
class BackupView:
    """A backup's row with what is derived from it on read; `drill_id` is the operation that proves it just now."""

    row: Backup
    drill_id: UUID | None

    @property
    def is_usable(self) -> bool:
        """Whether a cluster can be started on it."""
        return self.row.state == BackupState.COMPLETED

    @property
    def is_deletable(self) -> bool:
        """Whether it may be deleted, unless a cluster is being started on it."""
        return self.row.state in (BackupState.COMPLETED, BackupState.FAILED)

    @property
    def is_moving(self) -> bool:
        """Whether it will look different soon."""
        return self.drill_id is not None or self.row.state in (BackupState.WANTED, BackupState.REMOVING)

    @property
    def is_cluster_gone(self) -> bool:
        """Whether it has outlived its cluster."""
        return self.row.cluster.deleted_at is not None


@dataclass(frozen=True, slots=True)
class TurnSubject:
    """All that one reconcile turn decides on. `now` is the database's time.

    `tried_steps` are those that the operation in progress has begun at least once.
    """

    row: Cluster
    desired: DesiredCluster
    now: datetime
    open_operation_id: UUID | None
    open_operation_kind: OperationKind | None
    tried_steps: frozenset[StepKind]

    @property
    def is_in_undo_window(self) -> bool:
        """Whether a deletion was asked for that can still be undone."""
        return self.row.lifecycle == Lifecycle.DELETED and self.desired.lifecycle is not Lifecycle.DELETED

    @property
    def is_half_way(self) -> bool:
        """Whether more is wished than what is to be done first: an upgrade waits for its backup."""
        return self.desired.release.version != self.row.release_id

    @property
    def stall(self) -> Condition | None:
        """The permanent failure that waits for a person, if there is one; a new wish or a retry takes it away."""
        facts = conditions.from_json(self.row.conditions)
        return next((c for c in facts if c.type is ConditionType.STALLED and c.status is Truth.TRUE), None)


def catalogue() -> Offer:
    """Everything on offer. Four queries; the same for every organization."""
    return Offer(
        regions=[region for region in regions() if not placement.refusal(region.place)],
        plan_types=list(PlanType.objects.filter(is_offered=True).order_by("memory_mib")),
        channels=list(Channel.objects.select_related("default_release").prefetch_related("releases").order_by("-slug")),
    )


def licence_note(licence: str) -> str:
    """One sentence on what a release's licence allows."""
    return licences.allows(licences.Licence(licence))


def clusters_of(actor: Actor, page: Page) -> Slice[ClusterView]:
    """The organization's clusters, newest first. One prepared statement."""
    actor.require(Permission.CLUSTERS_READ)
    after = position_of(page)
    statement = _list_statement(page.limit + 1, is_first=after is None)
    created_at, cluster_id = after or (None, None)
    known = {"organization_id": actor.organization, "created_at": created_at, "id": cluster_id}
    rows = slice_of([_viewed(values) for values in statements.fetch_all(statement, known)], page)
    return Slice([_cluster_view(row) for row in rows.items], rows.next_cursor)


def cluster(actor: Actor, cluster_id: UUID) -> ClusterView:
    """One cluster, also when it is being deleted. One prepared statement.

    Raises:
        NotFound: no such cluster in the actor's organization, or it is gone.
    """
    actor.require(Permission.CLUSTERS_READ)
    known = {"organization_id": actor.organization, "cluster_id": cluster_id}
    values = statements.fetch(_view_statement(), known)
    if values is None:
        raise NotFound("There is no such cluster in this organization.")
    return _cluster_view(_viewed(values))


def operations_of(actor: Actor, page: Page, cluster_id: UUID | None = None) -> Slice[OperationView]:
    """The organization's operations, or one cluster's, newest first. Three queries."""
    actor.require(Permission.CLUSTERS_READ)
    rows = _with_steps(Operation.objects.for_organization(actor.organization))
    if cluster_id is not None:
        rows = rows.filter(cluster_id=cluster_id)
    found = slice_newest_first(rows, page)
    paces = _paces(actor.organization, found.items)
    return Slice([_operation_view(row, row.steps.all(), paces) for row in found.items], found.next_cursor)


def operation(actor: Actor, operation_id: UUID) -> OperationView:
    """One operation with its steps and verdict. Three prepared statements.

    Raises:
        NotFound: no such operation in the actor's organization.
    """
    actor.require(Permission.CLUSTERS_READ)
    known = {"organization_id": actor.organization, "operation_id": operation_id}
    values = statements.fetch(_operation_statement(), known)
    if values is None:
        raise NotFound("There is no such operation in this organization.")
    row = _operation(values)
    found = statements.fetch_all(_steps_statement(), known)
    steps = [cast(OperationStep, statements.instance(OperationStep, iter(step))) for step in found]
    return _operation_view(row, steps, _paces(actor.organization, [row]))


def backups_of(actor: Actor, page: Page, cluster_id: UUID | None = None) -> Slice[BackupView]:
    """The organization's backups, or one cluster's, newest first; those that are gone are left out. One query."""
    actor.require(Permission.CLUSTERS_READ)
    rows = _viewed_backups(actor).exclude(state=BackupState.REMOVED)
    if cluster_id is not None:
        rows = rows.filter(cluster_id=cluster_id)
    found = slice_newest_first(rows, page)
    return Slice([_backup_view(row) for row in found.items], found.next_cursor)


def backup(actor: Actor, backup_id: UUID) -> BackupView:
    """One backup, also when it or its cluster is gone. One query.

    Raises:
        NotFound: no such backup in the actor's organization.
    """
    actor.require(Permission.CLUSTERS_READ)
    row = _viewed_backups(actor).filter(pk=backup_id).first()
    if row is None:
        raise NotFound("There is no such backup in this organization.")
    return _backup_view(row)


def sizes_for(row: Cluster) -> list[PlanType]:
    """Other sizes that a cluster can be given: its partitions and their copies stay as they are. One query."""
    same = PlanType.objects.filter(partitions=row.partitions, replication_factor=row.plan_type.replication_factor)
    return list(same.filter(is_offered=True).exclude(pk=row.plan_type_id).order_by("memory_mib", "brokers"))


def turn_subject(cluster_id: UUID) -> TurnSubject:
    """What a turn would decide on now, for looking without acting. One query; a turn's own comes with its claim."""
    tried = OperationStep.objects.filter(operation=OuterRef("open_operation_id"), attempts__gt=0)
    row = (
        Cluster.objects.select_related("audience", "region", "plan_type", "release", "former_release", "data_source")
        .annotate(now=Now(), open_operation_id=_open_operation("pk"), open_operation_kind=_open_operation("kind"))
        .annotate(tried_steps=ArraySubquery(tried.values("kind")))
        .annotate(
            wanted_number=_wanted_backup("number"),
            wanted_reason=_wanted_backup("reason"),
        )
        .get(pk=cluster_id)
    )
    return subject_of(row)


def subject_of(row: Cluster) -> TurnSubject:
    """What a turn decides on, from a row that came by `claim` or with the same annotations. No query."""
    found: Any = row  # the annotations are invisible to the type checker
    desired = desired_of(
        row,
        lifecycle=lifecycle_at(row, found.now),
        backup=found.wanted_number,
        is_before_upgrade=found.wanted_reason == BackupReason.BEFORE_UPGRADE,
    )
    return TurnSubject(
        row,
        desired,
        found.now,
        found.open_operation_id,
        OperationKind(found.open_operation_kind) if found.open_operation_kind else None,
        frozenset(StepKind(kind) for kind in found.tried_steps),
    )


def due_clusters(limit: int) -> list[tuple[UUID, float]]:
    """Ids of due clusters and for how many seconds they have been, longest first. One query on a partial index."""
    rows = Cluster.objects.due().annotate(overdue=Now() - F("due_at")).order_by("due_at")
    return [(pk, overdue.total_seconds()) for pk, overdue in rows.values_list("pk", "overdue")[:limit]]


@dataclass(frozen=True, slots=True)
class Removals:
    """Removals that are due in a region without anybody's request: how many, of how many, and how many may be."""

    due: int
    live: int
    allowed: int


def unexplained_removals(row: Cluster) -> Removals | None:
    """None when this cluster may be removed: somebody asked for it, or hardly any others are due like it. 1-2 queries.

    A pass that would remove more than three clusters and one in a hundred of a region's, and that nobody asked for,
    is a mistake of ours; it stops before the first.
    """
    asked = Operation.objects.filter(
        cluster=OuterRef("pk"), kind=OperationKind.DELETE, spec_generation=OuterRef("spec_generation")
    ).exclude(actor_kind=PrincipalKind.SYSTEM.value)
    # A drill's copy is ours to remove.
    explained = Cluster.objects.filter(Q(drill_of__isnull=False) | Exists(asked))
    if explained.filter(pk=row.pk).exists():
        return None
    region = Cluster.objects.live().filter(region_id=row.region_id)
    due = region.filter(lifecycle=Lifecycle.DELETED).filter(Q(delete_after=None) | Q(delete_after__lte=Now()))
    counts = due.exclude(pk__in=explained.values("pk")).count(), region.count()
    allowed = max(MAX_UNEXPLAINED_REMOVALS, counts[1] // 100)
    return Removals(*counts, allowed) if counts[0] > allowed else None


def regions() -> list[Region]:
    """All regions. One query."""
    return list(Region.objects.order_by("slug"))


def lifecycle_at(row: Cluster, now: datetime) -> Lifecycle:
    """The wish as of now: a cluster inside its undo window is wished to rest."""
    lifecycle = Lifecycle(row.lifecycle)
    if lifecycle is Lifecycle.DELETED and row.delete_after is not None and row.delete_after > now:
        return Lifecycle.SUSPENDED
    return lifecycle


def desired_of(
    row: Cluster, *, lifecycle: Lifecycle, backup: int | None = None, is_before_upgrade: bool = False
) -> DesiredCluster:
    """The wish as a backend needs it, under the given lifecycle. No query when the row came with its relations.

    Args:
        backup: number of a backup that is still to be taken.
        is_before_upgrade: that backup comes first: until it is complete the wish is still the former release.
    """
    release = row.release
    if is_before_upgrade and row.former_release is not None:
        release = row.former_release
    return DesiredCluster(
        cluster_id=row.pk,
        spec_generation=row.spec_generation,
        lifecycle=lifecycle,
        release=_desired_release(release),
        size=DesiredSize(
            brokers=row.plan_type.brokers,
            partitions=row.partitions,
            replication_factor=row.plan_type.replication_factor,
            memory_mib=row.plan_type.memory_mib,
            heap_mib=row.plan_type.heap_mib,
            disk_mib=row.plan_type.disk_mib,
        ),
        audience=row.audience.value,
        host_name=host_name_of(row),
        license_key=settings.CAMUNDA_LICENSE_KEY,
        data=DesiredData(row.data_epoch, ref_of(row.data_source) if row.data_source else None),
        backup=BackupRef(row.pk, backup) if backup is not None else None,
        gateway=Gateway(row.plan_type.gateway),
        card=card_of(row),
    )


def _desired_release(release: Release) -> DesiredRelease:
    return DesiredRelease(
        version=release.version,
        coordinates=release.coordinates,
        sha256=release.sha256,
        main_class=release.main_class,
        serves_rest=release.serves_rest,
        restore_class=release.restore_class,
        rolls_from=tuple(release.rolls_from),
    )


def ref_of(backup: Backup) -> BackupRef:
    """Where a backup lies in its region's store."""
    return BackupRef(backup.cluster_id, backup.number)


def card_of(row: Cluster) -> dict[str, str]:
    """What it takes to make the cluster's row again: names and ids of this database, nothing of the engine's."""
    return {
        "organization": str(row.organization_id),
        "name": row.name,
        "stage": row.stage,
        "plan_type": row.plan_type_id,
        "channel": row.channel_id,
        "release": row.release_id,
        "partitions": str(row.partitions),
        "data_epoch": str(row.data_epoch),
        "data_source": f"{row.data_source.cluster_id}/{row.data_source.number}" if row.data_source else "",
        "lifecycle": str(row.lifecycle),
        "drill": "yes" if row.drill_of_id else "",
    }


def last_sight(row: Cluster) -> ObservedCluster:
    """What the row remembers of the cluster, for foreseeing steps without asking the region."""
    facts = conditions.from_json(row.conditions)
    desired = desired_of(row, lifecycle=Lifecycle.RUNNING)
    running = is_true(facts, ConditionType.APPLIED) and Lifecycle(row.lifecycle) is Lifecycle.RUNNING
    available = is_true(facts, ConditionType.AVAILABLE)
    broker = ObservedBroker(
        0, running=running, digest=desired.digest, release=row.release_id, answers=running, healthy=available
    )
    exists = row.observed_generation > 0
    return ObservedCluster(
        exists=exists,
        brokers=tuple(replace(broker, node=node) for node in desired.nodes) if exists else (),
        available=available,
        members=tuple(desired.nodes) if available else (),
        release=ReleaseState.READY if row.was_healthy else ReleaseState.ABSENT,
    )


def host_name_of(row: Cluster) -> str:
    """The engine's own name, such as 5f0c….local.flowplane.internal."""
    return f"{row.pk}.{row.region.domain}"


def with_operation(rows: QuerySet[Cluster]) -> QuerySet[Cluster]:
    """Clusters with the time and the operation in progress, from which `phase_of` derives the phase."""
    return rows.annotate(
        now=Now(), open_operation_id=_open_operation("pk"), open_operation_kind=_open_operation("kind")
    )


def phase_of(row: Cluster) -> Phase:
    """The one word for people, for a row that came by `with_operation`. No query."""
    found: Any = row  # the annotations are invisible to the type checker
    return summarize(
        conditions.from_json(row.conditions),
        lifecycle=Lifecycle(row.lifecycle),
        was_healthy=row.was_healthy,
        operation=OperationKind(found.open_operation_kind) if found.open_operation_kind else None,
        is_seen=row.observed_generation >= row.spec_generation,
        is_gone=row.deleted_at is not None,
        undo_window_open=row.delete_after is not None and row.delete_after > found.now,
    )


def _open_operation(field: str) -> Subquery:
    """A field of the cluster's operation in progress, of which there is at most one."""
    open_ones = Operation.objects.filter(cluster=OuterRef("pk"), state__in=OPEN_STATES)
    return Subquery(open_ones.values(field)[:1])


def _wanted_backup(field: str) -> Subquery:
    """A field of the backup that is still to be taken, of which there is at most one."""
    return Subquery(Backup.objects.filter(cluster=OuterRef("pk"), state=BackupState.WANTED).values(field)[:1])


# What is read of a cluster, in the order of the statement's columns.
_VIEWED = (("cluster", Cluster), ("region", Region), ("plan_type", PlanType), ("data_source", Backup))


@cache
def _view_statement() -> str:
    return statements.view_statement(statements.columns_of(_VIEWED))


@cache
def _list_statement(limit: int, *, is_first: bool) -> str:
    return statements.list_statement(statements.columns_of(_VIEWED), limit=limit, is_first=is_first)


def _viewed(values: Sequence[Any]) -> Cluster:
    """The row that a statement returned, as a query set with `select_related` and annotations would have made it."""
    rest = iter(values)
    row, *related = (cast(Any, statements.instance(model, rest)) for _, model in _VIEWED)
    for (name, _), other in zip(_VIEWED[1:], related, strict=True):
        setattr(row, name, other)
    row.now, row.open_operation_id, row.open_operation_kind, row.upgrades, row.backed_up_at, *proof = rest
    row.proof = Proof(*proof) if proof[0] else None
    return cast(Cluster, row)


# What is read of an operation; one that proves a backup bears the name of the cluster that the backup is of.
_OPERATED = (("operation", Operation), ("cluster", Cluster), ("drill_of", Backup), ("proven", Cluster))


@cache
def _operation_statement() -> str:
    return statements.operation_statement(statements.columns_of(_OPERATED))


@cache
def _steps_statement() -> str:
    return statements.steps_statement(statements.columns_of([("step", OperationStep)]))


def _operation(values: Sequence[Any]) -> Operation:
    rest = iter(values)
    row, cluster, drill_of, proven = (cast(Any, statements.instance(model, rest)) for _, model in _OPERATED)
    row.cluster, cluster.drill_of = cluster, drill_of
    if drill_of is not None:
        drill_of.cluster = proven
    row.now, row.can_free_capacity = rest
    return cast(Operation, row)


def _viewed_backups(actor: Actor) -> QuerySet[Backup]:
    copies = Operation.objects.filter(organization=OuterRef("organization"), cluster__drill_of=OuterRef("pk"))
    drills = copies.filter(kind=OperationKind.CREATE, state__in=OPEN_STATES)
    rows = Backup.objects.for_organization(actor.organization).select_related("cluster")
    return rows.annotate(drill_id=Subquery(drills.values("pk")[:1]))


def _backup_view(row: Backup) -> BackupView:
    drill_id: UUID | None = row.drill_id  # type: ignore[attr-defined]
    return BackupView(row, drill_id)


def _with_steps(rows: QuerySet[Operation]) -> QuerySet[Operation]:
    others = Cluster.objects.live().filter(
        organization=OuterRef("organization"), region=OuterRef("cluster__region"), lifecycle=Lifecycle.RUNNING
    )
    return (
        rows.select_related("cluster__drill_of__cluster")
        .annotate(now=Now(), can_free_capacity=Exists(others.exclude(pk=OuterRef("cluster"))))
        .prefetch_related("steps")
    )


def _cluster_view(row: Cluster) -> ClusterView:
    found: Any = row  # the annotations are invisible to the type checker
    return ClusterView(
        row,
        phase=phase_of(row),
        conditions=conditions.from_json(row.conditions),
        current_operation_id=found.open_operation_id,
        # One at a time: nothing can follow while an upgrade is under way.
        upgrades=() if row.former_release_id else sorted(found.upgrades, key=_by_number),
        backed_up_at=found.backed_up_at,
        proof=found.proof,
    )


def _by_number(version: str) -> list[int]:
    """8.10.0 comes after 8.9.0."""
    return [int(number) for number in re.findall(r"\d+", version)]


def _paces(organization_id: UUID, operations: Iterable[Operation]) -> Mapping[StepKind, verdicts.Pace | None]:
    """How long each kind of step takes for this organization, or by the priors. One query when anything is open."""
    seconds: dict[StepKind, list[float]] = defaultdict(list)
    if any(row.state in OPEN_STATES for row in operations):
        history = statements.history_statement(HISTORY_ROWS)
        for kind, duration in statements.fetch_all(history, {"organization_id": organization_id}):
            seconds[StepKind(kind)].append(duration.total_seconds())
    return {kind: verdicts.pace_of(kind, seconds[kind]) for kind in StepKind}


def _step_view(step: OperationStep, now: datetime) -> StepView:
    end = step.finished_at or now
    kind = StepKind(step.kind)
    return StepView(
        kind=kind,
        title=STEP_TITLES.get(kind, kind.replace("_", " ").capitalize()),
        state=StepState(step.state),
        waits_for=step.waits_for,
        started_at=step.started_at,
        finished_at=step.finished_at,
        seconds=(end - step.started_at).total_seconds() if step.started_at else None,
        attempts=step.attempts,
    )


def _operation_view(
    row: Operation, found_steps: Iterable[OperationStep], paces: Mapping[StepKind, verdicts.Pace | None]
) -> OperationView:
    found: Any = row  # the annotations are invisible to the type checker
    now: datetime = found.now
    steps = [_step_view(step, now) for step in found_steps]
    state, kind = OperationState(row.state), OperationKind(row.kind)
    current = next((step for step in steps if step.state in (StepState.RUNNING, StepState.FAILED)), None)
    behind = sum(step.state in PASSED_STEPS for step in steps)
    running_seconds = (current.seconds or 0.0) if current else (now - row.created_at).total_seconds()
    pace = paces.get(current.kind) if current else verdicts.Pace(median=1.0, p95=10.0)
    return OperationView(
        id=row.pk,
        cluster_id=row.cluster_id,
        cluster_name=(row.cluster.drill_of.cluster if row.cluster.drill_of else row.cluster).name,
        is_cluster_gone=row.cluster.deleted_at is not None,
        drill_of=row.cluster.drill_of_id,
        kind=kind,
        changes=row.changes,
        receipt=row.receipt,
        state=state,
        verdict=verdicts.judge(
            state,
            step_seconds=running_seconds,
            pace=pace,
            error_code=row.error_code,
            attempts=current.attempts if current and current.kind not in verdicts.ASKED_AGAIN else 0,
            can_free_capacity=found.can_free_capacity,
        ),
        percent=100
        if state is OperationState.SUCCEEDED
        else verdicts.percent_done(
            # What turned out not to be needed was no work.
            [None if step.state is StepState.SKIPPED else paces.get(step.kind) for step in steps],
            finished=behind,
            step_seconds=running_seconds,
        ),
        waits_for=current.waits_for if current else ("" if state not in OPEN_STATES else "A worker has to take it up."),
        spec_generation=row.spec_generation,
        actor_kind=row.actor_kind,
        actor_label=row.actor_label,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error_code=row.error_code,
        error_message=row.error_message,
        attempts=row.attempts,
        steps=steps,
        can_cancel=can_cancel(row),
        can_retry=can_retry(row),
        can_force=can_force(row),
    )


def begun_steps(row: Operation) -> list[StepKind]:
    """The steps that have had an effect, or may have had one. No query when the row came with its steps."""
    # While brokers are replaced one by one, the first has to wait until all are well.
    return [
        StepKind(step.kind)
        for step in row.steps.all()
        if (step.attempts if step.kind == StepKind.ROLL_BROKERS else step.state != StepState.PENDING)
    ]


def can_withdraw(row: Operation) -> bool:
    """Whether what was before this change is still there to go back to."""
    points = _POINTS_OF_NO_RETURN.get(OperationKind(row.kind))
    return points is not None and points.isdisjoint(begun_steps(row))


def can_cancel(row: Operation) -> bool:
    """Whether an operation can still be called off: something sensible must be left to go back to."""
    state, kind = OperationState(row.state), OperationKind(row.kind)
    is_failed_for_now = state is OperationState.FAILED and kind in (OperationKind.CREATE, *TRIED)
    if not _is_latest(row) or (state not in OPEN_STATES and not is_failed_for_now):
        return False
    if kind in TRIED and not row.cluster.is_on_trial:
        return False  # it is itself the way back, or all was well
    if row.cluster.drill_of_id is not None and kind is not OperationKind.CREATE:
        return False  # nobody wants a drill's copy back
    until = row.cluster.delete_after
    if kind is OperationKind.DELETE and until is not None and until <= row.created_at:
        return False  # it was to be removed at once
    return can_withdraw(row)


# Changes that are on trial until they are through.
TRIED = frozenset({OperationKind.UPGRADE, OperationKind.RESTORE_BACKUP})

# What can be called off, and the steps from which on it cannot.
_POINTS_OF_NO_RETURN: dict[OperationKind, frozenset[StepKind]] = {
    OperationKind.CREATE: frozenset(),
    OperationKind.SUSPEND: frozenset(),
    OperationKind.RESUME: frozenset(),
    OperationKind.DELETE: frozenset({StepKind.REMOVE, StepKind.CLOSE}),
    OperationKind.RESIZE: frozenset(),
    OperationKind.BACK_UP: frozenset(),
    # A broker that has worked beside others on the new release has said yes to what a copy from before does not know.
    OperationKind.UPGRADE: frozenset({StepKind.ROLL_BROKERS, StepKind.LET_GO}),
    OperationKind.RESTORE_BACKUP: frozenset({StepKind.LET_GO}),
}


def can_force(row: Operation) -> bool:
    """Whether an operation may be ended by force: a deletion that failed, or that the region does not carry out."""
    if row.kind != OperationKind.DELETE or not _is_latest(row) or row.cluster.hold:
        return False
    if row.error_code == InMaintenance.code:
        return False  # it goes on by itself
    if any(step.kind == StepKind.UNDO_WINDOW and step.state not in PASSED_STEPS for step in row.steps.all()):
        return False  # it may still be undone
    state = OperationState(row.state)
    return state is OperationState.FAILED or (state in OPEN_STATES and bool(row.error_code))


def can_retry(row: Operation) -> bool:
    """Whether another try makes sense: it failed, or waits for its next try, and no later change took its place."""
    state = OperationState(row.state)
    return _is_latest(row) and (state is OperationState.FAILED or (state in OPEN_STATES and bool(row.error_code)))


def _is_latest(row: Operation) -> bool:
    return row.spec_generation == row.cluster.spec_generation
