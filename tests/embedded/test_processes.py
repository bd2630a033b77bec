from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from embedded.errors import SetupError
from embedded.processes import Process, held_back, processes_inside, run, runs_inside, stop
from embedded.setup import CHECKOUT
from tests.embedded.conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in (Process(pid).folder / "status").read_text()
    except OSError:
        return False


def test_the_output_of_a_command_is_returned() -> None:
    assert run(["echo", "hello"], purpose="Greeting") == "hello\n"


def test_a_failed_command_is_told_with_what_it_said() -> None:
    with pytest.raises(SetupError, match=r"Trying failed: sh ended with 3. It said:\noh no"):
        run(["sh", "-c", "echo oh no; exit 3"], purpose="Trying")


def test_a_missing_command_is_told() -> None:
    with pytest.raises(SetupError, match=r"Trying failed: no-such-program could not be started \(No such file"):
        run(["no-such-program"], purpose="Trying")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    # Whoever runs the tests in the background has it ignore SIGINT, and it would pass that on.
    program = (
        "import signal\n"
        "from embedded.processes import interruptible, run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "interruptible()\n"
        "run(['sh', '-c', 'sleep 61 & echo $! > child; wait'], purpose='Waiting')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    child_file = tmp_path / "child"
    while not (child_file.exists() and child_file.read_text().strip()):
        time.sleep(0.05)
    parent.send_signal(number)
    assert parent.wait(30) != 0
    # It was told to end together with the shell that is waited for.
    wait_until(lambda: not is_alive(int(child_file.read_text())))


def test_an_interrupt_that_was_held_back_comes_afterwards() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("the interrupt"))
    try:
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            seen.append("the end of the block")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["the end of the block", "the interrupt"]


def test_a_process_that_ignores_the_request_is_ended_by_force(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], cwd=tmp_path, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stop(processes_inside(tmp_path), lambda process: runs_inside(process, tmp_path), grace_seconds=0.3)
        assert child.wait(5) == -signal.SIGKILL


def test_a_number_that_passed_to_somebody_else_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        stop([Process(child.pid)], lambda _: False, grace_seconds=0.1)
        assert child.poll() is None
        child.kill()


def test_what_a_process_was_started_with_can_be_read(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path, env={"MARK": "a=b"}, start_new_session=True) as child:
        process = Process(child.pid)
        # The kernel closes what Popen waits for a moment before it has put the variables in place.
        deadline = time.monotonic() + 30
        while not process.environment and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.environment["MARK"] == "a=b"
        assert process.working_directory == tmp_path
        assert process.command[:2] == ["sleep", "60"]
        assert process.leads_session
        child.kill()


def test_a_process_that_is_gone_reads_as_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    process = Process(child.pid)
    assert (process.environment, process.working_directory, process.command) == ({}, None, [])
    assert not process.leads_session
