"""Everything that changes clusters and operations: what people wish, and what turns found."""

from __future__ import annotations

from provisioning.services.backups import delete_backup
from provisioning.services.drills import drill_backup
from provisioning.services.installation import note_act
from provisioning.services.receipts import note_receipt
from provisioning.services.trials import end_trial
from provisioning.services.turns import TurnOutcome, record_turn
from provisioning.services.wishes import (
    Preview,
    back_up_cluster,
    cancel_operation,
    create_cluster,
    force_operation,
    preview,
    preview_backup_deletion,
    request_deletion,
    resize_cluster,
    restore_backup,
    restore_cluster,
    resume_cluster,
    retry_operation,
    revoke_access,
    suspend_cluster,
    update_cluster,
    upgrade_cluster,
)

__all__ = [
    "Preview",
    "TurnOutcome",
    "back_up_cluster",
    "cancel_operation",
    "create_cluster",
    "delete_backup",
    "drill_backup",
    "end_trial",
    "force_operation",
    "note_act",
    "note_receipt",
    "preview",
    "preview_backup_deletion",
    "record_turn",
    "request_deletion",
    "resize_cluster",
    "restore_backup",
    "restore_cluster",
    "resume_cluster",
    "retry_operation",
    "revoke_access",
    "suspend_cluster",
    "update_cluster",
    "upgrade_cluster",
]
