"""What may be wished: each rule checks a change under the row's lock and says what it would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Max, Model, Q

from billing import entitlements
from common.errors import NotFound
from provisioning import licences, planner
from provisioning import selectors as read
from provisioning.conditions import from_json
from provisioning.errors import (
    AlreadyDeleting,
    BackupNotUsable,
    ChangeUnderWay,
    DeletionProtected,
    InvalidSpec,
    NotAvailable,
    NotCancellable,
    PathBlocked,
)
from provisioning.models import Backup, Channel, Cluster, Operation, PlanType, Region, Release
from provisioning.services import placing, trials
from provisioning.spec import ClusterRequest, Lifecycle, ObservedCluster, ReleaseState, Work
from provisioning.states import (
    OPEN_STATES,
    BackupReason,
    BackupState,
    ConditionType,
    OperationKind,
    Stage,
    StepKind,
    is_true,
)
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.clock import database_now
from tenants.naming import clean_name
from tenants.roles import Permission
from tenants.services.organizations import lock_organization

Changes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A change to one cluster, checked and ready to be written; without changes there is nothing to do.

    `backup` is why a backup is to be taken with it, None when none is.
    """

    kind: OperationKind
    fields: Mapping[str, Any]
    changes: Changes
    steps: tuple[StepKind, ...]
    backup: BackupReason | None = None


WishRule = Callable[[Cluster], Wish]

# Fields that are the loop's own business.
_INWARD = frozenset({"former_release", "is_on_trial", "trial_ends_at", "start_attempts", "start_after"})

