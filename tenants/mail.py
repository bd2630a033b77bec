"""Renders and sends mails from ids, in the task: links are computed here and stand nowhere but in the mail."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from smtplib import SMTPDataError, SMTPRecipientsRefused, SMTPSenderRefused
from uuid import UUID

from allauth.account import app_settings as account_settings
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import F
from django.db.models.functions import Now
from django.template.loader import render_to_string
from django.urls import reverse

from tenants import tokens
from tenants.clock import database_now
from tenants.models import MailKind, OutgoingMail

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
# 10 s, 40 s, 2.7 min, 11 min, 43 min, 2.8 h, 11 h: about 15 hours of trying, longer than most mail servers are away.
FIRST_RETRY = timedelta(seconds=10)
RETRY_FACTOR = 4
# The message rung at commit comes first; only what it missed is left to the sweep.
SWEEP_GRACE = timedelta(seconds=5)


# What a server that works says of one mail; every other failure is the server's, and the next mail would meet it too.
_REFUSALS = (SMTPDataError, SMTPRecipientsRefused, SMTPSenderRefused)


class Outcome(Enum):
    """What became of an attempt to send a mail."""

    SENT = auto()
    NOTHING_TO_SEND = auto()  # not due, taken by somebody else, or its reason is gone
    REFUSED = auto()
    SERVER_AWAY = auto()


@dataclass(frozen=True, slots=True)
class RenderedMail:
    """A mail as it is sent."""

    address: str
    subject: str
    body: str


def deliver(mail_id: UUID) -> bool:
    """Send a queued mail if it is due and nobody else is at it; whether it was sent. Calls the mail server.

    A mail may be sent twice, when the process dies between the sending and the noting of it; none is lost.
    """
    return _attempt(mail_id) is Outcome.SENT


def deliver_overdue(limit: int) -> int:
    """Send mails that should have gone out by now, oldest first; how many were sent. Calls the mail server.

    Ends at the first failure that is the server's own, so a server that does not answer costs one timeout, not `limit`.
    """
    late = OutgoingMail.objects.filter(due_at__lte=Now() - SWEEP_GRACE).order_by("due_at")
    sent = 0
    for mail_id in list(late.values_list("pk", flat=True)[:limit]):
        outcome = _attempt(mail_id)
        if outcome is Outcome.SERVER_AWAY:
            break
        sent += outcome is Outcome.SENT
    return sent


def render(row: OutgoingMail) -> RenderedMail | None:
    """The mail's text, or None when its reason is gone: address confirmed, invitation withdrawn, account deleted."""
    link = _LINKS.get(MailKind(row.kind), _no_link)(row)
    if link is None:
        return None
    context = {
        "link": link,
        "address": row.address,
        "public_url": settings.PUBLIC_URL,
        "notice": _NOTICES.get(row.subject_id, "the way you sign in was changed"),
        "invitation": row.invitation,
        "confirmation_days": account_settings.EMAIL_CONFIRMATION_EXPIRE_DAYS,
        "reset_days": settings.PASSWORD_RESET_TIMEOUT // 86_400,
    }
    text = render_to_string(f"tenants/mail/{row.kind}.txt", context)
    subject, _, body = text.partition("\n")
    return RenderedMail(row.address, subject.removeprefix("Subject: "), body.lstrip("\n"))


def _attempt(mail_id: UUID) -> Outcome:
    row = _claim(mail_id)
    if row is None:
        return Outcome.NOTHING_TO_SEND
    rendered = render(row)
    outcome = Outcome.NOTHING_TO_SEND if rendered is None else _send(rendered, row)
    if outcome in (Outcome.SENT, Outcome.NOTHING_TO_SEND):
        OutgoingMail.objects.filter(pk=mail_id).update(due_at=None, sent_at=Now() if rendered else None)
    return outcome


def _claim(mail_id: UUID) -> OutgoingMail | None:
    """Take the mail by moving its due time to the next attempt; None when it is not due, or taken."""
    row = OutgoingMail.objects.select_related("user", "invitation__organization").filter(pk=mail_id).first()
    if row is None or row.due_at is None:
        return None
    gives_up = row.attempts + 1 >= MAX_ATTEMPTS
    retry_at = None if gives_up else database_now() + FIRST_RETRY * RETRY_FACTOR**row.attempts
    due = OutgoingMail.objects.filter(pk=mail_id, due_at__lte=Now(), attempts=row.attempts)
    return row if due.update(attempts=F("attempts") + 1, due_at=retry_at) else None


def _send(rendered: RenderedMail, row: OutgoingMail) -> Outcome:
    message = EmailMessage(rendered.subject, rendered.body, settings.DEFAULT_FROM_EMAIL, [rendered.address])
    try:
        message.send()
    except OSError as error:  # smtplib's own errors are among them
        attempt = row.attempts + 1
        log.warning("mail %s (%s): attempt %d failed: %s", row.pk, row.kind, attempt, type(error).__name__)
        if attempt >= MAX_ATTEMPTS:
            log.error("mail %s (%s): given up after %d attempts", row.pk, row.kind, attempt)
        return Outcome.REFUSED if isinstance(error, _REFUSALS) else Outcome.SERVER_AWAY
    return Outcome.SENT


# --- Links: from ids and our own keys ---------------------------------------------------------------------------------


def _absolute(path: str) -> str:
    return f"{settings.PUBLIC_URL}{path}"


def _no_link(row: OutgoingMail) -> str | None:
    return settings.PUBLIC_URL


def _confirmation_link(row: OutgoingMail) -> str | None:
    address = EmailAddress.objects.filter(pk=int(row.subject_id), user=row.user, verified=False).first()
    if address is None:
        return None
    return _absolute(reverse("account_confirm_email", args=[EmailConfirmationHMAC(address).key]))


def _reset_link(row: OutgoingMail) -> str | None:
    if row.user is None or not row.user.is_active:
        return None
    key = account_settings.PASSWORD_RESET_TOKEN_GENERATOR().make_token(row.user)
    uid = user_pk_to_url_str(row.user)
    return _absolute(reverse("account_reset_password_from_key", kwargs={"uidb36": uid, "key": key}))


def _reset_page(row: OutgoingMail) -> str | None:
    return _absolute(reverse("account_reset_password"))


def _sign_up_page(row: OutgoingMail) -> str | None:
    return _absolute(reverse("account_signup"))


def _invitation_link(row: OutgoingMail) -> str | None:
    invitation = row.invitation
    if invitation is None or invitation.accepted_at or invitation.revoked_at:
        return None
    return _absolute(f"/invitations/{tokens.invitation_token(invitation.pk, invitation.expires_at)}")


_LINKS = {
    MailKind.CONFIRM_ADDRESS: _confirmation_link,
    MailKind.ALREADY_REGISTERED: _reset_page,
    MailKind.RESET_PASSWORD: _reset_link,
    MailKind.UNKNOWN_ACCOUNT: _sign_up_page,
    MailKind.INVITATION: _invitation_link,
    MailKind.SECURITY_NOTICE: _reset_page,
}

_NOTICES = {
    "email_changed": "the e-mail address of your account was changed",
    "email_deleted": "an e-mail address of your account was removed",
    "password_changed": "your password was changed",
    "password_reset": "your password was reset",
    "password_set": "a password was set",
    "recovery_codes_generated": "new recovery codes were made",
    "totp_activated": "an authenticator app was added",
    "totp_deactivated": "the authenticator app was removed",
    "webauthn_added": "a security key or passkey was added",
    "webauthn_removed": "a security key or passkey was removed",
}
