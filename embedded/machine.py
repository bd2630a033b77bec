"""The whole product on one machine: bring it up in order, take it down in order."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedded import broker, certificates, database, keyring, parts, store
from embedded.environment import Ports, environment
from embedded.errors import SetupError
from embedded.files import alone
from embedded.home import Home, prepare, purge
from embedded.processes import Process, processes_inside, run, runs_inside, stop, uninterrupted
from embedded.setup import CHECKOUT, VENV
from embedded.supervision import PRODUCT, STORES, Supervisor, programs, require_free_ports, stop_orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedded.parts import Parts
    from embedded.supervision import Program

# Django's start takes 2 s here; a machine that is busy with other things needs more.
WEB_SECONDS = 60.0
# Everything that a demo stops on its way out, engines included.
HOLDER_SECONDS = 150.0


@dataclass(frozen=True)
class Machine:
    """A home with everything that it needs to run."""

    home: Home
    parts: Parts
    ports: Ports

    def environment(self, role: str) -> dict[str, str]:
        return environment(self.home, self.parts, role, ports=self.ports)

    def manage(self, role: str, *arguments: str) -> str:
        """Run a Django command as this database role and return what it printed.

        Raises:
            SetupError: it failed; the end of its output is quoted.
        """
        argv = [str(VENV / "bin" / "python"), "manage.py", *arguments]
        purpose = f"`manage.py {' '.join(arguments)}`"
        return run(argv, purpose=purpose, cwd=CHECKOUT, env=self.environment(role))


def furnish(home: Home, ports: Ports) -> Machine:
    """Make folders, programs, secrets and certificates: all that can be made while nothing runs."""
    prepare(home)
    machine = Machine(home, parts.provide(home.cache), ports)
    keyring.ensure_secrets(home)
    certificates.ensure_certificates(home)
    return machine


@contextlib.contextmanager
def held(home: Home) -> Iterator[None]:
    """Be the only one who starts or stops things in this home. Needs a prepared home.

    Raises:
        SetupError: somebody else is.
    """
    refusal = (
        f"Another `make demo` is using {home.root}. Stop it with Ctrl-C there, or give this one a folder of its own: "
        "FLOWPLANE_HOME=..., with FLOWPLANE_WEB_PORT, FLOWPLANE_WEB_TLS_PORT and FLOWPLANE_STORE_PORT."
    )
    with alone(home.lock, refusal):
        home.lock.write_text(str(os.getpid()), encoding="ascii")
        yield


@contextlib.contextmanager
def running(
    machine: Machine, announce: Callable[[str], contextlib.AbstractContextManager[object]]
) -> Iterator[Supervisor]:
    """Run the product for the length of the block; afterwards nothing of it runs, engines included.

    `announce` is entered around every part of the start, with a title for people.
    """
    supervisor = Supervisor(machine.home, machine.ports)
    try:
        with announce("Clear what an interrupted run left"):
            _clear(machine.home, supervisor)
            require_free_ports(machine.ports)
        with announce("Start PostgreSQL, Redis and the backup store"):
            start_stores(machine, supervisor, programs(machine.home, machine.parts, machine.ports))
        with announce("Bring the database up to date"):
            database.provide_roles(machine.home, machine.parts)
            machine.manage("owner", "migrate", "--no-input", "--verbosity", "0")
            machine.manage("system", "bootstrap")
        with announce("Start web, worker, clock and watch"):
            supervisor.start(PRODUCT)
            wait_for_web(machine.ports)
        yield supervisor
    finally:
        with uninterrupted():
            halt(machine, supervisor)


@contextlib.contextmanager
def database_up(machine: Machine) -> Iterator[Supervisor | None]:
    """Have PostgreSQL for the length of the block: the running product's, whose supervisor is yielded, or one started
    for it and stopped again. What an interrupted run left is cleared first, as by any other start.

    Raises:
        SetupError: somebody is just starting or stopping the product.
    """
    supervisor = Supervisor(machine.home, machine.ports)
    with contextlib.ExitStack() as stack:
        if _is_held(machine.home, stack):
            if not supervisor.answers() or set(supervisor.states().values()) != {"RUNNING"}:
                raise SetupError(f"A demo in {machine.home.root} is just starting or stopping. Try again in a moment.")
            yield supervisor
            return
        try:
            _clear(machine.home, supervisor)
            start_stores(machine, supervisor, programs(machine.home, machine.parts, machine.ports))
            database.provide_roles(machine.home, machine.parts)
            yield None
        finally:
            with uninterrupted():
                _clear(machine.home, supervisor)


def _is_held(home: Home, stack: contextlib.ExitStack) -> bool:
    """Hold the home until the stack unwinds, or tell that somebody else does."""
    try:
        stack.enter_context(held(home))
    except SetupError:
        return True
    return False


def _clear(home: Home, supervisor: Supervisor) -> None:
    supervisor.shut_down()
    database.stop_strays(home)
    broker.stop_strays(home)
    store.stop_strays(home)


def start_stores(machine: Machine, supervisor: Supervisor, kept: Sequence[Program]) -> None:
    """Start the process runner with the programs that it is to keep, and of these the servers."""
    database.initialise(machine.home, machine.parts)
    database.configure(machine.home)
    broker.configure(machine.home)
    store.configure(machine.home)
    supervisor.launch(kept)
    supervisor.start(STORES)
    database.wait_until_ready(machine.home)
    broker.wait_until_ready(machine.home)
    store.wait_until_ready(machine.home, machine.ports.store)


def wait_for_web(ports: Ports) -> None:
    """Return when the web process answers.

    Raises:
        SetupError: it does not.
    """
    deadline = time.monotonic() + WEB_SECONDS
    while not _is_serving(ports):
        if time.monotonic() > deadline:
            raise SetupError(
                f"{ports.public_url}/healthz did not answer 200 within {WEB_SECONDS:.0f} s; see logs/web.log."
            )
        time.sleep(0.2)


def _is_serving(ports: Ports) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", ports.plain, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/healthz", headers={"Host": "localhost"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def halt(machine: Machine, supervisor: Supervisor) -> None:
    """Stop our processes first, then the engines, so that nobody starts an engine again; the stores go last."""
    if supervisor.answers():
        supervisor.stop(tuple(reversed(PRODUCT)))
    else:
        stop_orphans(machine.home)
    try:
        stop_engines(machine)
    finally:
        _clear(machine.home, supervisor)


def stop_engines(machine: Machine) -> None:
    """Stop every engine of this home, its data kept.

    The region's own command lets them finish; whoever is left in the region's folder then is ended as well.
    """
    region = machine.home.region
    try:
        if any(region.iterdir()):
            machine.manage("system", "stop_engines")
    finally:
        stop(processes_inside(region), lambda process: runs_inside(process, region))


def _end_holder(home: Home) -> None:
    """Ask a demo that is running in this home to stop, as its own Ctrl-C would, and wait until it has."""
    try:
        with held(home):
            return
    except SetupError:
        pid = home.lock.read_text(encoding="ascii")
    holder = [Process(int(pid))] if pid else []
    stop(holder, lambda process: "embedded" in process.command, grace_seconds=HOLDER_SECONDS)


def take_down(home: Home, ports: Ports, *, with_state: bool) -> bool:
    """Stop everything of this home, whoever started it; with `with_state`, remove the home. False: there is none."""
    if not home.is_ours:
        if with_state:
            purge(home)
        return False
    machine = furnish(home, ports)
    _end_holder(home)
    with held(home):
        halt(machine, Supervisor(home, ports))
        if with_state:
            purge(home)
    return True
