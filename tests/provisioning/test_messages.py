"""Real messages and a real worker: doubled, reordered, late or lost, they have one effect."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app
from django.db import connection
from django.db.models import QuerySet

from provisioning import services, wakeups
from provisioning.models import Cluster, Operation, OperationStep
from provisioning.states import OPEN_STATES, OperationState, StepKind
from tests.factories import Person
from tests.provisioning import shared_region
from tests.provisioning.conftest import ask, messages, put_on_plan
from tests.provisioning.shared_region import SharedRegion

PATIENCE_SECONDS = 90.0


@pytest.fixture
def worker(shared: SharedRegion, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it to start the worker and await it: messages expire while it begins. There is no clock in these tests."""
    running = []
    log = tmp_path / "worker.log"

    def start() -> None:
        running.append(shared_region.spawn("worker", shared.folder, log=log))
        until(lambda: " ready." in log.read_text())

    yield start
    for process in running:
        shared_region.end(process)


def until(is_so: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def open_operations(person: Person) -> QuerySet[Operation]:
    return Operation.objects.for_organization(person.organization.pk).filter(state__in=OPEN_STATES)


def create(person: Person, shared: SharedRegion, *names: str) -> list[Cluster]:
    request = [ask(region=shared.folder.name, name=name) for name in names]
    return [services.create_cluster(actor=person.actor, request=one).cluster for one in request]


@dataclass
class Late:
    """Messages that come an hour late, by their ids."""

    kept: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)


def deliver(cluster_ids: list[UUID], chance: random.Random) -> Late:
    """Each message two to five times, in any order: fresh ones, those of older code, and such that come an hour late.

    Of these last, the worker drops those that say until when they hold, and takes up those that do not.
    """
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    kinds: list[dict[str, Any]] = [
        {},
        {"expires": wakeups.RING_EXPIRES_SECONDS},
        {"eta": an_hour_ago, "expires": an_hour_ago + timedelta(seconds=wakeups.RING_EXPIRES_SECONDS)},
        {"eta": an_hour_ago},
    ]
    waiting = [cluster_id for cluster_id in cluster_ids for _ in range(chance.randint(2, 5))]
    chance.shuffle(waiting)
    late = Late()
    # Whatever chance says, each kind comes.
    for place, cluster_id in enumerate(waiting):
        kind = kinds[place] if place < len(kinds) else chance.choice(kinds)
        message = current_app.send_task(wakeups.RECONCILE, args=[str(cluster_id)], **kind)
        if "eta" in kind:
            (late.expired if "expires" in kind else late.kept).add(str(message.id))
    return late


def served(log: Path) -> set[str]:
    """The ids of messages that the worker has served to their end."""
    return set(re.findall(r"Task \S+\[([0-9a-f-]{36})\] succeeded", log.read_text()))


@pytest.mark.parametrize("seed", [1, 2])
def test_doubled_reordered_and_late_messages_have_one_effect(
    committed: Person, shared: SharedRegion, worker: Callable[[], None], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    log = tmp_path / "worker.log"
    put_on_plan(committed, "team")
    clusters = [row.pk for row in create(committed, shared, "a", "b", "c", "d")]
    before = deliver(clusters, chance)
    worker()
    until(lambda: not open_operations(committed).exists())
    after = deliver(clusters, chance)
    until(lambda: not messages() and before.kept | after.kept <= served(log))
    assert not (before.expired | after.expired) & served(log)
    with shared.opened() as region:
        assert region.starts == len(clusters)
        assert region.verbs().count("start") == len(clusters)
    states = Operation.objects.for_organization(committed.organization.pk).values_list("state", flat=True)
    assert set(states) == {OperationState.SUCCEEDED}
    starts = OperationStep.objects.for_organization(committed.organization.pk).filter(kind=StepKind.START_ENGINE)
    assert set(starts.values_list("attempts", flat=True)) == {1}


def test_what_was_begun_goes_on_without_a_clock(
    committed: Person, shared: SharedRegion, worker: Callable[[], None]
) -> None:
    worker()
    create(committed, shared, "orders")
    until(lambda: not open_operations(committed).exists())
    with shared.opened() as region:
        assert region.verbs() == ["prepare", "start"]


def test_a_message_may_name_a_cluster_that_is_not_there(
    committed: Person, shared: SharedRegion, worker: Callable[[], None]
) -> None:
    create(committed, shared, "orders")
    current_app.control.purge()
    # Without a time after which it is worthless, because the worker may take longer to begin.
    current_app.send_task(wakeups.RECONCILE, args=[str(uuid4())])
    worker()
    until(lambda: not open_operations(committed).exists())


def test_a_worker_whose_connections_broke_goes_on(
    committed: Person, shared: SharedRegion, worker: Callable[[], None]
) -> None:
    worker()
    (cluster,) = create(committed, shared, "orders")
    until(lambda: not open_operations(committed).exists())
    with connection.cursor() as cursor:
        # With a time to wait: until each has ended.
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE usename = current_user"
        )
        assert cursor.fetchone() != (0,), "the worker keeps its connections between messages"
    services.suspend_cluster(actor=committed.actor, cluster_id=cluster.pk)
    until(lambda: not open_operations(committed).exists())


@dataclass
class Bomb:
    """Makes a file when it is unpickled."""

    file: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.file,)


def test_a_pickle_is_refused_unopened_and_the_next_message_is_served(
    committed: Person, shared: SharedRegion, worker: Callable[[], None], tmp_path: Path
) -> None:
    log, bomb = tmp_path / "worker.log", Bomb(tmp_path / "opened")
    current_app.send_task(wakeups.RECONCILE, args=[bomb], serializer="pickle")
    worker()
    create(committed, shared, "orders")
    until(lambda: not open_operations(committed).exists())
    assert "Refusing to deserialize" in log.read_text()
    assert not bomb.file.exists()
