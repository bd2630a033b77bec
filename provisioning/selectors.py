"""Read clusters, operations and the catalogue. Another organization's object is absent, never forbidden."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Now

from common.errors import NotFound
from provisioning import conditions, licences, verdicts
from provisioning.models import Channel, Cluster, Operation, OperationStep, PlanType, Region
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle, ObservedCluster, ReleaseState
from provisioning.states import (
    OPEN_STATES,
    STEP_TITLES,
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
from tenants.actor import Actor
from tenants.paging import Page, Slice, slice_newest_first
from tenants.roles import Permission

# Finished steps that say how long a step takes here; more would only say how long it once took.
HISTORY_ROWS = 200


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
    """An operation with its verdict."""

    id: UUID
    cluster_id: UUID
    cluster_name: str
    kind: OperationKind
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

    @property
    def is_open(self) -> bool:
        """Whether it is still going on."""
        return self.state in OPEN_STATES


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster's row with what is derived from it on read."""

    row: Cluster
    phase: Phase
    conditions: Sequence[Condition]
    current_operation_id: UUID | None

    @property
    def is_available(self) -> bool:
        """Whether the engine itself said that all its partitions are healthy."""
        return is_true(self.conditions, ConditionType.AVAILABLE)

    @property
    def host_name(self) -> str:
        """The cluster's own name in its region's domain."""
        return host_name_of(self.row)


@dataclass(frozen=True, slots=True)
class TurnSubject:
    """All that one reconcile turn decides on. `now` is the database's time."""

    row: Cluster
    desired: DesiredCluster
    now: datetime
    open_operation_id: UUID | None
    has_tried_release: bool

    @property
    def is_in_undo_window(self) -> bool:
        """Whether a deletion was asked for that can still be undone."""
        return self.row.lifecycle == Lifecycle.DELETED and self.desired.lifecycle is not Lifecycle.DELETED

    @property
    def stall(self) -> Condition | None:
        """The permanent failure that waits for a person, if there is one; a new wish or a retry takes it away."""
        facts = conditions.from_json(self.row.conditions)
        return next((c for c in facts if c.type is ConditionType.STALLED and c.status is Truth.TRUE), None)


def catalogue() -> Offer:
    """Everything on offer. Four queries; the same for every organization."""
    return Offer(
        regions=list(Region.objects.filter(is_open=True).order_by("slug")),
        plan_types=list(PlanType.objects.filter(is_offered=True).order_by("memory_mib")),
        channels=list(Channel.objects.select_related("default_release").prefetch_related("releases").order_by("-slug")),
    )


def licence_note(licence: str) -> str:
    """One sentence on what a release's licence allows."""
    return licences.allows(licences.Licence(licence))


def clusters_of(actor: Actor, page: Page) -> Slice[ClusterView]:
    """The organization's clusters, newest first. One query."""
    actor.require(Permission.CLUSTERS_READ)
    rows = slice_newest_first(_viewed(actor), page)
    return Slice([_cluster_view(row) for row in rows.items], rows.next_cursor)


def cluster(actor: Actor, cluster_id: UUID) -> ClusterView:
    """One cluster, also when it is being deleted. One query.

    Raises:
        NotFound: no such cluster in the actor's organization, or it is gone.
    """
    actor.require(Permission.CLUSTERS_READ)
    row = _viewed(actor).filter(pk=cluster_id).first()
    if row is None:
        raise NotFound("There is no such cluster in this organization.")
    return _cluster_view(row)


def operations_of(actor: Actor, page: Page, cluster_id: UUID | None = None) -> Slice[OperationView]:
    """The organization's operations, or one cluster's, newest first. Three queries."""
    actor.require(Permission.CLUSTERS_READ)
    rows = _with_steps(Operation.objects.for_organization(actor.organization))
    if cluster_id is not None:
        rows = rows.filter(cluster_id=cluster_id)
    found = slice_newest_first(rows, page)
    paces = _paces(actor.organization, found.items)
    return Slice([_operation_view(row, paces) for row in found.items], found.next_cursor)


