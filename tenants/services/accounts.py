"""What happens to a person's own account, outside all organizations."""

from __future__ import annotations

from tenants import audit
from tenants.actor import Actor
from tenants.audit import Changes
from tenants.models import User
from tenants.scoping import scope


def record_account_change(*, actor: Actor, user: User, action: str, changes: Changes | None = None) -> None:
    """Write that a person signed up, confirmed an address, changed a password and the like.

    The scope makes the event readable to that person only, and writable by a request that acts for it only.
    """
    scope(user_id=user.pk)
    audit.record(actor, action=action, target=user, changes=changes)
