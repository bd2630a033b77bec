"""Backups and drills that come round by themselves. A period is claimed in the database, so that it runs once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Now

from common.errors import ControlPlaneError
from provisioning.errors import ChangeUnderWay, InMaintenance, NoPlace
from provisioning.models import Backup, Cluster, Operation
from provisioning.services import drills
from provisioning.services.wishes import back_up_cluster
from provisioning.spec import Lifecycle
from provisioning.statements import is_away
from provisioning.states import OPEN_STATES, BackupReason, BackupState
from tenants.actor import Actor, PrincipalKind
from tenants.roles import Permission

logger = logging.getLogger(__name__)

BATCH = 50

# What could not be begun is tried again so much later.
AGAIN_AFTER = timedelta(hours=1)

# A drill's copy that found no room, or does not come up, is given up.
DRILL_PATIENCE = timedelta(hours=1)


def start_due_backups() -> int:
    """Begin the backups whose time has come; a cluster that is busy with something else has its turn an hour later.

    Returns how many were begun.
    """
    due = _resting("backup_due_at").values("pk", "organization_id", "backup_every_hours", "backup_due_at")
    return sum(_alone(_start_backup, row, "backup_due_at") for row in due[:BATCH])


def _alone(start: Callable[[dict[str, Any]], bool], row: dict[str, Any], field: str) -> bool:
    """Begin what is due for one cluster; one that cannot be begun is nobody else's trouble, and waits for an hour."""
    try:
        return start(row)
    except Exception as error:  # a cluster's rim: whoever is due behind it must have its turn
        if is_away(error):
            raise
        logger.exception("what was due by a schedule was not begun", extra={"cluster_id": row["pk"]})
        Cluster.objects.filter(pk=row["pk"], **{field: row[field]}).update(**{field: Now() + AGAIN_AFTER})
        return False


@transaction.atomic
def _start_backup(row: dict[str, Any]) -> bool:
    """Claim the period and record the wish, both or neither: a kill in between would cost a night's backup."""
    following = Now() + timedelta(hours=row["backup_every_hours"])
    claimed = Cluster.objects.filter(pk=row["pk"], backup_due_at=row["backup_due_at"])
    if not claimed.update(backup_due_at=following):
        return False
    try:
        with transaction.atomic():
            back_up_cluster(actor=_clock(row), cluster_id=row["pk"], reason=BackupReason.SCHEDULED)
    except ControlPlaneError as error:
        logger.warning("a scheduled backup was not begun: %s", error.code, extra={"cluster_id": row["pk"]})
        Cluster.objects.filter(pk=row["pk"]).update(backup_due_at=Now() + AGAIN_AFTER)
        return False
    return True


def start_due_drills() -> int:
    """Begin the drills whose time has come, each on its cluster's newest backup. Returns how many were begun."""
    due = _resting("drill_due_at").values("pk", "organization_id", "drill_every_days", "drill_due_at")
    return sum(_alone(_start_drill, row, "drill_due_at") for row in due[:BATCH])


@transaction.atomic
def _start_drill(row: dict[str, Any]) -> bool:
    """Claim the period and record the wish, both or neither.

    While another drill is open it waits for an hour, not for its next period: clusters keep their order in that, and
    the last ones' backups would never be proven.
    """
    following = Now() + timedelta(days=row["drill_every_days"])
    claimed = Cluster.objects.filter(pk=row["pk"], drill_due_at=row["drill_due_at"])
    newest = Backup.objects.filter(cluster=row["pk"], state=BackupState.COMPLETED).order_by("-number").first()
    if not claimed.update(drill_due_at=following) or newest is None:
        return False
    try:
        with transaction.atomic():
            drills.drill_backup(actor=_clock(row), backup_id=newest.pk)
    except ControlPlaneError as error:
        logger.warning("a scheduled drill was not begun: %s", error.code, extra={"cluster_id": row["pk"]})
        if isinstance(error, ChangeUnderWay | NoPlace | InMaintenance):
            Cluster.objects.filter(pk=row["pk"]).update(drill_due_at=Now() + DRILL_PATIENCE)
        return False
    return True


def end_stale_drills() -> int:
    """Give up drills whose copy did not come up. Returns how many."""
    return sum(_end_stale(cluster_id) for cluster_id in list(_stale_copies().values_list("pk", flat=True)))


@transaction.atomic
def _end_stale(cluster_id: UUID) -> bool:
    """A turn may have found the copy healthy a moment ago: ask again under the row's lock."""
    row = _stale_copies().select_for_update(of=("self",), no_key=True).filter(pk=cluster_id).first()
    if row is None:
        return False
    drills.note_failure(row, "Its copy was not healthy within an hour.")
    return True


def _stale_copies() -> QuerySet[Cluster]:
    return drills.under_way().filter(created_at__lt=Now() - DRILL_PATIENCE, region__maintenance_since=None)


def _resting(field: str) -> Any:
    """Running clusters with nothing in progress whose `field` has come, longest due first; in maintenance they wait."""
    busy = Operation.objects.filter(cluster=OuterRef("pk"), state__in=OPEN_STATES)
    rows = Cluster.objects.live().filter(lifecycle=Lifecycle.RUNNING, hold="", drill_of=None)
    rows = rows.filter(region__maintenance_since=None)
    return rows.filter(~Exists(busy), **{f"{field}__lte": Now()}).order_by(F(field))


def _clock(row: dict[str, Any]) -> Actor:
    """The system, acting inside a cluster's organization because its schedule says so."""
    return Actor(
        kind=PrincipalKind.SYSTEM,
        principal_id="",
        label="Schedule",
        organization_id=row["organization_id"],
        permissions=frozenset({Permission.CLUSTERS_READ, Permission.CLUSTERS_WRITE}),
    )