def operation(actor: Actor, operation_id: UUID) -> OperationView:
    """One operation with its steps and verdict. Three queries.

    Raises:
        NotFound: no such operation in the actor's organization.
    """
    actor.require(Permission.CLUSTERS_READ)
    row = _with_steps(Operation.objects.for_organization(actor.organization)).filter(pk=operation_id).first()
    if row is None:
        raise NotFound("There is no such operation in this organization.")
    return _operation_view(row, _paces(actor.organization, [row]))


def turn_subject(cluster_id: UUID) -> TurnSubject:
    """What a turn decides on. One query; only after `claim`, so that the epoch read is the caller's."""
    tried = OperationStep.objects.filter(
        operation=OuterRef("open_operation_id"), kind=StepKind.PREPARE_RELEASE, attempts__gt=0
    )
    row = (
        Cluster.objects.select_related("audience", "region", "plan_type", "release")
        .annotate(now=Now(), open_operation_id=_open_operation("pk"))
        .annotate(has_tried_release=Exists(tried))
        .get(pk=cluster_id)
    )
    found: Any = row  # the annotations are invisible to the type checker
    desired = desired_of(row, lifecycle=lifecycle_at(row, found.now))
    return TurnSubject(row, desired, found.now, found.open_operation_id, found.has_tried_release)


def due_clusters(limit: int) -> list[tuple[UUID, float]]:
    """Ids of due clusters and for how many seconds they have been, longest first. One query on a partial index."""
    rows = Cluster.objects.due().annotate(overdue=Now() - F("due_at")).order_by("due_at")
    return [(pk, overdue.total_seconds()) for pk, overdue in rows.values_list("pk", "overdue")[:limit]]


def watched_regions() -> list[Region]:
    """Regions whose engines the watch looks after. One query."""
    return list(Region.objects.order_by("slug"))


def lifecycle_at(row: Cluster, now: datetime) -> Lifecycle:
    """The wish as of now: a cluster inside its undo window is wished to rest."""
    lifecycle = Lifecycle(row.lifecycle)
    if lifecycle is Lifecycle.DELETED and row.delete_after is not None and row.delete_after > now:
        return Lifecycle.SUSPENDED
    return lifecycle


def desired_of(row: Cluster, *, lifecycle: Lifecycle) -> DesiredCluster:
    """The wish as a backend needs it, under the given lifecycle. No query when the row came with its relations."""
    return DesiredCluster(
        cluster_id=row.pk,
        spec_generation=row.spec_generation,
        lifecycle=lifecycle,
        release=DesiredRelease(
            version=row.release.version,
            coordinates=row.release.coordinates,
            sha256=row.release.sha256,
            main_class=row.release.main_class,
            serves_rest=row.release.serves_rest,
        ),
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
    )


