"""The region in memory, kept in a folder: several processes of ours see the same engines and meet the same fence.

As a program it is our own worker, clock or watch, with this region on offer:

    python -m tests.provisioning.shared_region worker|clock|watch

and does to its own process what the test has planned for it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from provisioning.backends.base import ClusterBackend
from provisioning.spec import DesiredCluster, ObservedCluster
from tests.provisioning.pretend import PretendRegion

FOLDER_VARIABLE = "SHARED_REGION_FOLDER"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Plan:
    """What processes meet in the region.

    Attributes:
        deadly: a start of one of these ends the process that tries it, with the signal named.
        is_deadly_once: only the first process that tries it.
        slow_seconds: how long each look takes.
    """

    deadly: dict[UUID, int] = field(default_factory=dict)
    is_deadly_once: bool = False
    slow_seconds: float = 0.0


class SharedRegion:
    """A `PretendRegion` that is read from its file and written back at every call, under a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self) -> Iterator[PretendRegion]:
        """The region's state, while nobody else has it."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self.folder / "region"
            region = pickle.loads(file.read_bytes()) if file.exists() else PretendRegion()
            try:
                yield region
            finally:
                unfinished = file.with_suffix(".new")  # whoever writes may be killed
                unfinished.write_bytes(pickle.dumps(region))
                unfinished.rename(file)

    @property
    def plan(self) -> Plan:
        """What is planned for those who call."""
        file = self.folder / "plan"
        plan: Plan = pickle.loads(file.read_bytes()) if file.exists() else Plan()
        return plan

    def expect(self, plan: Plan) -> None:
        """Plan it."""
        (self.folder / "plan").write_bytes(pickle.dumps(plan))

    def deaths(self) -> list[UUID]:
        """Of what processes have died, in order."""
        file = self.folder / "deaths"
        return [UUID(line) for line in file.read_text().split()] if file.exists() else []

    def read(self) -> PretendRegion:
        """The region as it is now."""
        with self.opened() as region:
            return region

    def __getattr__(self, verb: str) -> Any:
        """Every other verb of the region's, carried out on its state."""
        if not callable(getattr(PretendRegion, verb, None)):
            raise AttributeError(verb)

        def call(*arguments: Any, **named: Any) -> Any:
            with self.opened() as region:
                answer = getattr(region, verb)(*arguments, **named)
                return list(answer) if isinstance(answer, Generator) else answer

        return call

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        time.sleep(self.plan.slow_seconds)
        with self.opened() as region:
            return region.observe(desired)

    def changes(self, hears: Callable[[float], None]) -> Iterator[UUID]:
        """Hear of nothing, for ever."""
        while True:
            hears(0.0)
            time.sleep(0.2)
            yield from ()

    def start(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        self._die_of(desired.cluster_id)
        with self.opened() as region:
            region.start(desired, nodes, epoch=epoch)

    def _die_of(self, cluster_id: UUID) -> None:
        plan = self.plan
        number = plan.deadly.get(cluster_id)
        if number is not None and not (plan.is_deadly_once and cluster_id in self.deaths()):
            with (self.folder / "deaths").open("a") as file:
                file.write(f"{cluster_id}\n")
            os.kill(os.getpid(), number)
            time.sleep(60)  # the signal is on its way


def spawn(what: str, folder: Path, *, log: Path) -> subprocess.Popen[bytes]:
    """Start our worker, clock or watch, as the database role it has in production, with the region of that folder."""
    environment = {
        **os.environ,
        "FLOWPLANE_DATABASE_URL": os.environ["FLOWPLANE_DATABASE_URL"].replace("flowplane_app@", "flowplane_system@"),
        FOLDER_VARIABLE: str(folder),
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.provisioning.shared_region", what],
            cwd=CHECKOUT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of ours and collect it."""
    process.kill()
    process.wait(timeout=30)


def _main(what: str) -> None:
    import django  # noqa: PLC0415 - only as a program

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from config.celery import app  # noqa: PLC0415
    from provisioning import executor  # noqa: PLC0415

    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    from provisioning.models import Region  # noqa: PLC0415

    def shared(_slug: str) -> ClusterBackend:
        return cast(ClusterBackend, SharedRegion(Path(os.environ[FOLDER_VARIABLE])))

    executor.BACKENDS["shared"] = shared
    if what == "watch":
        # Regions of other tests are left in the database, and one that cannot be watched ends the process.
        for backend in Region.objects.values_list("backend", flat=True):
            executor.BACKENDS.setdefault(backend, shared)
    if what != "worker":
        call_command(what)
    else:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
        app.worker_main(["worker", "--pool", "threads", "--concurrency", "4", *quiet])


if __name__ == "__main__":
    _main(sys.argv[1])
