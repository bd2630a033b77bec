"""What a deletion removes, written on its operation before anything goes. It is true once the operation succeeded."""

from __future__ import annotations

from collections.abc import Sequence

from provisioning import selectors as read
from provisioning.models import Backup, Operation, OperationStep
from provisioning.placement import minute
from provisioning.states import BackupState, StepKind


def note_receipt(subject: read.TurnSubject, belongings: Sequence[str]) -> None:
    """Write down what the region has of a cluster, and what becomes of its backups. The first note is the whole one.

    Three statements. For the turn that is about to remove the cluster; without an operation there is nobody to tell.
    """
    row, operation_id = subject.row, subject.open_operation_id
    if operation_id is None:
        return
    steps = OperationStep.objects.filter(operation=operation_id, kind=StepKind.UNDO_WINDOW)
    stored = Backup.objects.filter(cluster=row, state__in=(BackupState.COMPLETED, BackupState.FAILED))
    backups = [f"Backup {one.number} of {minute(one.created_at)}" for one in stored.order_by("number")]
    is_kept = row.drill_of_id is not None or steps.exists()
    receipt = {"removed": [*belongings, *([] if is_kept else backups)], "kept": backups if is_kept else []}
    Operation.objects.filter(pk=operation_id, receipt__isnull=True).update(receipt=receipt)
