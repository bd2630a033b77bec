"""A pulse says that a process gets anywhere, and its probe tells an old one from a young one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import pulse

PROBE = Path(pulse.__file__)


def probe(file: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run the probe as Kubernetes does: from anywhere, without our packages."""
    argv = [sys.executable, "-I", str(PROBE), str(file), str(seconds)]
    return subprocess.run(argv, cwd="/", env={}, capture_output=True, text=True, check=False, timeout=60)


class Clock:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> pulse.Vitals:
    return pulse.Vitals(clock)


def test_a_young_pulse_is_good(tmp_path: Path) -> None:
    pulse.beat(tmp_path / "pulse")
    done = probe(tmp_path / "pulse", 60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_old_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "pulse").write_text(str(time.monotonic() - 3600), encoding="ascii")
    done = probe(tmp_path / "pulse", 60)
    assert done.returncode == 1
    assert re.search(r"no pulse within 60 s: the last one is 36\d\d s old", done.stderr)


@pytest.mark.parametrize("content", [None, "", "soon"])
def test_none_is_not(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "pulse").write_text(content)
    done = probe(tmp_path / "pulse", 60)
    assert done.returncode == 1
    assert "there is none" in done.stderr


def test_nobody_asked_for_a_pulse() -> None:
    pulse.beat(None)


def test_a_worker_that_waits_for_messages_is_well(vitals: pulse.Vitals, clock: Clock) -> None:
    for _ in range(100):
        vitals.turn()
        clock.seconds += pulse.MAX_LOOP_SECONDS
        assert vitals.fault() == ""


def test_a_worker_without_a_broker_is_well(vitals: pulse.Vitals, clock: Clock) -> None:
    clock.seconds += 1e6
    assert vitals.fault() == "", "it never had one"
    vitals.turn()
    vitals.disconnect()
    clock.seconds += 1e6
    assert vitals.fault() == "", "it has lost it"


def test_a_loop_that_turns_no_more_is_a_fault(vitals: pulse.Vitals, clock: Clock) -> None:
    vitals.turn()
    clock.seconds += pulse.MAX_LOOP_SECONDS + 1
    assert "no message has been looked for" in vitals.fault()


def test_a_task_without_an_end_is_a_fault(vitals: pulse.Vitals, clock: Clock) -> None:
    vitals.begin("one")
    clock.seconds += pulse.MAX_TASK_SECONDS
    vitals.begin("two")
    assert vitals.fault() == ""
    clock.seconds += 1
    assert "a task has been running" in vitals.fault()
    vitals.end("one")
    assert vitals.fault() == ""
    vitals.end("unknown")
