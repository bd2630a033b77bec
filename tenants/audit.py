"""The audit trail: one event for each change, in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db.models import Model

from tenants.actor import Actor
from tenants.models import AuditEvent

Changes = Mapping[str, Sequence[Any]]


def record(actor: Actor, *, action: str, target: Model, changes: Changes | None = None) -> None:
    """Write who did what to what. One statement; call it inside the change's transaction.

    The event belongs to the target's organization, or to the actor's when the target has none; without either it is
    about the person's own account.

    Args:
        action: `noun.verb_in_past`, such as `cluster.created`.
        changes: field name -> (before, after). Never a secret, never workflow data.
    """
    record_about(
        actor,
        action=action,
        target_kind=str(target._meta.model_name),
        target_id=str(target.pk),
        organization_id=_organization_of(target) or actor.organization_id,
        changes=changes,
    )


def record_about(
    actor: Actor,
    *,
    action: str,
    target_kind: str,
    target_id: str,
    organization_id: UUID | None = None,
    changes: Changes | None = None,
) -> None:
    """Write who did what to something that is no row of ours, such as a backup. Otherwise as `record`."""
    AuditEvent.objects.create(
        organization_id=organization_id,
        actor_kind=actor.kind.value,
        actor_id=actor.principal_id,
        actor_label=actor.label,
        source_address=actor.source_address,
        request_id=actor.request_id,
        action=action,
        target_kind=target_kind,
        target_id=target_id,
        changes={field: [_plain(value) for value in pair] for field, pair in (changes or {}).items()},
    )


def _organization_of(target: Model) -> UUID | None:
    if target._meta.label == "tenants.Organization":
        organization_id: UUID | None = target.pk
    else:
        organization_id = getattr(target, "organization_id", None)
    return organization_id


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers, truth values and lists as they are, all else in words."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted(str(item) for item in value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
