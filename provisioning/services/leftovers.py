"""The ledger of what is in a region and no wish stands for: recorded, looked at, adopted or removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from common.errors import Conflict, NotFound
from provisioning.backends.base import Find
from provisioning.models import Backup, Channel, Cluster, Leftover, PlanType, Region, Release
from provisioning.spec import Lifecycle
from provisioning.states import BackupReason, BackupState, Hold, LeftoverKind, LeftoverState
from tenants import audit
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.models import Organization

# The engine may still be writing a backup that was given up; what it writes after a removal would be left for good.
BACKUP_SETTLES = timedelta(minutes=10)
MAX_BACKOFF_SECONDS = 3600

# An inventory may have passed a cluster's place before the cluster was made.
FIRST_SEEN = timedelta(minutes=2)

# What gets on by itself, bit by bit, is looked at again this soon.
GETTING_ON = timedelta(seconds=5)

# The words that an inventory has for what lies in a region's store.
IN_STORE = "Backups in the region's store."


def record_forced(row: Cluster, *, by: str) -> None:
    """A deletion was ended before the region said that nothing is left."""
    _record(row, LeftoverKind.CLUSTER, reason=f"The deletion was ended by force by {by}.")
    record_copied(row)


def record_backup(row: Cluster, number: int, *, reason: str = "The backup was given up.") -> None:
    """A backup was given up; the engine may have written some of it."""
    _record(row, LeftoverKind.BACKUP, reason=reason, reference=str(number), due_at=Now() + BACKUP_SETTLES)


def record_copied(row: Cluster) -> None:
    """A cluster was started on another's backup: the copied log says that this backup is to be taken.

    So the copy takes it again by itself, under its own name (camunda/camunda #12623). Numbers are unique within a
    cluster only: one of its own with that number is a good backup, and stays.
    """
    source = row.data_source
    if source is None or source.cluster_id == row.pk:
        return
    own = Backup.objects.filter(cluster=row, number=source.number).exclude(state=BackupState.REMOVED)
    if not own.exists():
        record_backup(row, source.number, reason="The copy of a cluster took it again by itself.")


def hand_over(backup: Backup, sentence: str = "") -> None:
    """A backup did not go at the first try: from here on the ledger has it removed, ever more slowly.

    Without a sentence it was not refused, there is only more of it than goes at once.
    """
    _record(
        backup.cluster,
        LeftoverKind.BACKUP,
        reason="The backup is not kept any more.",
        reference=str(backup.number),
        due_at=Now() + (_backoff(1) if sentence else GETTING_ON),
        error_message=sentence,
        attempts=1 if sentence else 0,
    )


def _record(
    row: Cluster, kind: LeftoverKind, *, reason: str, reference: str = "", due_at: Any = None, **more: Any
) -> None:
    _enter(
        row.region_id,
        kind,
        row.pk,
        reference,
        organization_id=row.organization_id,
        state=LeftoverState.REMOVING.value,
        reason=reason,
        due_at=due_at or Now(),
        **more,
    )


def _enter(region_id: str, kind: LeftoverKind, cluster_id: UUID, reference: str = "", **content: Any) -> bool:
    """Make an entry, unless one of the same thing is open already; whether it is new."""
    _, is_new = Leftover.objects.get_or_create(
        region_id=region_id,
        kind=kind.value,
        cluster_id=cluster_id,
        reference=reference,
        ended_at=None,
        defaults=content,
    )
    return is_new


def note_missing(region: Region, finds: Iterable[Find]) -> int:
    """Enter clusters that are wished in a region and were there, and of which nothing was found; end what is over.

    Returns how many entries are new. Three statements when nothing is missing.
    """
    there = {find.cluster_id for find in finds if set(find.parts) != {IN_STORE}}
    wished = Cluster.objects.live().filter(
        region=region,
        was_healthy=True,
        lifecycle__in=(Lifecycle.RUNNING, Lifecycle.SUSPENDED),
        created_at__lt=Now() - FIRST_SEEN,
    )
    organizations = dict(wished.exclude(pk__in=there).values_list("pk", "organization_id"))
    entries = Leftover.objects.filter(region=region, kind=LeftoverKind.LOSS, ended_at=None)
    entries.exclude(cluster_id__in=organizations).update(state=LeftoverState.SETTLED, ended_at=Now())
    known = set(entries.values_list("cluster_id", flat=True))
    return sum(
        _enter(
            region.pk,
            LeftoverKind.LOSS,
            cluster_id,
            organization_id=organizations[cluster_id],
            state=LeftoverState.MISSING.value,
            reason="It is wished here and has been here, and nothing of it was found.",
        )
        for cluster_id in organizations.keys() - known
    )


def note_finds(region: Region, finds: Iterable[Find]) -> int:
    """Bring a region's ledger up to date with what was found there. Returns how many entries are new."""
    found = {find.cluster_id: find for find in finds}
    wished = set(Cluster.objects.live().filter(pk__in=found).values_list("pk", flat=True))
    stored = _with_known_backups(cluster_id for cluster_id, find in found.items() if set(find.parts) == {IN_STORE})
    found = {cluster_id: find for cluster_id, find in found.items() if cluster_id not in wished | stored}
    entries = {entry.cluster_id: entry for entry in _open(region, LeftoverKind.CLUSTER)}
    fresh = 0
    for cluster_id, find in found.items():
        content: dict[str, Any] = {
            "card": dict(find.card) | {"epoch": str(find.epoch)},
            "found": list(find.parts),
            "since": find.since,
        }
        if cluster_id in entries:
            Leftover.objects.filter(pk=entries[cluster_id].pk, ended_at=None).update(**content)
            continue
        fresh += _enter(
            region.pk,
            LeftoverKind.CLUSTER,
            cluster_id,
            organization_id=_organization_named(find.card),
            state=LeftoverState.FOUND.value,
            reason="It was found in the region, and no cluster of ours is there.",
            **content,
        )
    vanished = Leftover.objects.filter(pk__in=[entry.pk for key, entry in entries.items() if key not in found])
    vanished.filter(state=LeftoverState.FOUND).update(state=LeftoverState.GONE, ended_at=Now(), due_at=None)
    # Only the removal itself, which fences the cluster off for good, is its end.
    vanished.filter(state=LeftoverState.REMOVING).exclude(found=[]).update(found=[], due_at=Now())
    return fresh


def _with_known_backups(cluster_ids: Iterable[UUID]) -> set[UUID]:
    """Those of which a backup is kept, or is being removed. Two queries."""
    asked = list(cluster_ids)
    kept = Backup.objects.filter(cluster__in=asked).exclude(state=BackupState.REMOVED)
    leaving = Leftover.objects.filter(kind=LeftoverKind.BACKUP, cluster_id__in=asked, ended_at=None)
    return {*kept.values_list("cluster_id", flat=True), *leaving.values_list("cluster_id", flat=True)}


def has_unknown_backups(entry: Leftover) -> bool:
    """Whether backups were seen of it that nobody here knows by their numbers, without which none can be removed."""
    return IN_STORE in entry.found and not _with_known_backups([entry.cluster_id])


def _open(region: Region, kind: LeftoverKind) -> list[Leftover]:
    return list(Leftover.objects.filter(region=region, kind=kind, ended_at=None))


def _organization_named(card: Mapping[str, Any]) -> UUID | None:
    try:
        wanted = UUID(str(card.get("organization", "")))
    except ValueError:
        return None
    return wanted if Organization.objects.filter(pk=wanted).exists() else None


def claim_due(limit: int, *, ttl: timedelta, but_not: Collection[str] = ()) -> list[Leftover]:
    """Take removals whose time has come, for `ttl`, in all regions but those named; several clocks may call this."""
    taken = []
    due = Leftover.objects.filter(state=LeftoverState.REMOVING, due_at__lte=Now()).select_related("region")
    for entry in due.exclude(region__in=but_not).order_by("due_at")[:limit]:
        if Leftover.objects.filter(pk=entry.pk, due_at=entry.due_at).update(due_at=Now() + ttl):
            taken.append(entry)
    return taken


@transaction.atomic
def note_gone(entry: Leftover) -> None:
    """The region says that nothing of it is left."""
    if entry.kind == LeftoverKind.BACKUP:
        removed = Backup.objects.filter(cluster=entry.cluster_id, number=int(entry.reference))
        removed.filter(state=BackupState.REMOVING).update(state=BackupState.REMOVED)
    Leftover.objects.filter(pk=entry.pk).update(
        state=LeftoverState.GONE, ended_at=Now(), due_at=None, error_message="", attempts=F("attempts") + 1
    )


def note_remaining(entry: Leftover, sentence: str) -> None:
    """It did not go; another try follows, ever more slowly."""
    wait = _backoff(entry.attempts + 1)
    Leftover.objects.filter(pk=entry.pk).update(due_at=Now() + wait, error_message=sentence, attempts=F("attempts") + 1)


def note_getting_on(entry: Leftover) -> None:
    """Some of it is gone, and the rest follows soon."""
    sentence = "The region is removing it."
    Leftover.objects.filter(pk=entry.pk).update(due_at=Now() + GETTING_ON, error_message=sentence)


def _backoff(attempts: int) -> timedelta:
    return timedelta(seconds=min(MAX_BACKOFF_SECONDS, 2 ** min(attempts, 12)))


@transaction.atomic
def remove(*, actor: Actor, leftover_id: UUID) -> Leftover:
    """Have a found thing removed: its engine is ended and its data is gone for good. For operators.

    Raises:
        NotFound, Conflict: it is not there any more, or is being removed already.
    """
    entry = _found(leftover_id)
    entry.state, entry.due_at = LeftoverState.REMOVING.value, Now()
    entry.save(update_fields=["state", "due_at"])
    audit.record(actor, action="operator.leftover.removal_requested", target=entry)
    return entry


@transaction.atomic
def adopt(*, actor: Actor, leftover_id: UUID) -> Cluster:
    """Make the row again of a cluster that was found, from its card. For operators; the engine is not touched.

    The card is as old as the engine's last start. So the cluster is held until a turn finds that nothing is to be done
    for it, or an operator has looked.

    Raises:
        NotFound, Conflict: it is not there any more, its card does not say enough, or its id was deleted here.
    """
    entry = _found(leftover_id)
    row = _from_card(entry)
    row.audience = tenancy.open_audience(
        organization_id=row.organization_id, audience_id=row.pk, epoch=_audience_epoch(entry.card)
    )
    row.save(force_insert=True)
    if row.data_source is not None and row.data_source._state.adding:
        row.data_source.save(force_insert=True)
    entry.state, entry.ended_at, entry.due_at = LeftoverState.ADOPTED.value, Now(), None
    entry.organization_id = row.organization_id
    entry.save(update_fields=["state", "ended_at", "due_at", "organization_id"])
    audit.record(actor, action="operator.leftover.adopted", target=row)
    return row


def adoption_of(entry: Leftover) -> tuple[Cluster | None, str]:
    """What adopting would make, or the sentence why it cannot be. A few queries, nothing written."""
    try:
        return _from_card(entry), ""
    except Conflict as error:
        return None, error.message


def _found(leftover_id: UUID) -> Leftover:
    entry = Leftover.objects.select_for_update(of=("self",), no_key=True).filter(pk=leftover_id).first()
    if entry is None:
        raise NotFound("There is no such entry in the ledger.")
    if entry.state == LeftoverState.MISSING:
        raise Conflict("Nothing of this cluster is in the region, so there is nothing to adopt or to remove.")
    if entry.state != LeftoverState.FOUND:
        raise Conflict("This entry does not wait for anybody any more: it is being removed, or it is gone.")
    return entry


def _from_card(entry: Leftover) -> Cluster:
    card = entry.card
    if Cluster.objects.filter(pk=entry.cluster_id).exists():
        raise Conflict("A cluster of this id was deleted here; what is left of it can only be removed.")
    if card.get("drill"):
        raise Conflict("It is a copy that proved a backup, and nobody's cluster otherwise; it can only be removed.")
    named = _organization_named(card)
    organization = Organization.objects.filter(pk=named).first() if named else None
    if organization is None:
        raise Conflict("Its card names no organization that is known here; what is there can only be removed.")
    try:
        row = Cluster(
            pk=entry.cluster_id,
            organization=organization,
            name=_free_name(organization, str(card["name"])),
            stage=card["stage"],
            region_id=entry.region_id,
            plan_type=PlanType.objects.get(pk=card["plan_type"]),
            channel=Channel.objects.get(pk=card["channel"]),
            release=Release.objects.get(pk=card["release"]),
            partitions=int(card["partitions"]),
            data_epoch=int(card["data_epoch"]),
            spec_generation=int(card.get("spec_generation", 0)) + 1,
            lease_epoch=int(card.get("epoch", 0)) + 1,
            was_healthy=True,
            lifecycle=_lifecycle_on(card),
            hold=Hold.SET_BACK.value,
        )
    except (KeyError, ValueError, PlanType.DoesNotExist, Channel.DoesNotExist, Release.DoesNotExist) as error:
        raise Conflict(f"Its card does not say enough to make the cluster's row again ({error!r}).") from error
    row.data_source = _source_on(card, row) if row.data_epoch else None
    return row


def _lifecycle_on(card: Mapping[str, Any]) -> str:
    """What was not wished to run is not started; a deletion was forgotten with the row, and can be asked for again."""
    is_at_rest = card.get("lifecycle") in (Lifecycle.SUSPENDED, Lifecycle.DELETED)
    return Lifecycle.SUSPENDED.value if is_at_rest else Lifecycle.RUNNING.value


def _source_on(card: Mapping[str, Any], row: Cluster) -> Backup:
    """The backup that the cluster's data began with: under another one's name its data is not what is wished.

    Of one that is not known any more the row is made again, not saved: nobody can say whether it is whole.

    Raises:
        Conflict: the card does not name it, or it is of a cluster that is not known here.
    """
    try:
        of, number = str(card.get("data_source", "")).split("/")
        cluster_id, backup_number = UUID(of), int(number)
    except ValueError as error:
        raise Conflict(
            "Its card does not name the backup that its data began with, so it cannot be told from other data. Its "
            "engine goes on as it is."
        ) from error
    rows = Backup.objects.for_organization(row.organization_id)
    known = rows.filter(cluster=cluster_id, number=backup_number).first()
    if known is not None:
        return known
    clusters = Cluster.objects.for_organization(row.organization_id)
    cluster = row if cluster_id == row.pk else clusters.filter(pk=cluster_id).first()
    if cluster is None:
        raise Conflict(
            f"Its data began with a backup of the cluster {cluster_id}, which is not known here: adopt that one first. "
            "Until then its engine goes on as it is."
        )
    return Backup(
        organization_id=row.organization_id,
        cluster=cluster,
        number=backup_number,
        reason=BackupReason.ASKED_FOR.value,
        state=BackupState.FAILED.value,
        release=row.release,
        brokers=row.plan_type.brokers,
        partitions=row.partitions,
        replication_factor=row.plan_type.replication_factor,
        finished_at=Now(),
        error_message="What was known of this backup was lost, and nobody can say whether it is whole.",
    )


def _free_name(organization: Organization, name: str) -> str:
    taken = Cluster.objects.for_organization(organization.pk).counted().filter(name=name).exists()
    return f"{name[:40]} (adopted)" if taken else name


def _audience_epoch(card: Mapping[str, Any]) -> int:
    return int(str(card.get("audience", "/1")).rpartition("/")[2] or 1)
