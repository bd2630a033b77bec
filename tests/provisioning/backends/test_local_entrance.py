"""The clients' entrance to several brokers: a real process, with servers of ours in place of brokers."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from provisioning.backends.local import starting
from tests.provisioning.backends.conftest import PATIENCE_SECONDS, can_connect, free_port, wait_until


class Broker:
    """A server that sends back what it gets, and its name once the other side has ended."""

    alive: ClassVar[list[Broker]] = []

    def __init__(self, name: str) -> None:
        self.alive.append(self)
        self.name = name.encode()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port = int(self._server.getsockname()[1])
        self._lines: list[tuple[socket.socket, threading.Thread]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """End everything at once, as the kernel does for a killed process."""
        self.alive.remove(self)
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        for line, thread in self._lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=[line], daemon=True)
            self._lines.append((line, thread))
            thread.start()

    def _echo(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            while read := line.recv(65536):
                line.sendall(read)
            line.sendall(self.name)


class Entrance:
    """The program, and the file with its routes."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.file = folder / "routes.json"
        self._process: subprocess.Popen[bytes] | None = None

    def lead(self, *brokers: Broker, **more: list[Broker]) -> None:
        routes = {self.port: list(brokers), **{int(port.strip("_")): to for port, to in more.items()}}
        content = {"routes": [{"listen": port, "to": [one.port for one in to]} for port, to in routes.items()]}
        self.file.with_suffix(".new").write_text(json.dumps(content))
        self.file.with_suffix(".new").replace(self.file)

    def run(self, *program: str) -> None:
        program = program or (str(starting.ENTRANCE),)
        self._process = subprocess.Popen([sys.executable, "-I", "-S", *program, str(self.file)])
        wait_until(lambda: can_connect(self.port))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def ask(self) -> bytes:
        """Which broker answers."""
        with self.connect() as line:
            line.shutdown(socket.SHUT_WR)
            return read_all(line)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def memory_kib(self) -> int:
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty:"))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def read_all(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


@pytest.fixture
def entrance(tmp_path: Path) -> Iterator[Entrance]:
    entrance = Entrance(tmp_path)
    yield entrance
    entrance.stop()
    for broker in list(Broker.alive):
        broker.die()


def test_clients_are_spread_over_the_brokers_and_a_refusal_leads_to_the_next(entrance: Entrance) -> None:
    first, second, third = (Broker(name) for name in ("first", "second", "third"))
    second.die()
    entrance.lead(first, second, third)
    entrance.run()

    assert {entrance.ask() for _ in range(9)} == {b"first", b"third"}


def test_when_a_broker_dies_its_clients_are_let_go_and_find_another(entrance: Entrance) -> None:
    first, second = Broker("first"), Broker("second")
    entrance.lead(first)
    entrance.run()
    with entrance.connect() as line:
        line.sendall(b"hello")
        assert line.recv(100) == b"hello"
        entrance.lead(first, second)
        first.die()
        assert has_ended(line)

    assert entrance.ask() == b"second"


def has_ended(line: socket.socket) -> bool:
    """Whether the other side has closed, in order or not."""
    try:
        return line.recv(100) == b""
    except ConnectionResetError:
        return True


def test_without_any_broker_a_client_is_sent_away_and_the_next_is_served_when_there_is_one(entrance: Entrance) -> None:
    only = Broker("only")
    only.die()
    entrance.lead(only)
    entrance.run()
    with entrance.connect() as line:
        assert has_ended(line)

    entrance.lead(Broker("late"))
    assert entrance.ask() == b"late"


def test_brokers_and_ports_come_and_go_without_a_restart(entrance: Entrance) -> None:
    first, second = Broker("first"), Broker("second")
    entrance.lead(first)
    entrance.run()
    other = free_port()

    entrance.lead(second, **{f"_{other}": [first]})
    wait_until(lambda: can_connect(other))
    assert entrance.ask() == b"second"
    entrance.lead(second)
    wait_until(lambda: not can_connect(other))