def last_sight(row: Cluster) -> ObservedCluster:
    """What the row remembers of the cluster, for foreseeing steps without asking the region."""
    facts = conditions.from_json(row.conditions)
    running = is_true(facts, ConditionType.APPLIED) and Lifecycle(row.lifecycle) is Lifecycle.RUNNING
    return ObservedCluster(
        exists=row.observed_generation > 0,
        running=running,
        digest=desired_of(row, lifecycle=Lifecycle.RUNNING).digest if running else "",
        available=is_true(facts, ConditionType.AVAILABLE),
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


def _viewed(actor: Actor) -> QuerySet[Cluster]:
    rows = Cluster.objects.for_organization(actor.organization).live()
    return with_operation(rows.select_related("region", "plan_type", "release", "channel", "audience"))


def _with_steps(rows: QuerySet[Operation]) -> QuerySet[Operation]:
    others = Cluster.objects.live().filter(
        organization=OuterRef("organization"), region=OuterRef("cluster__region"), lifecycle=Lifecycle.RUNNING
    )
    return (
        rows.select_related("cluster")
        .annotate(now=Now(), can_free_capacity=Exists(others.exclude(pk=OuterRef("cluster"))))
        .prefetch_related("steps")
    )


def _cluster_view(row: Cluster) -> ClusterView:
    operation_id: UUID | None = row.open_operation_id  # type: ignore[attr-defined]
    return ClusterView(row, phase_of(row), conditions.from_json(row.conditions), operation_id)


def _paces(organization_id: UUID, operations: Iterable[Operation]) -> Mapping[StepKind, verdicts.Pace | None]:
    """How long each kind of step takes for this organization, or by the priors. One query when anything is open."""
    seconds: dict[StepKind, list[float]] = defaultdict(list)
    if any(row.state in OPEN_STATES for row in operations):
        finished = (
            OperationStep.objects.for_organization(organization_id)
            .filter(state=StepState.DONE, started_at__isnull=False, finished_at__gt=Now() - timedelta(days=90))
            .order_by("-finished_at")
            .values_list("kind", F("finished_at") - F("started_at"))[:HISTORY_ROWS]
        )
        for kind, duration in finished:
            seconds[StepKind(kind)].append(duration.total_seconds())
    return {kind: verdicts.pace_of(kind, seconds[kind]) for kind in StepKind}


def _step_view(step: OperationStep, now: datetime) -> StepView:
    end = step.finished_at or now
    return StepView(
        kind=StepKind(step.kind),
        title=STEP_TITLES[StepKind(step.kind)],
        state=StepState(step.state),
        waits_for=step.waits_for,
        started_at=step.started_at,
        finished_at=step.finished_at,
        seconds=(end - step.started_at).total_seconds() if step.started_at else None,
        attempts=step.attempts,
    )


def _operation_view(row: Operation, paces: Mapping[StepKind, verdicts.Pace | None]) -> OperationView:
    found: Any = row  # the annotations are invisible to the type checker
    now: datetime = found.now
    steps = [_step_view(step, now) for step in row.steps.all()]
    state, kind = OperationState(row.state), OperationKind(row.kind)
    current = next((step for step in steps if step.state in (StepState.RUNNING, StepState.FAILED)), None)
    behind = sum(step.state in (StepState.DONE, StepState.SKIPPED) for step in steps)
    running_seconds = (current.seconds or 0.0) if current else (now - row.created_at).total_seconds()
    pace = paces[current.kind] if current else verdicts.Pace(median=1.0, p95=10.0)
    return OperationView(
        id=row.pk,
        cluster_id=row.cluster_id,
        cluster_name=row.cluster.name,
        kind=kind,
        state=state,
        verdict=verdicts.judge(
            state,
            step_seconds=running_seconds,
            pace=pace,
            error_code=row.error_code,
            attempts=current.attempts if current else 0,
            can_free_capacity=found.can_free_capacity,
        ),
        percent=100
        if state is OperationState.SUCCEEDED
        else verdicts.percent_done(
            # What turned out not to be needed was no work.
            [None if step.state is StepState.SKIPPED else paces[step.kind] for step in steps],
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
        can_cancel=can_cancel(row, [step.kind for step in steps if step.state is not StepState.PENDING]),
        can_retry=can_retry(row),
    )


def can_cancel(row: Operation, begun: Sequence[StepKind]) -> bool:
    """Whether an operation can still be called off: something sensible must be left to go back to."""
    state, kind = OperationState(row.state), OperationKind(row.kind)
    failed_creation = state is OperationState.FAILED and kind is OperationKind.CREATE
    if not _is_latest(row) or (state not in OPEN_STATES and not failed_creation):
        return False
    if kind is OperationKind.DELETE:
        return StepKind.REMOVE not in begun and StepKind.CLOSE not in begun
    return kind in (OperationKind.CREATE, OperationKind.SUSPEND, OperationKind.RESUME)


def can_retry(row: Operation) -> bool:
    """Whether another try makes sense: it failed, or waits for its next try, and no later change took its place."""
    state = OperationState(row.state)
    return _is_latest(row) and (state is OperationState.FAILED or (state in OPEN_STATES and bool(row.error_code)))


def _is_latest(row: Operation) -> bool:
    return row.spec_generation == row.cluster.spec_generation
