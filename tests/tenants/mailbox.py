"""Reading the mails that a test caused: the worker's task, run here, and the links in the text."""

from __future__ import annotations

import re

from django.contrib.postgres.functions import TransactionNow
from django.core import mail as outbox
from django.core.mail import EmailMessage

from tenants.models import OutgoingMail
from tenants.tasks import deliver_mail


def deliver_all() -> list[EmailMessage]:
    """Do what the worker does for each queued mail; the mails sent by it, oldest first."""
    before = len(outbox.outbox)
    ours = OutgoingMail.objects.filter(created_at__gte=TransactionNow()).exclude(due_at=None).order_by("created_at")
    for mail_id in ours.values_list("pk", flat=True):
        deliver_mail(str(mail_id))
    return list(outbox.outbox[before:])


def link_in(message: EmailMessage, part: str) -> str:
    """The path of the link that contains `part`."""
    (found,) = re.findall(rf"https?://[^/\s]+(/\S*{part}\S*)", str(message.body))
    return str(found)
