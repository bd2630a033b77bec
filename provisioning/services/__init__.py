"""Everything that changes clusters and operations: what people wish, and what turns found."""

from __future__ import annotations

from provisioning.services.turns import TurnOutcome, record_turn
from provisioning.services.wishes import (
    Preview,
    cancel_operation,
    create_cluster,
    preview,
    request_deletion,
    restore_cluster,
    resume_cluster,
    retry_operation,
    revoke_access,
    suspend_cluster,
    update_cluster,
)

__all__ = [
    "Preview",
    "TurnOutcome",
    "cancel_operation",
    "create_cluster",
    "preview",
    "record_turn",
    "request_deletion",
    "restore_cluster",
    "resume_cluster",
    "retry_operation",
    "revoke_access",
    "suspend_cluster",
    "update_cluster",
]
