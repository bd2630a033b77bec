"""Two releases at work on one database, one queue and one region, each as its own processes."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import redis

from embedded import database
from embedded.doors import wait_for
from embedded.environment import Ports
from embedded.machine import Machine, halt, start_stores, wait_for_web
from embedded.processes import Process, uninterrupted
from embedded.supervision import PRODUCT, Supervisor, product, stores
from tests.e2e.releases import Release
from tests.e2e.stack import Customer, Stack
from tests.provisioning.backends.conftest import has_termination_in

OLD = tuple(f"old-{name}" for name in PRODUCT)
QUEUE = "flowplane"
# Our own lines, hypercorn's, and what nobody caught.
_COMPLAINT = re.compile(r"\S+ (error|critical) |.*\[(ERROR|CRITICAL)\]|Traceback")


class TwoReleases(Stack):
    """The previous release's processes, whose names begin with `old-`, beside this one's."""

    def __init__(self, machine: Machine, supervisor: Supervisor, old: Release, new_ports: Ports) -> None:
        super().__init__(machine, supervisor)
        self.old = old
        self.new_ports = new_ports

    def start(self, *names: str) -> None:
        """Start programs; a web process is waited for until it answers."""
        self.supervisor.start(names)
        for name, ports in (("old-web", self.machine.ports), ("web", self.new_ports)):
            if name in names:
                wait_for_web(ports)

    def drain(self, *names: str) -> None:
        """Stop programs that are at work, as a deployment does: each finishes what it has begun and ends by itself."""
        for name in names:
            wait_for(partial(self._can_be_asked, name), seconds=60, what=f"{name} at work")
        self.supervisor.stop(names)
        forced = {name for name in names if self.supervisor.exit_status_of(name) != 0}
        assert not forced, f"{forced} did not end by themselves"

    def _can_be_asked(self, name: str) -> bool | None:
        """Whether it is more than begun: before a program has a handler of its own, SIGTERM just ends it."""
        process = Process(self.supervisor.pid_of(name))
        is_program = "embedded" not in process.command  # what becomes the program has a handler, too
        return (has_termination_in("SigCgt", process.pid) and is_program) or None

    def ringing(self) -> int:
        """How many messages wait in the queue."""
        client: Any = redis.Redis(unix_socket_path=str(self.home.broker_socket))
        with contextlib.closing(client):
            return int(client.llen(QUEUE))

    def until_somebody_rings(self) -> None:
        """Wait for a message in the queue; nobody may be taking any."""
        wait_for(lambda: self.ringing() or None, seconds=20, what="A message in the queue")

    def complaints(self) -> list[str]:
        """What our processes logged as errors, of both releases."""
        return [
            f"{log.stem}: {line}"
            for log in sorted(self.home.logs.glob("*.log"))
            if log.stem in (*PRODUCT, *OLD)
            for line in log.read_text(encoding="utf-8").splitlines()
            if _COMPLAINT.match(line)
        ]


@contextlib.contextmanager
def two_releases(machine: Machine, old: Release, new_ports: Ports) -> Iterator[TwoReleases]:
    """Start the previous release on a database of its making; this one's processes are kept but not started."""
    print(old.note())  # pytest shows it when something fails
    supervisor = Supervisor(machine.home, machine.ports)
    theirs = old.programs(machine.home, machine.ports)
    kept = [*stores(machine.home, machine.parts, machine.ports), *theirs, *product(machine.home, new_ports)]
    # On a busy machine each may take a while longer than it has in earnest.
    kept = [replace(one, stop_seconds=3 * one.stop_seconds) for one in kept]
    try:
        start_stores(machine, supervisor, kept)
        database.provide_roles(machine.home, machine.parts)
        old.manage(machine.home, machine.ports, "owner", "migrate", "--no-input", "--verbosity", "0")
        old.manage(machine.home, machine.ports, "system", "bootstrap")
        releases = TwoReleases(machine, supervisor, old, new_ports)
        releases.start(*OLD)
        yield releases
    finally:
        with uninterrupted():
            if supervisor.answers():
                supervisor.stop(tuple(reversed(OLD)))
            halt(machine, supervisor)


class Traffic:
    """Somebody who reads and writes all the time, and remembers every answer that was no success."""

    def __init__(self, customer: Customer, cluster_id: str) -> None:
        self._customer = customer
        self._path = f"/clusters/{cluster_id}"
        self._done = threading.Event()
        self.answers = 0
        self.failed: list[str] = []

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Go on for the length of the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self._ask("GET", "/clusters")
            self._ask("PATCH", self._path, {"name": f"renamed-{self.answers}"})
            self._ask("GET", "/operations")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        answer = self._customer.request(method, path, body)
        self.answers += 1
        if not answer.ok:
            self.failed.append(f"{method} {path}: {answer.status_code} {answer.text}")
