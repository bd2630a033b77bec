"""Mails: queued as ids, sent by the task, tried again with growing pauses, given up after eight attempts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from smtplib import SMTPRecipientsRefused
from typing import Any

import pytest
from celery import Celery
from django.core import mail as outbox
from django.core.mail import EmailMessage
from django.db import connection
from django.utils import timezone

from config import celery_app
from tenants import mail, services
from tenants.auth import AccountAdapter
from tenants.clock import database_now
from tenants.models import MailKind, OutgoingMail
from tests.factories import make_invitation, make_organization, make_user

pytestmark = pytest.mark.django_db

UNREACHABLE = {
    "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
    "EMAIL_HOST": "127.0.0.1",
    "EMAIL_PORT": 1,
}


def queue(**fields: Any) -> OutgoingMail:
    services.queue_mail(**{"kind": MailKind.UNKNOWN_ACCOUNT, "address": "somebody@example.com", **fields})
    return OutgoingMail.objects.latest("created_at")


def make_overdue(row: OutgoingMail) -> None:
    OutgoingMail.objects.filter(pk=row.pk).update(due_at=timezone.now() - timedelta(minutes=1))


def test_a_mail_is_sent_once_however_often_the_message_comes() -> None:
    row = queue()
    assert [mail.deliver(row.pk) for _ in range(3)] == [True, False, False]
    assert [message.to for message in outbox.outbox] == [["somebody@example.com"]]


def test_a_mail_whose_message_was_lost_is_found_by_the_sweep() -> None:
    row = queue()
    assert services.sweep_mail() == 0, "the message rung at commit comes first"
    make_overdue(row)
    assert services.sweep_mail() == 1
    assert services.sweep_mail() == 0


def test_a_failed_attempt_is_made_again_later_and_given_up_at_last(settings: Any) -> None:
    for name, value in UNREACHABLE.items():
        setattr(settings, name, value)
    row = queue()
    for pause in (timedelta(seconds=seconds) for seconds in (10, 40, 160, 640, 2560, 10240, 40960)):
        before = database_now()
        assert mail.deliver(row.pk) is False
        after = database_now()
        row.refresh_from_db()
        assert row.due_at is not None
        assert before + pause <= row.due_at <= after + pause
        make_overdue(row)
    assert mail.deliver(row.pk) is False
    row.refresh_from_db()
    assert (row.due_at, row.sent_at, row.attempts) == (None, None, mail.MAX_ATTEMPTS)
    assert mail.deliver(row.pk) is False


def test_a_mail_that_failed_goes_out_when_the_server_is_back(settings: Any) -> None:
    row = queue()
    works = settings.EMAIL_BACKEND
    for name, value in UNREACHABLE.items():
        setattr(settings, name, value)
    mail.deliver(row.pk)
    settings.EMAIL_BACKEND = works
    make_overdue(row)
    assert services.sweep_mail() == 1


def test_a_sweep_ends_at_the_first_mail_that_the_server_does_not_take_in(settings: Any) -> None:
    for name, value in UNREACHABLE.items():
        setattr(settings, name, value)
    for _ in range(3):
        make_overdue(queue())
    assert services.sweep_mail() == 0
    assert sorted(OutgoingMail.objects.values_list("attempts", flat=True)) == [0, 0, 1]


def test_a_mail_that_the_server_refuses_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    make_overdue(queue(address="nobody@example.com"))
    make_overdue(queue())
    send = EmailMessage.send

    def send_or_refuse(message: EmailMessage) -> int:
        if message.to == ["nobody@example.com"]:
            raise SMTPRecipientsRefused({"nobody@example.com": (550, b"no such mailbox")})
        return send(message)

    monkeypatch.setattr(EmailMessage, "send", send_or_refuse)
    assert services.sweep_mail() == 1
    assert OutgoingMail.objects.get(sent_at=None).address == "nobody@example.com"


def test_a_mail_of_allauth_without_a_text_of_ours_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    AccountAdapter().send_mail("account/email/login_code", "somebody@example.com", {})
    assert "mail account/email/login_code is not sent" in caplog.text
    assert not OutgoingMail.objects.exists()


@pytest.mark.parametrize("kind", list(MailKind))
def test_every_kind_of_mail_has_a_subject_a_text_and_a_link_to_us(kind: MailKind, settings: Any) -> None:
    user = make_user(is_verified=False)
    invitation, _ = make_invitation(make_organization(name="Tom & Jerry <i>"))
    address_id = str(user.emailaddress_set.get().pk)
    subject_id = address_id if kind is MailKind.CONFIRM_ADDRESS else "password_changed"
    row = queue(kind=kind, user=user, invitation=invitation, subject_id=subject_id)
    rendered = mail.render(OutgoingMail.objects.get(pk=row.pk))
    assert rendered is not None
    assert rendered.subject
    assert "\n" not in rendered.subject
    assert f"{settings.PUBLIC_URL}/" in rendered.body
    assert "&amp;" not in rendered.subject + rendered.body
    assert "{" not in rendered.body


def test_a_mail_whose_reason_is_gone_is_not_sent() -> None:
    confirmed = make_user(is_verified=True)
    withdrawn, _ = make_invitation(make_organization(), revoked_at=timezone.now())
    rows = [
        queue(kind=MailKind.CONFIRM_ADDRESS, user=confirmed, subject_id=str(confirmed.emailaddress_set.get().pk)),
        queue(kind=MailKind.INVITATION, invitation=withdrawn),
        queue(kind=MailKind.RESET_PASSWORD, user=make_user(is_active=False)),
    ]
    for row in rows:
        assert mail.deliver(row.pk) is False
        row.refresh_from_db()
        assert (row.due_at, row.sent_at) == (None, None)
    assert outbox.outbox == []


@pytest.fixture
def no_broker() -> Iterator[None]:
    """Let messages go to a broker that is not there, with the product's own settings for giving up."""
    nowhere = Celery("nowhere", broker="redis+socket:///nowhere/at/all.sock", set_as_current=False)
    nowhere.conf.broker_transport_options = celery_app.conf.broker_transport_options
    nowhere.set_current()
    yield
    celery_app.set_current()


@pytest.mark.usefixtures("no_broker")
def test_a_broker_that_is_down_neither_fails_nor_delays_the_request(
    django_capture_on_commit_callbacks: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: pytest.fail("it waits before it asks again"))
    with django_capture_on_commit_callbacks(execute=True):
        row = queue()
    assert "on_commit" in caplog.text, "the ring was tried, and its failure logged"
    assert OutgoingMail.objects.get(pk=row.pk).due_at is not None


def test_the_web_process_queues_mail_but_cannot_read_the_queue() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE NONE")
        services.queue_mail(kind=MailKind.UNKNOWN_ACCOUNT, address="somebody@example.com")
        cursor.execute("SELECT has_column_privilege('tenants_outgoingmail', 'address', 'SELECT')")
        assert cursor.fetchone() == (False,)
