"""Ringing: a message for each look that is still to come, and no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu.exceptions import OperationalError

from provisioning import services, wakeups
from provisioning.models import Cluster
from tests.factories import Person
from tests.provisioning.conftest import ask, forget_messages, messages
from tests.provisioning.pretend import PretendRegion


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Nobody rings before a test, nor after it: what it has rung for would silence the next one."""
    forget_messages()
    yield
    forget_messages()


@pytest.fixture
def long_ringing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a second between two wake-ups."""
    monkeypatch.setattr(wakeups, "RINGING_MILLISECONDS", 60_000)


@pytest.mark.usefixtures("long_ringing")
def test_many_wake_ups_are_one_message_until_somebody_looks() -> None:
    for _ in range(100):
        wakeups.send_once(uuid4())
    assert messages() == 1
    wakeups.hear()
    wakeups.send_once(uuid4())
    assert messages() == 2


def test_a_message_that_was_lost_silences_nobody_for_long() -> None:
    began = time.monotonic()
    wakeups.send_once(uuid4())
    while messages() == 1:
        wakeups.send_once(uuid4())
        time.sleep(0.02)
    assert time.monotonic() - began >= wakeups.RINGING_MILLISECONDS / 1000 - 0.01  # the broker's clock is another one


def test_a_reminder_is_a_message_of_its_own() -> None:
    wakeups.send_once(uuid4())
    wakeups.remind(uuid4(), delay_seconds=0.3)
    assert messages() == 2


def test_a_watch_is_known_while_it_tells() -> None:
    slug = f"region-{uuid4().hex[:8]}"
    assert not wakeups.is_watched(slug)
    assert wakeups.watch_age_seconds(slug) is None
    wakeups.note_watch(slug, age_seconds=12.5)
    assert wakeups.is_watched(slug)
    time.sleep(0.3)
    assert 12.8 <= (wakeups.watch_age_seconds(slug) or 0) < 42  # it goes on to age; this machine may be busy
    assert not wakeups.is_watched(f"{slug}-2")


@pytest.mark.usefixtures("long_ringing")
@pytest.mark.django_db
def test_each_accepted_wish_rings_after_its_commit(
    alice: Person, region: PretendRegion, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
        wakeups.wake(cluster.pk)
        assert messages() == 0
    assert len(callbacks) == 2
    assert messages() == 1


@pytest.mark.django_db
def test_a_cluster_that_is_due_keeps_its_time(alice: Person, region: PretendRegion) -> None:
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    before = Cluster.objects.get(pk=cluster.pk).due_at
    wakeups.wake(cluster.pk)
    assert Cluster.objects.get(pk=cluster.pk).due_at == before


@pytest.mark.django_db
def test_a_broker_that_does_not_answer_costs_one_line(
    alice: Person,
    region: PretendRegion,
    django_capture_on_commit_callbacks: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError("Connection refused")

    monkeypatch.setattr(wakeups, "send_once", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        services.create_cluster(actor=alice.actor, request=ask())
    (record,) = [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
    assert (record.levelname, record.exc_info) == ("WARNING", None)
