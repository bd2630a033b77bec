from __future__ import annotations

import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from embedded.environment import Ports
from embedded.errors import SetupError
from embedded.home import Home, prepare
from embedded.processes import Process, processes
from embedded.supervision import Program, Supervisor, render_configuration, require_free_ports, stop_orphans
from tests.embedded.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
# It leaves its file once it is ready to be asked to end.
POLITE = (
    "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(300)"
)
# What an engine is to the worker: a child in a session of its own, with the environment it inherited.
WITH_ENGINE = (
    "import subprocess, time; subprocess.Popen(['sleep', '300'], start_new_session=True, cwd='/'); time.sleep(300)"
)


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    prepare(home)
    supervisor = Supervisor(home, Ports())
    yield supervisor
    supervisor.shut_down()


def processes_of(home: Home) -> dict[str, Process]:
    url = f"unix://{home.supervisor_socket}"
    return {
        f"{seen['SUPERVISOR_PROCESS_NAME']}{' engine' if process.leads_session else ''}": process
        for process in processes()
        if (seen := process.environment).get("SUPERVISOR_SERVER_URL") == url
    }


def test_programs_run_until_they_are_stopped(supervisor: Supervisor) -> None:
    supervisor.launch([Program("web", SLEEP, 10), Program("clock", SLEEP, 20)])
    supervisor.start(["web", "clock"])
    assert supervisor.states() == {"web": "RUNNING", "clock": "RUNNING"}
    supervisor.stop(["clock"])
    assert supervisor.states() == {"web": "RUNNING", "clock": "STOPPED"}
    supervisor.shut_down()
    assert not processes_of(supervisor.home)
    assert not supervisor.answers()


def test_a_program_runs_in_its_folder_and_how_it_ended_is_told(supervisor: Supervisor) -> None:
    folder = supervisor.home.mailbox
    listens = folder / "listens"
    polite = [sys.executable, "-c", POLITE, str(listens)]
    kept = [Program("web", SLEEP, 10, folder=folder), Program("clock", polite, 20)]
    supervisor.launch(kept)
    supervisor.start(["web", "clock"])
    assert processes_of(supervisor.home)["web"].working_directory == folder
    wait_until(listens.exists)
    supervisor.stop(["web", "clock"])
    assert [supervisor.exit_status_of(name) for name in ("web", "clock")] == [-1, 0]


def test_a_killed_program_comes_back(supervisor: Supervisor) -> None:
    supervisor.launch([Program("web", SLEEP, 10)])
    supervisor.start(["web"])
    before = processes_of(supervisor.home)["web"]
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: processes_of(supervisor.home).get("web", before) != before)


def test_a_killed_program_that_is_stopped_before_its_next_start_stays_stopped(supervisor: Supervisor) -> None:
    supervisor.launch([Program("web", SLEEP, 10)])
    supervisor.start(["web"])
    pid, runner = supervisor.pid_of("web"), supervisor.pid
    time.sleep(0.3)  # until it waits for the next question
    with ThreadPoolExecutor() as pool:
        # It takes the connection, then sees the death, and only then reads what is asked.
        os.kill(runner, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            stopped = pool.submit(supervisor.stop, ["web"])
            time.sleep(0.5)
        finally:
            os.kill(runner, signal.SIGCONT)
        stopped.result()
    time.sleep(1.5)  # it looks about itself once a second
    assert supervisor.states() == {"web": "STOPPED"}


def test_a_program_that_does_not_stay_up_is_told_with_its_last_words(supervisor: Supervisor) -> None:
    # A shell, because an interpreter may take the second after which supervisor believes that it stays up.
    supervisor.launch([Program("web", ["/bin/sh", "-c", "echo 'no such 100 % setting; really'; exit 1"], 10)])
    with pytest.raises(SetupError, match=r"web did not stay up(.|\n)*no such 100 % setting; really"):
        supervisor.start(["web"])


def test_orphans_of_a_killed_supervisor_are_stopped_and_engines_are_not(supervisor: Supervisor) -> None:
    home = supervisor.home
    supervisor.launch([Program("worker", [sys.executable, "-c", WITH_ENGINE], 10), Program("web", SLEEP, 20)])
    supervisor.start(["worker", "web"])
    wait_until(lambda: "worker engine" in processes_of(home))
    runner = supervisor._child
    assert runner is not None
    runner.kill()
    runner.wait()
    stop_orphans(home)
    left = processes_of(home)
    try:
        assert list(left) == ["worker engine"]
    finally:
        for process in left.values():
            os.kill(process.pid, signal.SIGKILL)


def test_an_earlier_demos_supervisor_is_found_and_stopped(supervisor: Supervisor) -> None:
    supervisor.launch([Program("web", SLEEP, 10)])
    supervisor.start(["web"])
    later = Supervisor(supervisor.home, Ports())
    assert later.answers()
    later.shut_down()
    assert not processes_of(supervisor.home)


def test_a_socket_that_a_killed_supervisor_left_is_no_obstacle(supervisor: Supervisor) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(supervisor.home.supervisor_socket))
    assert not supervisor.answers()
    supervisor.launch([Program("web", SLEEP, 10)])
    assert supervisor.answers()


def test_the_configuration_survives_percent_signs_and_spaces(home: Home) -> None:
    text = render_configuration(home, [Program("web", ["run", 'say "100 %"'], 10)])
    assert 'command = "run" "say \\"100 %%\\""' in text


def test_a_path_that_the_configuration_cannot_hold_is_refused(home: Home) -> None:
    with pytest.raises(SetupError, match="choose another folder"):
        render_configuration(home, [Program("web", ["run", "a ;b"], 10)])


def test_a_taken_port_is_named_with_the_way_to_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"Port {port} of 127.0.0.1 is taken.*FLOWPLANE_WEB_PORT=\d+ make demo"):
            require_free_ports(Ports(port, port + 1, port + 2))
