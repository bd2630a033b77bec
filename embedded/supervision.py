"""The process runner: supervisor keeps the three servers and our four processes alive, and stops them in order."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from xmlrpc.client import Fault, ServerProxy, Transport

from supervisor.xmlrpc import SupervisorTransport

from embedded import broker, certificates, database, store
from embedded.environment import base_environment, chosen_settings
from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.processes import Process, end_session, processes, stop
from embedded.setup import CHECKOUT, VENV

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedded.environment import Ports
    from embedded.home import Home
    from embedded.parts import Parts

# Supervisor answers within milliseconds of being up; this covers a machine that is busy with everything else.
ANSWER_SECONDS = 20.0
# The sum of the programs' own stopping times, one after the other, and some air.
STOP_SECONDS = 90.0
SHOWN_LOG_BYTES = 3000
STORES = ("postgres", "redis", "store")
PRODUCT = ("web", "worker", "clock", "watch")


@dataclass(frozen=True)
class Program:
    """One process that supervisor keeps. Lower priority starts earlier and stops later."""

    name: str
    command: Sequence[str]
    priority: int
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    folder: Path = CHECKOUT


def programs(home: Home, parts: Parts, ports: Ports) -> tuple[Program, ...]:
    """Return all processes of one machine."""
    return (*stores(home, parts, ports), *product(home, ports))


def stores(home: Home, parts: Parts, ports: Ports) -> tuple[Program, ...]:
    """Return the servers that everything else needs."""
    user = home.account.name if home.account else None
    return (
        Program("postgres", database.server_command(home, parts), 10, user, "INT", 30),
        Program("redis", broker.server_command(home, parts), 20, user),
        Program("store", store.server_command(home, parts, ports.store), 25, user),
    )


def product(home: Home, ports: Ports, *, checkout: Path = CHECKOUT) -> tuple[Program, ...]:
    """Return our four processes, web on these ports.

    `checkout` may hold another release: its code runs on our virtual environment and makes its own settings.
    """
    binaries = VENV / "bin"
    manage = [str(binaries / "python"), "manage.py"]
    # No worker process of hypercorn's own (-w 0): one process with a pool of threads, at half the memory.
    web = [str(binaries / "hypercorn"), "--workers", "0", "--graceful-timeout", "10"]
    web += ["--bind", f"127.0.0.1:{ports.tls}", "--insecure-bind", f"127.0.0.1:{ports.plain}"]
    web += ["--certfile", str(certificates.server_certificate_file(home))]
    web += ["--keyfile", str(certificates.server_key_file(home)), "config.wsgi:application"]
    worker = [str(binaries / "celery"), "-A", "config.celery", "worker", "--pool", "threads", "--concurrency", "4"]
    worker += ["--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return (
        Program("web", _as("app", web), 30, folder=checkout),
        Program("worker", _as("system", worker), 40, stop_seconds=20, folder=checkout),
        Program("clock", _as("system", [*manage, "clock"]), 50, folder=checkout),
        Program("watch", _as("system", [*manage, "watch"]), 60, folder=checkout),
    )


def _as(role: str, command: Sequence[str]) -> list[str]:
    """Start a command through `embedded run`, which replaces itself: the same environment as in anybody's shell."""
    return [str(VENV / "bin" / "python"), "-m", "embedded", "run", "--role", role, "--", *command]


def render_configuration(home: Home, kept: Sequence[Program]) -> str:
    """Return supervisor's configuration. Nothing starts by itself: what comes when is decided in `embedded.machine`."""
    sections = [
        _section("unix_http_server", file=home.supervisor_socket, chmod="0700"),
        _section("rpcinterface:supervisor", **{"supervisor.rpcinterface_factory": _RPC_FACTORY}),
        _section(
            "supervisord",
            nodaemon="true",
            silent="true",
            logfile=home.logs / "supervisor.log",
            logfile_maxbytes="1MB",
            logfile_backups=1,
            pidfile=home.run / "supervisor.pid",
            childlogdir=home.logs,
            directory=CHECKOUT,
            **({"user": "root"} if os.geteuid() == 0 else {}),
        ),
        *(_program_section(home, program) for program in kept),
    ]
    return "; Written by `python -m embedded` at every start: change embedded/supervision.py, not this file.\n" + (
        "\n".join(sections)
    )


