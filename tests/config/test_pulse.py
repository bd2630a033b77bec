"""Real processes keep their pulse: with and without a broker, and not when they are stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common import pulse
from tests.provisioning.shared_region import CHECKOUT

WORKER = ("-m", "celery", "-A", "config.celery", "worker", "--pool", "threads", "--concurrency", "1")
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")


@contextmanager
def running(file: Path, *command: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our processes, and end it."""
    environment = {
        **os.environ,
        "FLOWPLANE_DATABASE_URL": os.environ["FLOWPLANE_DATABASE_URL"].replace("flowplane_app@", "flowplane_system@"),
        "FLOWPLANE_PULSE_FILE": str(file),
        **settings,
    }
    with (file.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=CHECKOUT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(timeout=30)


def beats(file: Path, *, seconds: float = 90) -> bool:
    """Tell whether a new pulse comes in time."""
    before, deadline = file.read_text() if file.exists() else "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if file.exists() and file.read_text() != before:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("command", [("manage.py", "clock"), ("manage.py", "watch"), (*WORKER, *QUIET)], ids=str)
def test_a_process_beats_until_it_is_frozen(django_db_setup: None, tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "pulse"
    with running(file, *command) as process:
        assert beats(file), (tmp_path / "log").read_text()
        assert beats(file), (tmp_path / "log").read_text()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        assert not beats(file, seconds=2 * pulse.BEAT_SECONDS)


def test_a_worker_beats_without_a_broker(django_db_setup: None, tmp_path: Path) -> None:
    file = tmp_path / "pulse"
    with running(file, *WORKER, *QUIET, FLOWPLANE_BROKER_URL="redis://127.0.0.1:1/0") as process:
        assert beats(file), (tmp_path / "log").read_text()
        assert beats(file)
        deadline = time.monotonic() + 90
        while "Cannot connect to redis" not in (said := (tmp_path / "log").read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        assert process.poll() is None
