"""A worker that is killed while it asks something of an engine: the next turn finishes it, and nothing is done twice.

It is killed before and after everything that others can see of it: each request, each note and each signal. Sleeping
programs stand in for Java, and a small server for their management interfaces.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import pytest

from provisioning.backends.local import backend, starting
from provisioning.backends.local.backups import BackupNotes
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.layout import Seat
from provisioning.backends.local.observing import starts_of
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import EngineRecord, running
from provisioning.spec import STOP_GRACE_SECONDS, BackupRef, DesiredCluster, Work
from tests.provisioning.backends.conftest import TRIO, wait_until
from tests.provisioning.backends.contract import await_sight
from tests.provisioning.backends.test_local_brokers import Standins, standins
from tests.provisioning.dying import is_killed_in

__all__ = ["standins"]

# What others can see of a call: a worker is killed before and after each time one of these is done.
STEPS: tuple[tuple[Any, str], ...] = (
    (LoopbackDoor, "ask"),
    (EngineRecord, "note_stopping"),
    (Identity, "signal"),
    (BackupNotes, "write"),
    (backend, "write_json"),
    (starting, "write_card"),
    (starting, "write_routes"),
)


def killed_at(moment: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that kills itself at this moment; False when it got through."""

    def do() -> None:
        left = [moment]
        with ExitStack() as patches:
            for owner, name in STEPS:
                patches.enter_context(patch.object(owner, name, dying(getattr(owner, name), left)))
            work()

    return is_killed_in(do)