_RPC_FACTORY = "supervisor.rpcinterface:make_main_rpcinterface"


def _program_section(home: Home, program: Program) -> str:
    return _section(
        f"program:{program.name}",
        command=" ".join(_quoted(word) for word in program.command),
        directory=program.folder,
        priority=program.priority,
        autostart="false",
        autorestart="true",
        startsecs=1,
        startretries=5,
        stopsignal=program.stop_signal,
        stopwaitsecs=program.stop_seconds,
        # No group signal: an engine that the worker has just begun must outlive the worker.
        killasgroup="false",
        redirect_stderr="true",
        stdout_logfile=home.logs / f"{program.name}.log",
        stdout_logfile_maxbytes="5MB",
        stdout_logfile_backups=2,
        **({"user": program.user} if program.user else {}),
    )


def _section(title: str, **options: object) -> str:
    lines = (f"{key} = {_escaped(str(value))}" for key, value in options.items())
    return "\n".join([f"[{title}]", *lines, ""])


def _escaped(value: str) -> str:
    """Protect supervisor's own mark for substitution, and its comment sign."""
    if " ;" in value or "\n" in value:
        raise SetupError(f"{value!r} cannot stand in supervisor's configuration: choose another folder.")
    return value.replace("%", "%%")


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Supervisor:
    """The running supervisor of one home."""

    def __init__(self, home: Home, ports: Ports) -> None:
        self.home = home
        self.ports = ports
        self._configuration = home.run / "supervisord.conf"
        self._child: subprocess.Popen[bytes] | None = None

    def launch(self, kept: Sequence[Program]) -> None:
        """Start supervisor itself; no program yet.

        Raises:
            SetupError: it did not come up.
        """
        write_whole(self._configuration, render_configuration(self.home, kept), mode=0o600)
        self.home.supervisor_socket.unlink(missing_ok=True)
        with (self.home.logs / "supervisor.out").open("wb") as output:
            self._child = subprocess.Popen(
                [VENV / "bin" / "supervisord", "--configuration", self._configuration],
                cwd=CHECKOUT,
                env={**base_environment(), **chosen_settings(self.home, self.ports)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is ours to handle; supervisor must not stop in the middle of the demo.
                start_new_session=True,
            )
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                said = (self.home.logs / "supervisor.out").read_text(encoding="utf-8", errors="replace")
                raise SetupError(f"The process runner did not start. It said:\n{said[-SHOWN_LOG_BYTES:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Tell whether a supervisor of this home is up, ours or an earlier demo's."""
        try:
            self._call("getState")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def start(self, names: Sequence[str]) -> None:
        """Start programs and return when each has stayed up for a second.

        Raises:
            SetupError: one did not; the end of its log is quoted.
        """
        for name in names:
            self._call("startProcess", name, False)
        deadline = time.monotonic() + ANSWER_SECONDS
        while (states := self.states()) and any(states[name] != "RUNNING" for name in names):
            failed = [name for name in names if states[name] in ("FATAL", "EXITED", "BACKOFF")]
            if failed or time.monotonic() > deadline:
                slow = [name for name in names if states[name] != "RUNNING"]
                raise SetupError(self._describe((failed or slow)[0]))
            time.sleep(0.1)

    def stop(self, names: Sequence[str]) -> None:
        """Stop programs, in this order; one that does not run is fine, one that has just died does not come back."""
        for name in names:
            while not self._is_stopped(name):
                time.sleep(0.1)

    def _is_stopped(self, name: str) -> bool:
        """Ask a program to stop; False when supervisor may start it once more."""
        with contextlib.suppress(Fault):
            self._call("stopProcess", name, True)
        # Between a program's end and its next start supervisor knows of nothing to stop, and starts it all the same.
        with contextlib.suppress(Fault):
            return self.states().get(name) in ("STOPPED", "FATAL", None)
        return True  # supervisor is on its way out, and starts nothing any more

    def states(self) -> dict[str, str]:
        """Return each program's state in supervisor's words."""
        return {entry["name"]: entry["statename"] for entry in self._call("getAllProcessInfo")}

    @property
    def pid(self) -> int:
        """The process runner's own process number."""
        return cast("int", self._call("getPID"))

    def pid_of(self, name: str) -> int:
        """The process number of a running program.

        Raises:
            SetupError: it does not run now. Its number would be 0, which means all of one's own to `kill`.
        """
        if not (pid := cast("int", self._call("getProcessInfo", name)["pid"])):
            raise SetupError(f"The process {name} does not run.")
        return pid

    def exit_status_of(self, name: str) -> int:
        """How a stopped program ended: 0 when it finished by itself, -1 when a signal ended it."""
        return cast("int", self._call("getProcessInfo", name)["exitstatus"])

    def wait(self) -> None:
        """Return never; an interrupt leaves by KeyboardInterrupt.

        Raises:
            SetupError: supervisor has ended, by somebody else's hand.
        """
        assert self._child is not None
        status = self._child.wait()
        raise SetupError(f"The process runner ended with {status}; see {self.home.logs / 'supervisor.log'}.")

    def shut_down(self) -> None:
        """Stop everything that supervisor keeps, in reverse order, and supervisor; then whatever escaped it."""
        with contextlib.suppress(OSError, http.client.HTTPException, Fault):
            pid = self.pid
            self._call("shutdown")
            _wait_for_end(pid, STOP_SECONDS)
        if self._child is not None:
            end_session(self._child)
            self._child = None
        stop_orphans(self.home)

    def _describe(self, name: str) -> str:
        log = self.home.logs / f"{name}.log"
        tail = log.read_bytes()[-SHOWN_LOG_BYTES:].decode(errors="replace") if log.exists() else "(nothing)"
        return f"The process {name} did not stay up. Its log {log} ends with:\n{tail}"

    def _call(self, method: str, *arguments: object) -> Any:
        """Ask over the socket, on a connection of its own."""
        transport: Transport = SupervisorTransport(  # type: ignore[no-untyped-call]
            None, None, f"unix://{self.home.supervisor_socket}"
        )
        with contextlib.closing(transport):
            proxy = ServerProxy("http://localhost", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)


def _wait_for_end(pid: int, seconds: float) -> None:
    """Wait for a process that may not be our child."""
    process = Process(pid)
    deadline = time.monotonic() + seconds
    while process.folder.exists() and not _is_zombie(process) and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_zombie(process: Process) -> bool:
    try:
        return (process.folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def stop_orphans(home: Home) -> None:
    """Stop what a killed supervisor left running. Process numbers are not trusted: the environment must be ours."""

    def is_ours(process: Process) -> bool:
        variables = process.environment
        is_kept = variables.get("SUPERVISOR_PROCESS_NAME") in (*STORES, *PRODUCT)
        # Engines lead sessions of their own and outlive all of us.
        return (
            is_kept
            and variables.get("SUPERVISOR_SERVER_URL") == f"unix://{home.supervisor_socket}"
            and not (process.leads_session)
        )

    ours = [process for process in processes() if is_ours(process)]
    product = [process for process in ours if process.environment.get("SUPERVISOR_PROCESS_NAME") in PRODUCT]
    stop(product, is_ours)
    # To a PostgreSQL server SIGINT means: disconnect everybody and stop cleanly. Redis understands it, too.
    stop([process for process in ours if process not in product], is_ours, first=signal.SIGINT)


def require_free_ports(ports: Ports) -> None:
    """Refuse to start on a port that somebody else has.

    Raises:
        SetupError: names the port and the variable that chooses another.
    """
    chosen = (
        ("FLOWPLANE_WEB_PORT", ports.plain),
        ("FLOWPLANE_WEB_TLS_PORT", ports.tls),
        ("FLOWPLANE_STORE_PORT", ports.store),
    )
    for variable, port in chosen:
        if not _is_free(port):
            raise SetupError(
                f"Port {port} of 127.0.0.1 is taken by another program. Stop it, or choose another port: "
                f"{variable}={port + 1000} make demo"
            )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