def test_routes_that_cannot_be_read_leave_the_old_ones_in_force(entrance: Entrance) -> None:
    entrance.lead(Broker("first"))
    entrance.run()
    for damage in (b"{damaged", b'{"routes": 1}', b""):
        entrance.file.write_bytes(damage)
        assert entrance.ask() == b"first"
    entrance.file.unlink()
    assert entrance.ask() == b"first"


def test_all_bytes_arrive_in_both_directions_with_the_end_of_each(entrance: Entrance) -> None:
    entrance.lead(Broker("echo"))
    entrance.run()
    content = os.urandom(4 * 2**20)
    with entrance.connect() as line:
        writer = threading.Thread(target=send_all, args=[line, content])
        writer.start()
        got = read_all(line)
        writer.join()

    assert got == content + b"echo"


def send_all(line: socket.socket, content: bytes) -> None:
    line.sendall(content)
    line.shutdown(socket.SHUT_WR)


def fill(line: socket.socket) -> None:
    """Send until nothing more is taken."""
    line.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            line.send(b"x" * 65536)


def test_a_client_that_reads_nothing_slows_its_sender_down_and_costs_neither_memory_nor_time(
    entrance: Entrance,
) -> None:
    entrance.lead(Broker("echo"))
    entrance.run()
    before = entrance.memory_kib()
    with entrance.connect() as line:
        fill(line)
        spent = entrance.cpu_seconds()
        time.sleep(1)

        assert entrance.cpu_seconds() - spent < 0.5
        assert entrance.memory_kib() - before < 2048


def test_a_half_closed_line_behind_a_slow_reader_costs_no_time(entrance: Entrance) -> None:
    entrance.lead(Broker("echo"))
    entrance.run()
    with entrance.connect() as line:
        fill(line)
        line.shutdown(socket.SHUT_WR)
        spent = entrance.cpu_seconds()
        time.sleep(1)
        cost = entrance.cpu_seconds() - spent
        line.settimeout(PATIENCE_SECONDS)
        got = read_all(line)

    assert cost < 0.5
    assert got.endswith(b"echo")


def test_a_thousand_idle_clients_are_cheap_and_leave_nothing_behind(entrance: Entrance) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    entrance.lead(Broker("idle"))
    entrance.run()
    before = entrance.memory_kib()
    with contextlib.ExitStack() as lines:
        for _ in range(1000):
            lines.enter_context(entrance.connect())
        wait_until(lambda: open_files(entrance) >= 2000)
        idle = entrance.memory_kib()

    assert idle - before < 4096
    wait_until(lambda: open_files(entrance) < 20)


def open_files(entrance: Entrance) -> int:
    return len(list(Path(f"/proc/{entrance.pid}/fd").iterdir()))


def test_a_broker_that_hangs_is_left_for_another(entrance: Entrance) -> None:
    hanging = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = hanging.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    broker = Broker("well")
    entrance.lead(broker)
    entrance.file.write_text(
        json.dumps({"routes": [{"listen": entrance.port, "to": [port, broker.port, port, broker.port]}]})
    )
    entrance.run()

    assert {entrance.ask() for _ in range(4)} == {b"well"}
    for filler in (*fillers, hanging):
        filler.close()


# The program as it is, but for every client that it lets in it stands still for longer than a broker has.
HELD_UP = f"""
import sys, time
sys.path.append({str(starting.ENTRANCE.parent)!r})
import entrance

begin, entrance.CONNECT_SECONDS = entrance.Entrance._begin, 0.5

def begin_and_stand_still(*arguments):
    begin(*arguments)
    time.sleep(1)

entrance.Entrance._begin = begin_and_stand_still
entrance.main()
"""


def test_a_broker_that_accepted_while_the_entrance_was_held_up_is_kept(entrance: Entrance) -> None:
    entrance.lead(Broker("only"))
    entrance.run("-c", HELD_UP)

    assert entrance.ask() == b"only"


def test_it_ends_when_it_is_told_to(entrance: Entrance) -> None:
    entrance.lead(Broker("any"))
    entrance.run()
    os.kill(entrance.pid, signal.SIGTERM)
    wait_until(lambda: not can_connect(entrance.port))
