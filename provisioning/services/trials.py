"""A new release, or restored data, on trial: until it is well, what was before can be wished again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from provisioning import selectors as read
from provisioning.errors import ChangeUnderWay, Fenced
from provisioning.models import Cluster, Operation
from provisioning.states import OperationKind, OperationState

# A new release, or restored data, that is not well by then is taken back. Half a minute is usual; an engine that
# replays a long log needs minutes.
TRIAL = timedelta(minutes=15)

# What it begins with: every failed start from here on is its own.
BEGUN: Mapping[str, Any] = {"is_on_trial": True, "trial_ends_at": None, "start_attempts": 0, "start_after": None}

_OVER: Mapping[str, Any] = {"is_on_trial": False, "trial_ends_at": None}


def refuse_during_trial(row: Cluster) -> None:
    """Only one thing at a time is on trial, and nothing else is changed meanwhile: the way back must stay known.

    Raises:
        ChangeUnderWay: an upgrade or a restore has to end first.
    """
    if row.former_release_id is not None:
        raise ChangeUnderWay(
            f"The upgrade from {row.former_release_id} to {row.release_id} is under way. Wait for its end, or call it "
            "off first."
        )
    if row.is_on_trial:
        raise ChangeUnderWay("A backup is being restored into this cluster. Wait for its end, or call it off first.")


def has_failed_for_good(row: Cluster) -> bool:
    """Whether an upgrade failed from which there is no way back, so that a backup is what is left."""
    upgrade = _tried_operation(row) if row.former_release_id is not None else None
    return upgrade is not None and upgrade.state == OperationState.FAILED and not read.can_cancel(upgrade)


def withdrawn_fields(operation: Operation) -> dict[str, Any]:
    """The cluster's fields as they were before this change, from the change's own record."""
    before = {name: pair[0] for name, pair in operation.changes.items()}
    match OperationKind(operation.kind):
        case OperationKind.UPGRADE:
            return {"release_id": before["release"], "former_release_id": None, **_OVER}
        case OperationKind.RESTORE_BACKUP:
            # A record has what changed: a cluster may be restored from the same backup once more.
            names = {"data_epoch": "data_epoch", "data_source": "data_source_id", "lifecycle": "lifecycle"}
            return {**{field: before[name] for name, field in names.items() if name in before}, **_OVER}
        case _:
            return {"plan_type_id": before["plan_type"]}


def settled_fields(row: Cluster) -> dict[str, Any]:
    """What ends the trial of a cluster that is to be deleted, so that undoing the deletion finds something whole.

    What was before is wished again where it can be; what it cannot be taken back from stays.
    """
    if not row.is_on_trial and row.former_release_id is None:
        return {}
    operation = _tried_operation(row)
    if operation is None or not read.can_withdraw(operation):
        return {"former_release_id": None, **_OVER}
    return withdrawn_fields(operation)


def end_trial(row: Cluster) -> None:
    """Give up the way back, before what is kept for it is removed. For the turn that holds the row's lease.

    Raises:
        Fenced: another turn, or a new wish, has taken over.
    """
    if row.is_on_trial and not Cluster.objects.filter(pk=row.pk, lease_epoch=row.lease_epoch).update(**_OVER):
        raise Fenced("A newer wish has taken this turn's place.")


def _tried_operation(row: Cluster) -> Operation | None:
    tried = Operation.objects.filter(cluster=row, kind__in=read.TRIED).select_related("cluster")
    return tried.order_by("-created_at").first()
