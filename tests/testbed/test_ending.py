"""What is started in a testbed ends with it, and leaves the machine as it was.

These tests run in a testbed themselves: their own ones are made inside it, which the kernel allows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from testbed.bed import Bed
from tests.kubernetes import eventually
from tests.testbed.machines import groups, machine

pytestmark = [pytest.mark.kubernetes]


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "testbed", "--home", str(home), *arguments]


def on_testbed(home: Path, *arguments: str) -> str:
    """Run `python -m testbed` to its end and return what it said."""
    return subprocess.run(command(home, *arguments), check=True, capture_output=True, text=True).stdout


def running(home: Path) -> tuple[str, list[tuple[str, str]]]:
    """Return which process keeps a testbed, and its components with their processes."""
    status = on_testbed(home, "status")
    return Bed(home).record.read_text(), re.findall(r"^  (\S+) +process +(\d+)", status, re.MULTILINE)


def differing(lines: list[str], others: list[str]) -> list[str]:
    """Return what stands more often in one of the two."""
    more, less = Counter(lines), Counter(others)
    return sorted([*(more - less), *(less - more)])


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for a testbed with a node: a socket's path has 107 letters at most, and a pod's sockets lie deep."""
    with TemporaryDirectory(prefix="bed-") as folder:
        yield Path(folder, "bed")


@pytest.mark.parametrize(
    ("tier", "is_killed"),
    [("control", False), ("node", False), pytest.param("node", True, marks=pytest.mark.chaos)],
)
def test_a_testbed_leaves_nothing_behind(home: Path, tier: str, is_killed: bool) -> None:
    group = Bed(home).control_group
    with machine() as around:
        processes, network, state = around.processes(), around.network(), around.state()
        try:
            around.run(*command(home, "up", tier))
            assert "kube-apiserver" in around.run(*command(home, "status"))
            assert len(around.processes()) > len(processes)
            assert bool(groups(group))
            # It keeps to itself while it is there, too.
            assert differing(around.network(), network) == []
            assert differing(around.state(), state) == []
            if is_killed:
                around.run("kill", "-KILL", str(json.loads(Bed(home).record.read_text())["pid"]))
                assert eventually(lambda: around.processes() == processes), "only files are left to remove"
        finally:
            around.run(*command(home, "down"))
        assert around.processes() == processes
        assert differing(around.network(), network) == []
        assert differing(around.state(), state) == []
        assert not groups(group)
        assert not home.exists()
        # Once more is harmless.
        around.run(*command(home, "down"))


def test_a_second_control_plane_runs_beside_the_first(tmp_path: Path) -> None:
    home = tmp_path / "bed"
    try:
        on_testbed(home, "up", "control")
        first = running(home)
        assert "kube-apiserver" in dict(first[1])
        # Once more changes nothing.
        on_testbed(home, "up", "control")
        assert running(home) == first
        on_testbed(home, "up", "simulated", "--name", "second", "--nodes", "1")
        said = on_testbed(home, "run", "--name", "second", "--", "kubectl", "get", "nodes", "-o", "name")
        assert "node/simulated-0" in said
        on_testbed(home, "down", "--name", "second")
        status = on_testbed(home, "status")
        assert "'default'" in status
        assert "'second'" not in status
    finally:
        on_testbed(home, "down")


def test_a_folder_that_is_not_ours_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    argv = [sys.executable, "-m", "testbed", "--home", str(tmp_path), "down"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not ours to remove" in done.stderr
    assert (tmp_path / "precious").exists()