# Field -> smallest and largest value that makes sense: a backup every hour at the most, a drill every day.
SCHEDULE_BOUNDS = {"backup_every_hours": (0, 24 * 31), "backups_kept": (1, 100), "drill_every_days": (0, 366)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a cluster is backed up, how many of those backups are kept, how often one is proven; None: as it is."""

    backup_every_hours: int | None = None
    backups_kept: int | None = None
    drill_every_days: int | None = None


def checked_cluster(actor: Actor, request: ClusterRequest) -> Cluster:
    """An unsaved cluster that may be created; holds the locks of organization and region, so that limits are exact."""
    actor.require(Permission.CLUSTERS_WRITE)
    # Before a region or a backup is locked, as by a drill.
    lock_organization(actor.organization)
    region, plan_type, channel, release = placing.offered(request, actor.organization)
    row = Cluster(
        organization_id=actor.organization,
        name=clean_name(request.name),
        stage=_stage(request.stage),
        region=region,
        plan_type=plan_type or _named(PlanType, request.plan_type, "plan_type", is_offered=True),
        channel=channel or _named(Channel, request.channel, "channel"),
    )
    row.partitions = row.plan_type.partitions
    if request.from_backup is None:
        row.release = release or _release(row.channel, request.release)
    else:
        _start_on(row, _usable_backup(actor.organization, request.from_backup), request.release)
    _require_licence(row.release, Stage(row.stage))
    _require_room(row)
    return row


def _start_on(row: Cluster, backup: Backup, version: str) -> None:
    """Have a new cluster begin with a copy of another's data: with its layout, on its release or one that can follow.

    The latter rehearses an upgrade. All regions of an installation share its store, so it may be in any of them.
    """
    row.release = _release(row.channel, version or backup.release_id)
    _require_readable(backup, row.release)
    _require_layout(backup, row.plan_type)
    row.data_epoch, row.data_source = 1, backup


def _usable_backup(organization_id: UUID, backup_id: UUID) -> Backup:
    # Locked, so that it is not removed between this look and the wish that needs it.
    rows = Backup.objects.for_organization(organization_id).select_related("cluster", "release")
    backup = rows.select_for_update(of=("self",), no_key=True).filter(pk=backup_id).first()
    if backup is None:
        raise NotFound("There is no such backup in this organization.")
    if backup.state != BackupState.COMPLETED:
        raise BackupNotUsable("This backup is not complete, or was removed: choose another one.")
    return backup


def _require_readable(backup: Backup, release: Release) -> None:
    """Data is read by the release that wrote it, and by those that can follow it; never by an earlier one."""
    if backup.release_id not in (release.pk, *release.upgrades_from):
        raise BackupNotUsable(
            f"The backup was taken with release {backup.release_id}, and {release.pk} cannot read what that has "
            "written. Choose the same release or one that can follow it.",
            field="release",
        )


def _require_layout(backup: Backup, size: PlanType) -> None:
    """Data keeps its partitions for ever; over how many brokers they are spread is decided when it is restored."""
    if backup.partitions != size.partitions:
        raise BackupNotUsable(
            f"The backup was taken of {_count(backup.partitions, 'partition')}, and the size “{size.slug}” has "
            f"{_count(size.partitions, 'partition')}. Choose a size with as many.",
            field="plan_type",
        )


def _layout(brokers: int, partitions: int, replication_factor: int) -> str:
    copies = "1 copy" if replication_factor == 1 else f"{replication_factor} copies"
    return f"{_count(brokers, 'broker')} with {_count(partitions, 'partition')}, {copies} of each"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def _require_room(row: Cluster) -> None:
    """A place in the plan, and a name that no other cluster has. Two queries; the organization's lock is held."""
    others = Cluster.objects.for_organization(row.organization_id).counted()
    counts = others.aggregate(used=Count("pk"), namesakes=Count("pk", filter=Q(name=row.name)))
    limit = entitlements.plan_of(row.organization_id).max_clusters
    entitlements.require_below(limit, used=counts["used"], what="clusters")
    if counts["namesakes"]:
        raise _name_taken(row.name)


def _require_free_name(organization_id: UUID, name: str) -> None:
    if Cluster.objects.for_organization(organization_id).counted().filter(name=name).exists():
        raise _name_taken(name)


def _name_taken(name: str) -> InvalidSpec:
    return InvalidSpec(f"You have a cluster named “{name}” already. Choose another name.", field="name")


def foresee_creation(row: Cluster) -> tuple[StepKind, ...]:
    sight = ObservedCluster(
        release=_readiness(row.region, row.release), data=Work.ABSENT if row.data_epoch else Work.DONE
    )
    return planner.foresee(read.desired_of(row, lifecycle=Lifecycle.RUNNING), sight)


def _readiness(region: Region, release: Release) -> ReleaseState:
    """Where somebody has run a release before, it most likely needs no fetching."""
    known = Cluster.objects.filter(region=region, release=release, was_healthy=True).exists()
    return ReleaseState.READY if known else ReleaseState.ABSENT


def update_rule(
    name: str | None,
    stage: str | None,
    is_protected: bool | None,
    schedule: Schedule = Schedule(),
) -> WishRule:
    def rule(row: Cluster) -> Wish:
        fields: dict[str, Any] = _schedule_fields(row, schedule)
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


def _schedule_fields(row: Cluster, schedule: Schedule) -> dict[str, Any]:
    """What a new schedule sets; the first backup comes at once, the first drill with the first whole period."""
    fields: dict[str, Any] = {}
    for field, value in asdict(schedule).items():
        if value is not None and value != getattr(row, field):
            low, high = SCHEDULE_BOUNDS[field]
            if not low <= value <= high:
                raise InvalidSpec(f"{field} is a number from {low} to {high}; {value} is not.", field=field)
            fields[field] = value
    if "backup_every_hours" in fields:
        fields["backup_due_at"] = _now_of(row) if fields["backup_every_hours"] else None
    if (days := fields.get("drill_every_days")) is not None:
        fields["drill_due_at"] = _now_of(row) + timedelta(days=days) if days else None
    return fields


def suspend_rule(row: Cluster) -> Wish:
    trials.refuse_during_trial(row)
    fields = {"lifecycle": Lifecycle.SUSPENDED.value}
    return Wish(OperationKind.SUSPEND, fields, _changes(row, fields), _foresee(row, Lifecycle.SUSPENDED))


def resume_rule(row: Cluster) -> Wish:
    trials.refuse_during_trial(row)
    _require_licence(row.release, Stage(row.stage))
    fields = {"lifecycle": Lifecycle.RUNNING.value, "start_attempts": 0, "start_after": None}
    return Wish(OperationKind.RESUME, fields, _changes(row, fields), _foresee(row, Lifecycle.RUNNING))


def revoke_rule(row: Cluster) -> Wish:
    trials.refuse_during_trial(row)
    before = read.last_sight(row)
    epoch = tenancy.advance_audience(row.audience_id)
    row.audience.epoch = epoch
    lifecycle = Lifecycle(row.lifecycle)
    steps = planner.foresee(read.desired_of(row, lifecycle=lifecycle), before)
    return Wish(OperationKind.REVOKE_ACCESS, {}, {"access_epoch": [epoch - 1, epoch]}, steps)


def resize_rule(plan_type: str) -> WishRule:
    """Another size on the same partitions: more or fewer brokers, or brokers with more or less memory."""

    def rule(row: Cluster) -> Wish:
        trials.refuse_during_trial(row)
        size: PlanType = _named(PlanType, plan_type, "plan_type", is_offered=True)
        before = read.last_sight(row)
        was = row.plan_type
        if size.pk != was.pk:
            _require_same_partitions(row, size)
        row.plan_type = size
        steps = planner.foresee(read.desired_of(row, lifecycle=Lifecycle(row.lifecycle)), before)
        row.plan_type = was
        fields = {"plan_type": size, "start_attempts": 0, "start_after": None}
        return Wish(OperationKind.RESIZE, fields, _changes(row, fields), steps)

    return rule


def _require_same_partitions(row: Cluster, size: PlanType) -> None:
    kept = (row.partitions, row.plan_type.replication_factor)
    if kept == (size.partitions, size.replication_factor):
        return
    raise PathBlocked(
        f"The size “{size.slug}” has {_layout(size.brokers, size.partitions, size.replication_factor)}, and this "
        f"cluster was made with {_layout(row.plan_type.brokers, *kept)}. The engine fixes the number of partitions and "
        "their copies when a cluster is created. "
        + (
            "Start a new cluster of that size on a backup of this one: that may have another number of copies."
            if row.partitions == size.partitions
            else "Create a new cluster of that size and move your processes to it."
        ),
        field="plan_type",
    )


def upgrade_rule(version: str, *, without_backup: bool) -> WishRule:
    """A later release of the engine: a backup first, and a way back until it is well."""

    def rule(row: Cluster) -> Wish:
        if version == row.release_id and row.former_release_id is None:
            return Wish(OperationKind.UPGRADE, {}, {}, steps=())
        trials.refuse_during_trial(row)
        release = _release(row.channel, version)
        _require_path(row.release, release)
        _require_licence(release, Stage(row.stage))
        _require_available(row, "An upgrade begins with a healthy engine, which can go on serving until it is replaced")
        before, was = replace(read.last_sight(row), release=_readiness(row.region, release)), row.release
        row.release = release
        steps = planner.foresee(read.desired_of(row, lifecycle=Lifecycle.RUNNING), before)
        row.release = was
        fields = {"release": release, "former_release": was, **trials.BEGUN}
        changes = _changes(row, {"release": release})
        if without_backup:
            return Wish(OperationKind.UPGRADE, fields, changes, steps)
        return Wish(OperationKind.UPGRADE, fields, changes, (StepKind.TAKE_BACKUP, *steps), BackupReason.BEFORE_UPGRADE)

    return rule


def _require_path(present: Release, wished: Release) -> None:
    if present.pk in wished.upgrades_from:
        return
    paths = ", ".join(sorted(wished.upgrades_from)) or "no other release"
    raise PathBlocked(
        f"This cluster runs {present.pk}, and {wished.pk} can only follow {paths}. An engine's data never goes back to "
        "an earlier release.",
        field="release",
    )


def _require_available(row: Cluster, why: str) -> None:
    facts = from_json(row.conditions)
    if row.lifecycle != Lifecycle.RUNNING or not is_true(facts, ConditionType.AVAILABLE):
        raise NotAvailable(f"{why}; this one is not. Resume it, or wait until it is healthy.")


def backup_rule(reason: BackupReason) -> WishRule:
    """A backup now."""

    def rule(row: Cluster) -> Wish:
        trials.refuse_during_trial(row)
        _require_available(row, "Only a healthy engine can be backed up")
        _require_rest(row)
        number = next_backup_number(row)
        return Wish(OperationKind.BACK_UP, {}, {"backup": [None, number]}, (StepKind.TAKE_BACKUP,), reason)

    return rule


def _require_rest(row: Cluster) -> None:
    """A backup takes no other change's place: what is under way has to come to its end."""
    current = Operation.objects.filter(cluster=row, state__in=OPEN_STATES).first()
    if current is None:
        return
    if current.kind == OperationKind.BACK_UP:
        raise ChangeUnderWay("A backup of this cluster is being taken. Wait for its end, or call it off first.")
    raise ChangeUnderWay(
        f"The cluster is being changed ({current.kind.replace('_', ' ')}). Wait for the end of that, then back it up."
    )


def next_backup_number(row: Cluster) -> int:
    """Numbers have to rise, and one that failed is burnt: seconds of the epoch, or the one after the last.

    By the database server's clock, so that they rise even when this database was restored from an older copy.
    """
    last = Backup.objects.filter(cluster=row).aggregate(last=Max("number"))["last"] or 0
    return max(int(database_now().timestamp()), last + 1)


def restore_backup_rule(backup_id: UUID) -> WishRule:
    """A backup's data in place of the cluster's own, which is kept until all is well with the other."""

    def rule(row: Cluster) -> Wish:
        if not trials.has_failed_for_good(row):
            trials.refuse_during_trial(row)
        _require_licence(row.release, Stage(row.stage))
        backup = _usable_backup(row.organization_id, backup_id)
        _require_layout(backup, row.plan_type)
        _require_readable(backup, row.release)
        before = read.last_sight(row)
        stale = tuple(replace(broker, has_wished_data=False) for broker in before.brokers)
        fields = {
            "data_epoch": row.spec_generation + 1,
            "data_source": backup,
            "lifecycle": Lifecycle.RUNNING.value,
            "former_release": None,
            **trials.BEGUN,
        }
        steps = planner.foresee(
            read.desired_of(row, lifecycle=Lifecycle.RUNNING), replace(before, data=Work.ABSENT, brokers=stale)
        )
        return Wish(OperationKind.RESTORE_BACKUP, fields, _changes(row, fields), steps)

    return rule


def deletion_rule(purge: bool) -> WishRule:
    def rule(row: Cluster) -> Wish:
        if row.is_protected:
            raise DeletionProtected("This cluster is protected against deletion. Switch the protection off first.")
        window = timedelta(seconds=0 if purge else settings.UNDO_WINDOW_SECONDS)
        deletion = {"lifecycle": Lifecycle.DELETED.value, "delete_after": _now_of(row) + window}
        steps: tuple[StepKind, ...] = (StepKind.REMOVE, StepKind.CLOSE)
        if window:
            steps = (*_foresee(row, Lifecycle.SUSPENDED), StepKind.UNDO_WINDOW, *steps)
        settled = trials.settled_fields(row)
        changes = dict(_changes(row, deletion))
        if "lifecycle" in settled:
            changes["lifecycle"] = [settled["lifecycle"], Lifecycle.DELETED.value]
        return Wish(OperationKind.DELETE, settled | deletion, changes, steps)

    return rule


def restore_rule(row: Cluster) -> Wish:
    if row.lifecycle != Lifecycle.DELETED:
        raise NotCancellable("This cluster is not being deleted, so there is nothing to undo.")
    if row.delete_after is None or row.delete_after <= _now_of(row):
        raise AlreadyDeleting("The undo window of this deletion has closed: its data is being removed.")
    lock_organization(row.organization_id)
    _require_room(row)
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
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in _INWARD}


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return str(value.pk)
    return value.isoformat() if isinstance(value, datetime) else value


def _now_of(row: Cluster) -> datetime:
    """The database's time, which came with the locked row."""
    return cast(datetime, row.now)  # type: ignore[attr-defined]
