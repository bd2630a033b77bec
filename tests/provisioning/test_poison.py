"""A turn that kills its worker, with real workers: it is parked, and nobody else pays for it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psycopg
import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now

from provisioning import executor, reconciler, services, wakeups
from provisioning.backends.base import ClusterBackend
from provisioning.models import Cluster, Operation
from provisioning.statements import MAX_DEATHS
from provisioning.states import OPEN_STATES, OperationState
from tests.factories import Person
from tests.provisioning import shared_region
from tests.provisioning.conftest import ask, put_on_plan
from tests.provisioning.shared_region import Plan, SharedRegion

PATIENCE_SECONDS = 120.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the processes say."""
    return tmp_path / "processes.log"


class Workers:
    """One worker at a time, as a process runner keeps it. Each has its own time to begin and to do its part."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._process: subprocess.Popen[bytes] | None = None
        self.ends: list[int] = []
        self.deadline = 0.0

    def keep(self) -> None:
        """Start one if none runs. The twenty seconds of a dead one's leases are not waited for."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.ends.append(status)
            self._process = None
            Cluster.objects.filter(lease_expires_at__gt=Now()).update(due_at=Now(), lease_expires_at=Now())
        if self._process is None:
            self._process = shared_region.spawn("worker", self._folder, log=self._log)
            self.deadline = time.monotonic() + PATIENCE_SECONDS

    def end(self) -> None:
        """The test is over."""
        if self._process is not None:
            shared_region.end(self._process)


@pytest.fixture
def workers(shared: SharedRegion, log: Path) -> Iterator[Workers]:
    """A process runner."""
    kept = Workers(shared.folder, log)
    yield kept
    kept.end()


@pytest.mark.timeout((MAX_DEATHS + 1) * PATIENCE_SECONDS + 60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_kills_its_worker_is_parked_after_three_deaths(
    committed: Person, shared: SharedRegion, workers: Workers, log: Path, number: signal.Signals
) -> None:
    put_on_plan(committed, "team")
    poison, *others = (
        services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name, name=name))
        for name in ("poison", "first", "second", "third", "fourth")
    )
    shared.expect(Plan(deadly={poison.cluster_id: int(number)}, slow_seconds=0.3))
    while Operation.objects.filter(cluster__organization=committed.organization, finished_at=None).exists():
        workers.keep()
        assert time.monotonic() < workers.deadline, (
            log.read_text()[-3000:],
            list(Cluster.objects.exclude(due_at=None).values()),
        )
        wakeups.send(poison.cluster_id)  # as the clock would
        time.sleep(0.2)
    poison.refresh_from_db()
    assert (poison.state, poison.error_code) == (OperationState.FAILED, "worker_keeps_dying")
    assert shared.deaths() == [poison.cluster_id] * 3
    assert workers.ends == [-number] * 3
    for other in others:
        other.refresh_from_db()
        assert (other.state, other.error_code) == (OperationState.SUCCEEDED, "")
    with shared.opened() as region:
        assert region.starts == len(others)


def test_a_database_that_refuses_what_a_turn_found_is_no_death_of_a_worker(
    committed: Person, shared: SharedRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else holds the operation's row, and we do not wait for locks: as a deadlock or a full disk would end."""
    operation = services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name))
    cluster = operation.cluster
    monkeypatch.setitem(executor.BACKENDS, "shared", lambda _slug: cast(ClusterBackend, shared))
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
        with psycopg.connect(**connection.get_connection_params()) as other:
            other.execute("SET ROLE flowplane_system")
            other.execute("SELECT FROM provisioning_operation WHERE id = %s FOR UPDATE", [operation.pk])
            for failures in range(1, MAX_DEATHS + 2):
                Cluster.objects.filter(pk=cluster.pk).update(due_at=Now())
                with pytest.raises(OperationalError):
                    reconciler.serve()
                cluster.refresh_from_db()
                assert (cluster.lease_expires_at, cluster.deaths, cluster.failures) == (None, 0, failures)
    while operation.state in OPEN_STATES:
        Cluster.objects.filter(pk=cluster.pk).update(due_at=Now())
        reconciler.serve()
        operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED
