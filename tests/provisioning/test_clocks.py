"""Several clocks, as real processes: whatever they find is done once, and the death of one loses nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from embedded.doors import wait_for
from provisioning import executor, services, sweeper
from provisioning.backends.base import ClusterBackend
from provisioning.models import Cluster, Operation
from provisioning.spec import Lifecycle
from provisioning.states import OPEN_STATES, OperationKind, OperationState
from tests.factories import Person
from tests.provisioning import shared_region
from tests.provisioning.conftest import ask, make_clusters, put_on_plan
from tests.provisioning.kills import take_turn
from tests.provisioning.shared_region import Plan, SharedRegion

PATIENCE_SECONDS = 120.0


@pytest.fixture
def clocks(shared: SharedRegion, tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three of them; there is no worker in these tests."""
    running = [shared_region.spawn("clock", shared.folder, log=tmp_path / "clocks.log") for _ in range(3)]
    yield running
    for process in running:
        shared_region.end(process)


def test_what_an_outage_of_an_hour_has_left_is_done_once(
    committed: Person, shared: SharedRegion, clocks: list[subprocess.Popen[bytes]]
) -> None:
    rows = make_clusters(committed.organization, 40, region=shared.folder.name, due_seconds_ago=None)
    ours = Cluster.objects.filter(pk__in=[row.pk for row in rows])
    ours.update(lifecycle=Lifecycle.SUSPENDED, due_at=Now() - timedelta(hours=1))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ours.filter(seen_at=None).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2 * 1.0)  # two more ticks of each
    assert set(ours.values_list("lease_epoch", "deaths")) == {(1, 0)}


def test_a_clock_that_dies_on_its_tick_loses_nothing_and_doubles_nothing(
    committed: Person, shared: SharedRegion, clocks: list[subprocess.Popen[bytes]]
) -> None:
    put_on_plan(committed, "team")
    made = [
        services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name, name=f"cluster {number}"))
        for number in range(6)
    ]
    shared.expect(Plan(deadly={made[3].cluster_id: int(signal.SIGKILL)}, is_deadly_once=True, slow_seconds=0.05))
    ours = Cluster.objects.filter(organization=committed.organization)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while Operation.objects.filter(cluster__in=ours, state__in=OPEN_STATES).exists():
        assert time.monotonic() < deadline
        if shared.deaths():
            ours.filter(pk=made[3].cluster_id, deaths=0).update(lease_expires_at=Now(), due_at=Now())
        # Nobody rings here, so what is due must be long due before the clocks take it themselves.
        ours.filter(due_at__lte=Now()).update(due_at=Now() - timedelta(seconds=sweeper.TAKE_OVER_SECONDS + 1))
        time.sleep(0.1)
    assert shared.deaths() == [made[3].cluster_id]
    # The others may have done all the rest while the kernel took the killed one away.
    wait_for(lambda: sum(clock.poll() is not None for clock in clocks) or None, seconds=30, what="A clock's end")
    assert sum(clock.poll() is not None for clock in clocks) == 1
    with shared.opened() as region:
        assert region.starts == len(made)
    for operation in made:
        operation.refresh_from_db()
        assert operation.state == OperationState.SUCCEEDED


def test_a_schedule_that_has_come_due_is_begun_by_one_of_three_clocks(
    committed: Person, shared: SharedRegion, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three are held at the same row: each has found it due, and none has claimed it."""
    monkeypatch.setitem(executor.BACKENDS, "shared", lambda _slug: cast(ClusterBackend, shared))
    cluster = services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name)).cluster
    while Operation.objects.filter(cluster=cluster, state__in=OPEN_STATES).exists():
        take_turn(cluster.pk)
    services.update_cluster(actor=committed.actor, cluster_id=cluster.pk, backup_every_hours=24)
    row = Cluster.objects.filter(pk=cluster.pk)
    row.update(backup_due_at=Now() - timedelta(hours=1), due_at=None)
    with transaction.atomic():
        row.select_for_update(of=("self",)).get()
        clocks = request.getfixturevalue("clocks")
        wait_for(lambda: held_up() == len(clocks) or None, seconds=PATIENCE_SECONDS, what="All clocks at the row")
    for clock in clocks:
        clock.terminate()
    # A clock that is told to stop ends its tick first.
    assert [clock.wait(timeout=PATIENCE_SECONDS) for clock in clocks] == [0, 0, 0]
    assert Operation.objects.filter(cluster=cluster, kind=OperationKind.BACK_UP).count() == 1
    assert row.filter(backup_due_at__gt=Now() + timedelta(hours=23)).exists(), "its next time is tomorrow's"


def held_up() -> int:
    """How many sessions wait for somebody else's lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        (number,) = cursor.fetchone() or (0,)
    return int(number)