def dying(step: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def pass_a_moment() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def run(*arguments: Any, **options: Any) -> Any:
        pass_a_moment()
        answer = step(*arguments, **options)
        pass_a_moment()
        return answer

    return run


@dataclass
class Engine:
    """What all brokers of an engine know, and what was asked of it."""

    members: tuple[int, ...] = ()
    version: int = 1
    rescales: list[tuple[int, ...]] = field(default_factory=list)
    rebalances: int = 0
    backups: list[int] = field(default_factory=list)
    looks: int = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.partition("?")[0].removeprefix("/actuator/").split("/"):
            case "GET", ["cluster"]:
                brokers = [{"id": node, "state": "ACTIVE"} for node in self.members]
                return 200, {"version": self.version, "brokers": brokers}
            case "POST", ["cluster", "brokers"]:
                self.members = tuple(map(int, body))
                self.version += 1
                self.rescales.append(self.members)
                return 202, {}
            case "POST", ["rebalance"]:
                self.rebalances += 1
                return 202, {}
            case "POST", ["backups"]:
                return self.begin_backup(body["backupId"])
            case "GET", ["backups", number]:
                # For a moment after it was asked for, the engine knows nothing of a backup.
                self.looks += 1
                is_known = int(number) in self.backups and self.looks > 1
                return (200, {"state": "COMPLETED", "details": [{"state": "COMPLETED"}]}) if is_known else (404, {})
            case "GET", _:
                return 200, {}
        raise AssertionError((method, path))

    def begin_backup(self, number: int) -> tuple[int, Any]:
        """Take each number once, and none below."""
        if number <= max(self.backups, default=0):
            return 409, {}
        self.backups.append(number)
        self.looks = 0
        return 202, {}


class Management(ThreadingHTTPServer):
    """One broker's management interface."""

    engine: Engine


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Management)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self.server.engine.answer(self.command, self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Served:
    """Four brokers that run, of which the engine counts on three."""

    standins: Standins
    cluster: DesiredCluster
    engine: Engine

    def call(self, verb: str, desired: DesiredCluster) -> None:
        getattr(self.standins.backend, verb)(desired, epoch=self.standins.stage.next_epoch())


@pytest.fixture
def served(standins: Standins) -> Iterator[Served]:
    cluster = standins.stage.desired(size=replace(TRIO, brokers=4))
    standins.start(cluster)
    engine, servers = Engine(), []
    for record in standins.records(cluster).values():
        server = Management(("127.0.0.1", record.ports.management), Handler)
        server.engine = engine
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
    yield Served(standins, cluster, engine)
    for server in servers:
        server.shutdown()
        server.server_close()


def moments(at_least: int, work: Callable[[int], object]) -> Iterator[int]:
    """Have the work, which is told the moment, killed at each of them in turn, until it gets through."""
    moment = 0
    while killed_at(moment, partial(work, moment)):
        yield moment
        moment += 1
    yield moment
    assert moment >= at_least


def test_a_rescale_that_is_killed_anywhere_is_asked_for_until_it_is_so_and_not_again(served: Served) -> None:
    engine, entrance = served.engine, served.standins.folder(served.cluster).entrance
    engine.members = (0, 1, 2)
    entrance.routes.unlink()
    # Asking four brokers, the change itself, and leading the clients.
    for _ in moments(2 * 6, lambda _: served.call("rescale", served.cluster)):
        served.call("rescale", served.cluster)

        assert engine.rescales == [(0, 1, 2, 3)], "it was asked for once, by the killed one or by the next"
        assert len(json.loads(entrance.routes.read_text())["routes"][0]["to"]) == 4
        engine.members = (0, 1, 2)
        engine.rescales.clear()
        entrance.routes.unlink()


def test_a_rebalance_that_is_killed_anywhere_counts_only_once_the_engine_was_asked(served: Served) -> None:
    engine, folder = served.engine, served.standins.folder(served.cluster)
    for _ in moments(2 * 6, lambda _: served.call("rebalance", served.cluster)):
        assert engine.rebalances or not folder.rebalanced.exists()
        served.call("rebalance", served.cluster)

        assert engine.rebalances in {1, 2}
        assert json.loads(folder.rebalanced.read_text()) == starts_of(folder)
        folder.rebalanced.unlink()
        engine.rebalances = 0


def test_a_backup_that_is_killed_anywhere_is_taken_once_and_its_number_is_not_called_used(served: Served) -> None:
    def wish(moment: int) -> DesiredCluster:
        return replace(served.cluster, backup=BackupRef(served.cluster.cluster_id, moment + 1))

    # Asking four brokers, a note, the request, and another note.
    for moment in moments(2 * 7, lambda moment: served.call("back_up", wish(moment))):
        served.call("back_up", wish(moment))

        sight = await_sight(served.standins.backend, wish(moment), lambda sight: sight.backup is not Work.RUNNING)
        assert (sight.backup, sight.backup_detail) == (Work.DONE, "")
        assert served.engine.backups == list(range(1, moment + 2)), "each number was taken once"


def test_a_stop_that_is_killed_anywhere_is_finished_by_the_next_and_reads_as_no_crash(standins: Standins) -> None:
    cluster = standins.stage.desired(size=replace(TRIO, brokers=2))
    folder = standins.folder(cluster)
    standins.start(cluster)
    seats = (folder.broker(0), folder.broker(1), folder.entrance)
    # The card, and of three processes the note and the signal.
    for _ in moments(2 * 7, lambda _: standins.stop(cluster)):
        standins.stop(cluster)
        # One that was noted and not told any more is ended by force, when its time is over.
        wait_until(lambda: len(alive(*seats)) <= 1)
        for seat in alive(*seats):
            age_note(seat)
        standins.stop(cluster)
        wait_until(lambda: not alive(*seats))

        sight = standins.backend.observe(cluster)
        assert not sight.running
        assert sight.last_exit == ""
        standins.start(cluster)


def alive(*seats: Seat) -> list[Seat]:
    """On which of them something runs."""
    return [seat for seat in seats if running(seat) is not None]


def age_note(seat: Seat) -> None:
    """Have somebody have been told to stop long ago."""
    note = json.loads(seat.stopping.read_text())
    seat.stopping.write_text(json.dumps({**note, "at": note["at"] - STOP_GRACE_SECONDS}))
