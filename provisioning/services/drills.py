"""Restore drills: a throw-away cluster is started on a backup, and what that took is kept with the backup."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from common.errors import NotFound
from provisioning.errors import BackupNotUsable, ChangeUnderWay, InMaintenance
from provisioning.models import Backup, Cluster, Operation, Region
from provisioning.services import backups
from provisioning.services.operations import make_due, open_operation, supersede_operations
from provisioning.services.placing import require_room
from provisioning.services.rules import foresee_creation
from provisioning.spec import Lifecycle
from provisioning.states import BackupState, OperationKind, Stage, StepKind
from tenants import audit
from tenants import services as tenancy
from tenants.actor import SYSTEM, Actor
from tenants.roles import Permission
from tenants.services.organizations import lock_organization

# Who wants a drill in a region in maintenance is told to ask again after so long.
MAINTENANCE_SECONDS = 60.0


@transaction.atomic
def drill_backup(*, actor: Actor, backup_id: UUID) -> Operation:
    """Prove a backup: start a copy of it, wait until it is healthy, note how long that took, and remove the copy.

    The copy takes no place of the plan's and nobody has access to it. So an organization has one at a time.

    Raises:
        NotFound: no such backup in the organization.
        BackupNotUsable: it is not complete.
        ChangeUnderWay: it, or another one, is being proven already.
        NoPlace: its region is full.
        InMaintenance: its region is in maintenance, so that nothing could be measured there.
    """
    actor.require(Permission.CLUSTERS_WRITE)
    lock_organization(actor.organization)
    rows = Backup.objects.for_organization(actor.organization).filter(pk=backup_id)
    region_id = rows.values_list("cluster__region_id", flat=True).first()
    if region_id is None:
        raise NotFound("There is no such backup in this organization.")
    _require_untouched(require_room(region_id))
    locked = rows.select_for_update(of=("self",), no_key=True)
    backup = locked.select_related("cluster__plan_type", "release").get()
    if backup.state != BackupState.COMPLETED:
        raise BackupNotUsable("Only a complete backup can be proven.")
    _require_no_other(backup)
    row = _copy_of(backup)
    row.audience = tenancy.open_audience(organization_id=row.organization_id, audience_id=row.pk)
    row.save(force_insert=True)
    changes = {"data_source": [None, str(backup.pk)]}
    operation = open_operation(actor, row, OperationKind.CREATE, foresee_creation(row), changes)
    audit.record(actor, action="backup.drill_requested", target=backup)
    return operation


def _require_untouched(region: Region) -> None:
    if region.maintenance_since is not None:
        raise InMaintenance(
            f"The region “{region.name}” is in maintenance, so a drill could not tell how soon an engine is back. "
            "Prove the backup afterwards.",
            retry_after_seconds=MAINTENANCE_SECONDS,
        )


def _require_no_other(backup: Backup) -> None:
    """Under the organization's lock."""
    copies = Cluster.objects.for_organization(backup.organization_id).live().filter(drill_of__isnull=False)
    if copies.filter(drill_of=backup).exists():
        raise ChangeUnderWay("This backup is being proven already.")
    if copies.exists():
        raise ChangeUnderWay(
            "Another backup of your organization is being proven, and only one is at a time: wait until its copy is "
            "removed, or call it off."
        )


def _copy_of(backup: Backup) -> Cluster:
    source = backup.cluster
    return Cluster(
        organization_id=backup.organization_id,
        # Names are unique among an organization's clusters: nobody can have taken this one, or guess it.
        name=f"drill {uuid4().hex}",
        stage=Stage.TEST.value,
        region_id=source.region_id,
        plan_type=source.plan_type,
        channel_id=source.channel_id,
        release=backup.release,
        partitions=backup.partitions,
        data_epoch=1,
        data_source=backup,
        drill_of=backup,
    )


def conclude(row: Cluster, now: datetime) -> None:
    """The copy is healthy: note what the drill showed, and have the copy removed."""
    assert row.drill_of_id is not None, "only of a drill's copy"
    backup = Backup.objects.get(pk=row.drill_of_id)
    backups.note_drill(
        backup.pk,
        recovery_seconds=(now - row.created_at).total_seconds(),
        taken_before_seconds=(row.created_at - backup.created_at).total_seconds(),
    )
    end(row)


def under_way() -> QuerySet[Cluster]:
    """Copies that are to become healthy, or are and were not yet seen to be."""
    return Cluster.objects.live().filter(drill_of__isnull=False).exclude(lifecycle=Lifecycle.DELETED)


def call_off(region: Region) -> None:
    """The region was in maintenance meanwhile: what these drills would measure is worthless, and nobody has failed.

    A cluster whose backups are proven by a rhythm has its turn again soon.
    """
    for row in under_way().filter(region=region).select_for_update(of=("self",), no_key=True):
        end(
            row,
            error_code="cancelled",
            sentence="It was called off: the region was in maintenance meanwhile, and that would have been measured.",
        )
        Cluster.objects.filter(backups=row.drill_of_id, drill_every_days__gt=0).update(drill_due_at=Now())


def end(row: Cluster, *, error_code: str = "superseded", sentence: str = "The drill is over.") -> Operation:
    """Have a drill's copy removed; what is said of the operation that is in progress, if there is one."""
    Cluster.objects.filter(pk=row.pk).update(
        lifecycle=Lifecycle.DELETED.value, delete_after=Now(), spec_generation=F("spec_generation") + 1
    )
    row.refresh_from_db(fields=["lifecycle", "spec_generation"])
    make_due(row)
    supersede_operations(row, error_code=error_code, sentence=sentence)
    return open_operation(SYSTEM, row, OperationKind.DELETE, (StepKind.REMOVE, StepKind.CLOSE), {})


def note_failure(row: Cluster, sentence: str) -> None:
    """The copy could not be started: that is what the backup is worth, and the copy is removed."""
    assert row.drill_of_id is not None, "only of a drill's copy"
    Backup.objects.filter(pk=row.drill_of_id).update(
        verified_at=None, recovery_seconds=None, loss_seconds=None, error_message=f"The last drill failed. {sentence}"
    )
    end(row)
