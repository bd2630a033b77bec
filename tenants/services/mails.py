"""Mail that is to be sent: a row first, a message second, so that neither a broker nor a crash loses any."""

from __future__ import annotations

from celery import current_app
from django.db import transaction

from tenants import mail
from tenants.models import Invitation, MailKind, OutgoingMail, User

DELIVER = "tenants.deliver_mail"


def queue_mail(
    *,
    kind: MailKind,
    address: str,
    user: User | None = None,
    invitation: Invitation | None = None,
    subject_id: str = "",
) -> None:
    """Have a mail rendered and sent soon; nothing of its text stands in the row or in the message.

    Args:
        subject_id: what the mail is about, besides its person or invitation: an address's id, a notice's name.
    """
    row = OutgoingMail(kind=kind.value, address=address, user=user, invitation=invitation, subject_id=subject_id)
    row.save(force_insert=True)

    def ring_after_commit() -> None:  # no `partial`: Django names a failed hook by its `__qualname__`
        current_app.send_task(DELIVER, args=[str(row.pk)], retry=False)

    # A broker that is down must not fail a sign-up; the sweep finds the row.
    transaction.on_commit(ring_after_commit, robust=True)


def sweep_mail(limit: int = 20) -> int:
    """Send what is overdue because its message was lost or an earlier attempt failed; how many were sent.

    For the clock. Several may run at once: each mail is claimed. Calls the mail server; a sweep ends when that does
    not answer, and the next one tries the next mail.
    """
    return mail.deliver_overdue(limit)
