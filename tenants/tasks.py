"""What the worker does for people: a message rings, the row says what is to be done."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from tenants import mail
from tenants.services.mails import DELIVER


@shared_task(name=DELIVER)
def deliver_mail(mail_id: str) -> None:
    """Send one queued mail. A doubled or late message sends nothing twice; a failed attempt is left to the sweep."""
    mail.deliver(UUID(mail_id))
