"""A turn that kills its worker, with real workers: it is parked, and nobody else pays for it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models.functions import Now

from provisioning import services, wakeups
from provisioning.models import Cluster, Operation
from provisioning.states import OperationState
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
    """One worker at a time, as a process runner keeps it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._process: subprocess.Popen[bytes] | None = None
        self.ends: list[int] = []

    def keep(self) -> None:
        """Start one if none runs. The twenty seconds of a dead one's leases are not waited for."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.ends.append(status)
            self._process = None
            Cluster.objects.filter(lease_expires_at__gt=Now()).update(due_at=Now(), lease_expires_at=Now())
        if self._process is None:
            self._process = shared_region.spawn("worker", self._folder, log=self._log)

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
    deadline = time.monotonic() + PATIENCE_SECONDS
    while Operation.objects.filter(cluster__organization=committed.organization, finished_at=None).exists():
        assert time.monotonic() < deadline, (
            log.read_text()[-3000:],
            list(Cluster.objects.exclude(due_at=None).values()),
        )
        workers.keep()
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
