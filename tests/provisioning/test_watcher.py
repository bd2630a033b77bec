"""What the watch process makes of what a region's backend says, and does not say."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import InterfaceError, OperationalError
from django.db.models.functions import Now

from common.errors import Permanent
from provisioning import services, wakeups, watcher
from provisioning.models import Cluster, Region
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nothing_else")]


def test_a_region_that_does_not_let_us_watch_ends_no_other_regions_watch(
    region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "REFUSED_AGAIN_SECONDS", 0.01)
    has_come_back, is_over = threading.Event(), threading.Event()
    refusals = [Permanent("Give us the rights.")] * 3

    def changes(_hears: Callable[[float], None]) -> Iterator[UUID]:
        if refusals:
            raise refusals.pop()
        has_come_back.set()
        is_over.wait(60)
        yield from ()

    monkeypatch.setattr(region, "changes", changes)
    ended = watcher.watch([Region.objects.get(pk="pretend")])
    assert has_come_back.wait(60)
    assert not ended.is_set()
    is_over.set()
    assert ended.wait(60), "a watch that ends for any other reason ends the process"


def test_the_process_ends_with_a_watch_of_its_own(region: PretendRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it starts it again: a watch that is silently dead would serve a frozen picture."""
    monkeypatch.setattr(region, "changes", lambda _hears: iter(()))
    # It would end this test's own transaction, and these handlers are pytest's.
    monkeypatch.setattr(watcher, "close_old_connections", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        call_command("watch")
    assert ended.value.code == 1


def test_what_rests_in_a_region_that_is_not_heard_any_more_is_looked_at_sooner(
    alice: Person, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster

    def changes(hears: Callable[[float], None]) -> Iterator[UUID]:
        for age_seconds in (math.inf, 30.0):
            Cluster.objects.filter(pk=cluster.pk).update(due_at=Now() + timedelta(hours=1))
            hears(age_seconds)
            assert wakeups.is_watched("pretend") is (age_seconds == 30)
            assert Cluster.objects.filter(pk=cluster.pk, due_at__gt=Now() + timedelta(minutes=59)).exists()
        assert 30 <= (wakeups.watch_age_seconds("pretend") or 0) < 60
        hears(math.inf)
        yield from ()

    monkeypatch.setattr(region, "changes", changes)
    # It would end this test's own transaction.
    monkeypatch.setattr(watcher, "close_old_connections", lambda: None)
    wakeups.forget_watch("pretend")
    watcher.watch_region(Region.objects.get(pk="pretend"))
    assert not wakeups.is_watched("pretend")
    assert Cluster.objects.filter(pk=cluster.pk, due_at__lte=Now() + timedelta(minutes=6)).exists()


def test_it_asks_until_there_is_an_answer_and_says_once_why_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    refusals = [OperationalError("too many connections"), InterfaceError("the connection is closed")] * 3
    pauses: list[float] = []

    def ask() -> str:
        if refusals:
            raise refusals.pop()
        return "here"

    assert watcher.insist(ask, pause=pauses.append) == "here"
    assert pauses == [watcher.AWAY_AGAIN_SECONDS] * 6
    assert [record.getMessage() for record in caplog.records] == [
        "the database does not answer; the watch waits for it"
    ]


def test_any_other_trouble_is_no_reason_to_wait() -> None:
    def ask() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        watcher.insist(ask, pause=lambda _seconds: pytest.fail("it waits"))
