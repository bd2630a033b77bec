"""Everything that changes people's organizations, who is in them, and what programs sign in with."""

from __future__ import annotations

from tenants.services.accounts import record_account_change
from tenants.services.credentials import (
    NewSecret,
    add_secret,
    advance_audience,
    close_audience,
    create_credential,
    ensure_signing_key,
    open_audience,
    revoke_credential,
    revoke_secret,
    rotate_signing_key,
    update_credential,
)
from tenants.services.invitations import accept_invitation, invite_member, resend_invitation, revoke_invitation
from tenants.services.mails import queue_mail, sweep_mail
from tenants.services.organizations import (
    change_role,
    create_organization,
    leave_organization,
    remove_member,
    rename_organization,
    transfer_ownership,
)

__all__ = [
    "NewSecret",
    "accept_invitation",
    "add_secret",
    "advance_audience",
    "change_role",
    "close_audience",
    "create_credential",
    "create_organization",
    "ensure_signing_key",
    "invite_member",
    "leave_organization",
    "open_audience",
    "queue_mail",
    "record_account_change",
    "remove_member",
    "rename_organization",
    "resend_invitation",
    "revoke_credential",
    "revoke_invitation",
    "revoke_secret",
    "rotate_signing_key",
    "sweep_mail",
    "transfer_ownership",
    "update_credential",
]
