"""How a wish is taken back, and how a cluster is closed."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import F
from django.db.models.functions import Now

from provisioning import planner
from provisioning import selectors as read
from provisioning.models import Cluster, Operation
from provisioning.services.rules import Wish, WishRule
from provisioning.services.trials import withdrawn_fields
from provisioning.spec import Lifecycle
from provisioning.states import OperationKind, StepKind
from tenants import services as tenancy

# Changes whose former state is known and still there, so that they can be taken back.
WITHDRAWABLE = frozenset({OperationKind.RESIZE, OperationKind.UPGRADE, OperationKind.RESTORE_BACKUP})

# What cannot be undone once it is through.
_FINAL = frozenset({OperationKind.REVOKE_ACCESS, OperationKind.UPGRADE, OperationKind.RESTORE_BACKUP})

_WAYS_BACK: dict[OperationKind, str] = {
    OperationKind.CREATE: "Delete the cluster again.",
    OperationKind.UPDATE: "Change it back.",
    OperationKind.SUSPEND: "Resume it: its data stays.",
    OperationKind.RESUME: "Suspend it again.",
    OperationKind.RESTORE: "Delete it again.",
    OperationKind.REVOKE_ACCESS: "A token that was revoked stays worthless.",
    OperationKind.RESIZE: "Give it its former size again; its data stays.",
    OperationKind.BACK_UP: "Call it off, or delete the backup later. The engine and its data stay as they are.",
    OperationKind.RESTORE_BACKUP: (
        "What the cluster works on now is kept until the engine is healthy on the backup’s data. If it is not healthy "
        "in time, the cluster goes back by itself, and until then you can call the restore off. After that, whatever "
        "happened since the backup is gone for good."
    ),
}
_WAY_BACK_OF_UPGRADE = (
    "If the engine is not healthy on the new release in time, the cluster goes back by itself to the former release "
    "with the data it had; until it is healthy you can call the upgrade off. After that there is no way back: an "
    "engine’s data never goes back to an earlier release."
)
_WAY_BACK_OF_ROLLING_UPGRADE = (
    "You can call the upgrade off until the first broker has been replaced. From then on it only goes forward: if a "
    "broker is not healthy on the new release, the others go on serving, and you can try again."
)
_AFTER_BACKUP = " A new cluster on the former release can be started from the backup that is taken first."

WAY_OUT_OF_DRILL = "Call it off. The copy removes itself in any case, and nothing else is touched."

_TOUCHING = frozenset({StepKind.STOP_ENGINE, StepKind.START_ENGINE, StepKind.ROLL_BROKERS, StepKind.RESCALE})


def withdrawal_rule(operation: Operation, begun: Sequence[StepKind]) -> WishRule:
    """The change taken back; without steps when the engine was not touched yet."""

    def rule(row: Cluster) -> Wish:
        before = read.last_sight(row)
        fields = withdrawn_fields(operation)
        changes = {name: [pair[1], pair[0]] for name, pair in operation.changes.items()}
        for name, value in fields.items():
            setattr(row, name, value)
        steps: tuple[StepKind, ...] = ()
        if not _TOUCHING.isdisjoint(begun):
            steps = planner.foresee(read.desired_of(row, lifecycle=Lifecycle(row.lifecycle)), before)
        fields |= {"start_attempts": 0, "start_after": None}
        return Wish(OperationKind(operation.kind), fields, changes, steps)

    return rule


def is_reversible(kind: OperationKind, steps: Sequence[StepKind]) -> bool:
    """Whether a change can be undone when it is through."""
    return kind not in _FINAL and (kind is not OperationKind.DELETE or StepKind.UNDO_WINDOW in steps)


def way_back(kind: OperationKind, steps: Sequence[StepKind]) -> str:
    """How a change can be undone, and until when: one or more sentences."""
    match kind:
        case OperationKind.DELETE if StepKind.UNDO_WINDOW in steps:
            return "Restore the cluster while its undo window is open."
        case OperationKind.DELETE:
            return "Its data and its backups are removed at once."
        case OperationKind.UPGRADE:
            sentence = _WAY_BACK_OF_ROLLING_UPGRADE if StepKind.ROLL_BROKERS in steps else _WAY_BACK_OF_UPGRADE
            return sentence + (_AFTER_BACKUP if StepKind.TAKE_BACKUP in steps else "")
        case _:
            return _WAYS_BACK[kind]


def close_cluster(row: Cluster) -> None:
    """Turn a cluster's row into a tombstone, and fence off whatever turn is under way."""
    tenancy.close_audience(row.audience_id)
    Cluster.objects.filter(pk=row.pk).update(
        deleted_at=Now(),
        due_at=None,
        lease_expires_at=None,
        lease_epoch=F("lease_epoch") + 1,
        endpoint_grpc="",
        endpoint_rest="",
        hold="",
    )
