"""The demo's mailbox: there without sign-in in the demo, nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.mail import EmailMessage, get_connection
from django.urls import reverse
from pytest_django.fixtures import Settings

from tests.conftest import WebClient

MAILBOX = "/mailbox"


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    """An empty mailbox."""
    settings.MAILBOX_DIR = tmp_path
    return tmp_path


def post(folder: Path, subject: str, body: str, to: str = "ada@example.com", date: str = "") -> None:
    """Have Django write a mail into the folder, as it does in the demo."""
    connection = get_connection("django.core.mail.backends.filebased.EmailBackend", file_path=str(folder))
    headers = {"Date": date} if date else {}
    EmailMessage(subject, body, "flowplane@localhost", [to], headers=headers, connection=connection).send()


def test_without_a_mailbox_there_is_no_page_and_no_link(client: WebClient, settings: Settings) -> None:
    settings.MAILBOX_DIR = None
    assert client.get(MAILBOX).status_code == 404
    assert MAILBOX not in client.get(reverse("account_login")).content.decode()


def test_an_empty_mailbox_says_what_will_come(client: WebClient, folder: Path) -> None:
    answer = client.get(MAILBOX)
    assert "No mail yet" in answer.content.decode()
    assert answer.headers["Cache-Control"] == "no-store"


def test_mails_stand_newest_first_with_links_to_click(client: WebClient, folder: Path) -> None:
    post(folder, "First", "Nothing to see.", date="Mon, 23 Nov 2026 09:00:00 -0000")
    body = "Open\n\nhttp://localhost:8080/accounts/confirm-email/MQ:1x:abc/\n\nsoon."
    post(folder, "Second – später", body, date="Mon, 23 Nov 2026 09:00:01 -0000")
    text = client.get(MAILBOX).content.decode()
    assert text.index("Second – später") < text.index("First")
    link = "http://localhost:8080/accounts/confirm-email/MQ:1x:abc/"
    assert f'<a href="{link}">{link}</a>' in text


def test_one_persons_mails_alone(client: WebClient, folder: Path) -> None:
    post(folder, "For Ada", "Hello")
    post(folder, "For Grace", "Hello", to="grace@example.com")
    text = client.get(MAILBOX, {"to": "Grace@example.com"}).content.decode()
    assert "For Grace" in text
    assert "For Ada" not in text


def test_a_mails_text_is_text(client: WebClient, folder: Path) -> None:
    post(folder, "<script>", '<img src=x> http://localhost/"onclick=1')
    text = client.get(MAILBOX).content.decode()
    assert "<img" not in text.partition("<article")[2]
    assert "<script>" not in text.partition("<article")[2]
    assert '"onclick' not in text
