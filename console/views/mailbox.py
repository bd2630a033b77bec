"""The demo's mailbox: mails that were written to files instead of being sent. Not there in production."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from console.views.doors import never_kept

# More than a demo makes; a folder that grew for weeks must not make the page slow.
MAX_SHOWN = 50

# Django's file backend separates the mails of one connection by such a line.
_SEPARATOR = re.compile(rb"^-{79}\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as its reader sees it."""

    to: str
    subject: str
    sent_at: datetime
    body: str


@require_GET
@never_kept
def mailbox(request: HttpRequest) -> HttpResponse:
    """All mails of the demo, newest first; anybody at this machine may read them."""
    folder = settings.MAILBOX_DIR
    if folder is None:
        raise Http404("There is no mailbox here: mails are really sent.")
    address = request.GET.get("to", "").strip().lower()
    mails = [mail for mail in _mails(folder) if address in mail.to.lower()][:MAX_SHOWN]
    return render(request, "console/mailbox.html", {"mails": mails, "address": address})


def _mails(folder: Path) -> list[Mail]:
    files = sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime, reverse=True)[:MAX_SHOWN]
    found = [mail for file in files for mail in _read(file)]
    return sorted(found, key=lambda mail: mail.sent_at, reverse=True)


def _read(file: Path) -> Iterator[Mail]:
    parser = BytesParser(policy=policy.default)
    for part in _SEPARATOR.split(file.read_bytes()):
        if part.strip():
            yield _mail(parser.parsebytes(part))


def _mail(message: EmailMessage) -> Mail:
    body = message.get_body(("plain",))
    date = message["Date"]
    return Mail(
        to=str(message["To"] or ""),
        subject=str(message["Subject"] or "(no subject)"),
        sent_at=parsedate_to_datetime(str(date)) if date else datetime.fromtimestamp(0, tz=UTC),
        body=str(body.get_content()).strip() if body else "",
    )
