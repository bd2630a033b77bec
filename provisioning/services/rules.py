"""What may be wished: each rule checks a change under the row's lock and says what it would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings

from billing import entitlements
from provisioning import licences, planner
from provisioning import selectors as read
from provisioning.errors import (
    AlreadyDeleting,
    DeletionProtected,
    InvalidSpec,
    NotCancellable,
)
from provisioning.models import Channel, Cluster, Operation, PlanType, Region, Release
from provisioning.spec import ClusterRequest, Lifecycle, ObservedCluster, ReleaseState
from provisioning.states import (
    OperationKind,
    Stage,
    StepKind,
)
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.naming import clean_name
from tenants.roles import Permission
from tenants.services.organizations import lock_organization

Changes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A change to one cluster, checked and ready to be written; without changes there is nothing to do."""

    kind: OperationKind
    fields: Mapping[str, Any]
    changes: Changes
    steps: tuple[StepKind, ...]


WishRule = Callable[[Cluster], Wish]


def checked_cluster(actor: Actor, request: ClusterRequest) -> Cluster:
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


def foresee_creation(row: Cluster) -> tuple[StepKind, ...]:
    # Somebody has run this release here before, so it most likely needs no fetching.
    known = Cluster.objects.filter(region=row.region, release=row.release, was_healthy=True).exists()
    sight = ObservedCluster(release=ReleaseState.READY if known else ReleaseState.ABSENT)
    return planner.foresee(read.desired_of(row, lifecycle=Lifecycle.RUNNING), sight)


def update_rule(name: str | None, stage: str | None, is_protected: bool | None) -> WishRule:
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


def suspend_rule(row: Cluster) -> Wish:
    fields = {"lifecycle": Lifecycle.SUSPENDED.value}
    return Wish(OperationKind.SUSPEND, fields, _changes(row, fields), _foresee(row, Lifecycle.SUSPENDED))


def resume_rule(row: Cluster) -> Wish:
    _require_licence(row.release, Stage(row.stage))
    fields = {"lifecycle": Lifecycle.RUNNING.value, "start_attempts": 0, "start_after": None}
    return Wish(OperationKind.RESUME, fields, _changes(row, fields), _foresee(row, Lifecycle.RUNNING))


def revoke_rule(row: Cluster) -> Wish:
    before = read.last_sight(row)
    epoch = tenancy.advance_audience(row.audience_id)
    row.audience.epoch = epoch
    lifecycle = Lifecycle(row.lifecycle)
    steps = planner.foresee(read.desired_of(row, lifecycle=lifecycle), before)
    return Wish(OperationKind.REVOKE_ACCESS, {}, {"access_epoch": [epoch - 1, epoch]}, steps)


def deletion_rule(purge: bool) -> WishRule:
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


def restore_rule(row: Cluster) -> Wish:
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
