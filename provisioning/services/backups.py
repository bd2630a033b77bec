"""Backups as rows: wanted, completed, given up, no longer kept; and the drills that prove them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import CharField, Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Cast, Now

from common.errors import NotFound
from provisioning.errors import BackupNotUsable, ChangeUnderWay
from provisioning.models import Backup, Cluster, Leftover
from provisioning.services import leftovers
from provisioning.services.rules import next_backup_number
from provisioning.states import BackupReason, BackupState, LeftoverKind
from tenants import audit
from tenants.actor import Actor
from tenants.roles import Permission


def want_backup(row: Cluster, reason: BackupReason) -> Backup:
    """Record that a backup is to be taken; the loop has the engine take it. `row` came locked, with `now`."""
    if Backup.objects.filter(cluster=row, state=BackupState.WANTED).exists():
        raise ChangeUnderWay("A backup of this cluster is being taken. Wait for its end, or call it off first.")
    release = row.former_release or row.release
    return Backup.objects.create(
        organization_id=row.organization_id,
        cluster=row,
        number=next_backup_number(row),
        reason=reason.value,
        release=release,
        brokers=row.plan_type.brokers,
        partitions=row.partitions,
        replication_factor=row.plan_type.replication_factor,
    )


def complete_wanted(row: Cluster) -> None:
    """The engine says that the wanted backup is whole. Those beyond the number that is kept are removed.

    The last one that was proven stays: until another is, it is the one that is known to be worth something.
    """
    wanted = Backup.objects.filter(cluster=row, state=BackupState.WANTED)
    wanted.update(state=BackupState.COMPLETED, finished_at=Now())
    whole = Backup.objects.filter(cluster=row, state=BackupState.COMPLETED).order_by("-number")
    proven = whole.filter(verified_at__isnull=False).order_by("-verified_at").values_list("pk", flat=True)[:1]
    scheduled = whole.filter(reason=BackupReason.SCHEDULED).values_list("pk", flat=True)
    surplus = set(scheduled[row.backups_kept :]) - set(proven)
    Backup.objects.filter(pk__in=surplus).update(state=BackupState.REMOVING)


def give_up_wanted(row: Cluster, sentence: str) -> None:
    """The wanted backup will not be taken; whatever was written of it is removed from the store."""
    for backup in Backup.objects.filter(cluster=row, state=BackupState.WANTED):
        backup.state, backup.finished_at, backup.error_message = BackupState.FAILED, Now(), sentence
        backup.save(update_fields=["state", "finished_at", "error_message"])
        leftovers.record_backup(row, backup.number)


@transaction.atomic
def delete_backup(*, actor: Actor, backup_id: UUID) -> Backup:
    """Have a backup removed from the store.

    Raises:
        NotFound: no such backup in the actor's organization.
        BackupNotUsable: something is being started on it, or it is gone already.
    """
    actor.require(Permission.CLUSTERS_DELETE)
    rows = Backup.objects.for_organization(actor.organization).select_for_update(of=("self",), no_key=True)
    backup = rows.filter(pk=backup_id).first()
    if backup is None:
        raise NotFound("There is no such backup in this organization.")
    if backup.state not in (BackupState.COMPLETED, BackupState.FAILED):
        raise BackupNotUsable("This backup is being taken or removed: wait for the end of that.")
    if _readers_of(backup).exists():
        raise BackupNotUsable("A cluster is being started on this backup: wait until it is healthy.")
    backup.state = BackupState.REMOVING
    backup.save(update_fields=["state"])
    audit.record(actor, action="backup.deletion_requested", target=backup)
    return backup


def _readers_of(backup: Any) -> QuerySet[Cluster]:
    """Clusters for which data is still being fetched out of a backup."""
    return Cluster.objects.live().filter(Q(is_on_trial=True) | Q(was_healthy=False), data_source=backup)


def purge_backups(row: Cluster) -> None:
    """Remove every backup of a cluster that was deleted without an undo window."""
    kept = Backup.objects.filter(cluster=row, state__in=(BackupState.COMPLETED, BackupState.FAILED))
    kept.update(state=BackupState.REMOVING)


def due_removals(limit: int, *, but_not: Collection[str] = ()) -> list[Backup]:
    """Backups whose removal is to be tried for the first time, in all regions but those named. One query.

    Whatever the reason, those that are being read wait. What did not go at the first try is the ledger's.
    """
    handed_over = Leftover.objects.filter(
        kind=LeftoverKind.BACKUP,
        cluster_id=OuterRef("cluster_id"),
        reference=Cast(OuterRef("number"), CharField()),
        ended_at=None,
    )
    rows = Backup.objects.filter(~Exists(handed_over), ~Exists(_readers_of(OuterRef("pk"))), state=BackupState.REMOVING)
    rows = rows.exclude(cluster__region__in=but_not).select_related("cluster__region")
    return list(rows.order_by("created_at")[:limit])


def note_removed(backup: Backup) -> None:
    """Nothing of it is left in the store."""
    Backup.objects.filter(pk=backup.pk, state=BackupState.REMOVING).update(state=BackupState.REMOVED)


def note_drill(backup_id: UUID, *, recovery_seconds: float, taken_before_seconds: float) -> None:
    """A copy of this backup was started and found healthy."""
    Backup.objects.filter(pk=backup_id).update(
        verified_at=Now(),
        recovery_seconds=recovery_seconds,
        loss_seconds=taken_before_seconds,
        error_message="",
    )
