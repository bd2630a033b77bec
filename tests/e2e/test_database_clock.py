"""The database's own clock, by which leases, due times and time limits are judged, leaps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedded import database
from embedded.database import superuser_address
from embedded.doors import wait_for
from embedded.home import Home
from embedded.machine import running
from embedded.parts import Parts
from tests.e2e.freezing import worker_frozen_in_its_turn
from tests.e2e.stack import Customer, Stack, machine_of_its_own
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]


class DatabaseClock:
    """PostgreSQL's clock, moved by libfaketime while it runs; its monotonic one goes on, as a real one does."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file = home.root / "database-clock"
        self._file.write_text("+0", encoding="ascii")

    def around(self, command: Sequence[str]) -> list[str]:
        """The same command, on this clock."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        told = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": self._file,
            "FAKETIME_CACHE_DURATION": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in told.items()), *command]

    def leap_to(self, hours: int) -> None:
        """Set it so many hours off, and return when every new statement goes by it."""
        self._file.write_text(f"{hours:+d}h" if hours else "+0", encoding="ascii")
        wait_for(lambda: abs(self._offset() - hours * 3600) < 60 or None, seconds=30, what="The leap")

    def _offset(self) -> float:
        with psycopg.connect(superuser_address(self._home)) as admin:
            row = admin.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
        assert row is not None
        return float(row[0]) - time.time()


@pytest.fixture
def clock_and_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DatabaseClock, Stack]]:
    """A product of its own, whose database goes by a clock of its own."""
    with machine_of_its_own() as machine:
        clock, right = DatabaseClock(machine.home), database.server_command

        def on_its_clock(home: Home, parts: Parts) -> list[str]:
            return clock.around(right(home, parts))

        monkeypatch.setattr(database, "server_command", on_its_clock)
        with running(machine, lambda _title: contextlib.nullcontext()) as supervisor:
            yield clock, Stack(machine, supervisor)


def test_a_database_whose_clock_leaps_does_what_is_wished_and_nothing_else(
    clock_and_stack: tuple[DatabaseClock, Stack],
) -> None:
    """In the middle of a turn each time: forwards its lease is over at once, backwards not for two more hours."""
    clock, stack = clock_and_stack
    customer = stack.customer()
    steady, changed = (_healthy(customer) for _ in range(2))
    variables = customer.credential(steady["id"])
    before = stack.engines(steady["id"])
    with Traffic(variables, stack.access_token(variables)) as traffic:
        for hours, is_killed in ((1, False), (-1, True)):
            suspension = customer.api("POST", f"/clusters/{changed['id']}/suspend")
            assert customer.finished(suspension)["state"] == "succeeded"
            assert stack.engines(changed["id"]) == []
            resumption = customer.api("POST", f"/clusters/{changed['id']}/resume")
            with worker_frozen_in_its_turn(stack, changed["id"]):
                clock.leap_to(hours)
                if is_killed:
                    os.kill(stack.supervisor.pid_of("worker"), signal.SIGKILL)
            assert customer.finished(resumption)["state"] == "succeeded"
            assert len(stack.engines(changed["id"])) == 1
            stack.access_token(variables)  # though every key's activation may be ahead
    assert traffic.counts.failed == []
    assert stack.engines(steady["id"]) == before
    for cluster in (steady, changed):
        customer.until(cluster["id"], "healthy")
    assert stack.is_complete()


def _healthy(customer: Customer) -> dict[str, Any]:
    made = customer.create_cluster()
    assert customer.finished(made["operation"])["state"] == "succeeded"
    return customer.until(made["cluster"]["id"], "healthy")
