"""The whole product as processes of their own, started, interrupted, killed and taken down as a person would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from embedded.environment import base_environment
from embedded.home import locate
from embedded.processes import Process, processes, runs_inside
from embedded.setup import CHECKOUT
from tests.embedded.test_home import modes_of_parents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]


@dataclass
class Laptop:
    """One machine's settings, and the commands that a person gives on it."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "embedded", *arguments],
            cwd=CHECKOUT,
            env={**base_environment(), **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *arguments: str) -> tuple[int, str]:
        with self.command(*arguments) as running:
            said: str = running.communicate()[0]
        return running.returncode, said

    def leftovers(self) -> list[list[str]]:
        """Return the command lines of all processes that have to do with this home."""
        return [process.command for process in processes() if self._is_ours(process)]

    def _is_ours(self, process: Process) -> bool:
        if runs_inside(process, self.folder):
            return True
        return str(self.folder) in f"{process.command}{process.environment}"


@pytest.fixture
def laptop(folder: Path) -> Iterator[Laptop]:
    ports = free_ports(3)
    variables = {
        "FLOWPLANE_HOME": str(folder / "home"),
        # Shared with everybody: what is made for it is found by content.
        "FLOWPLANE_CACHE": str(locate().cache),
        "FLOWPLANE_WEB_PORT": str(ports[0]),
        "FLOWPLANE_WEB_TLS_PORT": str(ports[1]),
        "FLOWPLANE_STORE_PORT": str(ports[2]),
        "FLOWPLANE_ENGINE_PORTS": "28500-28599",
    }
    laptop = Laptop(folder, variables)
    yield laptop
    laptop.finish("down", "--purge")
    assert laptop.leftovers() == []


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def read_until(running: subprocess.Popen[str], mark: str) -> str:
    assert running.stdout is not None
    said: list[str] = []
    for line in running.stdout:
        said.append(line)
        if mark in line:
            return "".join(said)
    raise AssertionError(f"it ended without saying {mark!r}:\n{''.join(said)}")


def test_from_sign_up_to_fulfilled_orders_and_again_on_the_same_engine(laptop: Laptop) -> None:
    before = modes_of_parents(laptop.folder / "home")

    status, first = laptop.finish("demo", "--once")
    assert status == 0, first
    assert "Sign up" in first
    assert "orders fulfilled" in first
    assert laptop.leftovers() == []
    assert modes_of_parents(laptop.folder / "home") == before
    login = json.loads((laptop.folder / "home/secrets/demo.json").read_text())

    status, second = laptop.finish("demo", "--once")
    assert status == 0, second
    assert "Bring the engine back" in second
    assert "Sign up" not in second
    assert laptop.leftovers() == []
    assert json.loads((laptop.folder / "home/secrets/demo.json").read_text()) == login

    status, said = laptop.finish("down", "--purge")
    assert status == 0, said
    assert not (laptop.folder / "home").exists()


def test_an_interrupted_demo_leaves_no_process_and_the_next_one_goes_on(laptop: Laptop) -> None:
    with laptop.command("demo", "--once") as demo:
        read_until(demo, "Sign in for the first time")
        time.sleep(3)  # in the middle of making the engine
        demo.send_signal(signal.SIGTERM)
        demo.communicate()
    assert demo.returncode == 130
    assert laptop.leftovers() == []
    status, said = laptop.finish("demo", "--once")
    assert status == 0, said
    assert "Sign up" not in said


def test_a_second_demo_is_refused_and_a_killed_one_is_taken_down(laptop: Laptop) -> None:
    with laptop.command("demo", "--once") as demo:
        read_until(demo, "Start web, worker, clock and watch")
        status, said = laptop.finish("demo", "--once")
        assert status == 1
        assert said.startswith("Another `make demo` is using")
        runners = [process for process in processes() if "supervisord" in str(process.command)]
        ours = [process for process in runners if str(laptop.folder) in str(process.command)]
        for pid in (demo.pid, *(process.pid for process in ours)):
            os.kill(pid, signal.SIGKILL)
        demo.communicate()
    assert laptop.leftovers() != []
    status, said = laptop.finish("down")
    assert status == 0, said
    assert laptop.leftovers() == []
    assert (laptop.folder / "home").exists()


def test_taking_down_ends_a_demo_that_runs_elsewhere(laptop: Laptop) -> None:
    with laptop.command("demo") as demo:
        read_until(demo, "Start web, worker, clock and watch")
        status, said = laptop.finish("down")
        demo.communicate()
    assert status == 0, said
    assert "is stopped; its state is kept" in said
    assert demo.returncode == 130
    assert laptop.leftovers() == []


def test_a_taken_port_stops_the_start_with_a_sentence_and_leaves_nothing(laptop: Laptop) -> None:
    with socket.create_server(("127.0.0.1", int(laptop.variables["FLOWPLANE_WEB_PORT"]))):
        status, said = laptop.finish("demo", "--once")
    assert status == 1
    assert f"Port {laptop.variables['FLOWPLANE_WEB_PORT']} of 127.0.0.1 is taken by another program" in said
    assert "Traceback" not in said
    assert laptop.leftovers() == []
