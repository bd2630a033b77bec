"""A throwaway PostgreSQL and Redis for the tests: real servers, a folder of their own, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedded import broker, certificates, database, keyring, parts, store
from embedded.accounts import service_account
from embedded.environment import (
    TEST_KUBECONFIG,
    TEST_KUBECONFIG_INSIDE,
    Ports,
    base_environment,
    environment,
)
from embedded.errors import SetupError
from embedded.files import alone
from embedded.home import Home, locate, prepare
from embedded.processes import end_session, identity, passed_on, processes_inside, run, runs_inside, stop, uninterrupted
from embedded.setup import CHECKOUT, VENV

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "flowplane-test-"


class Testbench:
    """One home below the system's folder for temporary files, with both servers running between start and stop."""

    __test__ = False  # pytest: a tool for tests, not a test

    def __init__(self, *, cache: Path | None = None) -> None:
        """Take the folders; the programs come from the same cache as the demo's unless told otherwise."""
        sweep()
        # The system's folder, not TMPDIR: a private one would be closed to the service user.
        unnamed = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir="/tmp")).resolve()
        self._hold = contextlib.ExitStack()
        self._hold.enter_context(alone(unnamed, "in use"))
        unnamed.chmod(0o755)
        # It gets the name that is swept only when it is locked: the lock belongs to the folder, not to its name.
        self._folder = unnamed.rename(unnamed.with_name(unnamed.name.removeprefix("new-")))
        self.home = Home(self._folder / "home", cache or locate().cache, service_account())
        self.store_port = free_port()
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *, durable: bool = False) -> None:
        """Start PostgreSQL and Redis and make the roles and the empty database. About 3 s.

        `durable` makes PostgreSQL wait for the disk, as in earnest: for figures.
        """
        prepare(self.home)
        self.parts = parts.provide(self.home.cache)
        keyring.ensure_secrets(self.home)
        certificates.ensure_certificates(self.home)
        database.initialise(self.home, self.parts)
        database.configure(self.home, durable=durable)
        broker.configure(self.home)
        self._spawn("postgres", database.server_command(self.home, self.parts))
        self.start_broker()
        database.wait_until_ready(self.home)
        database.provide_roles(self.home, self.parts)

    def migrate(self) -> None:
        """Bring the database up to date, as its owner, and fill the catalogue, as an installation would."""
        self._manage("owner", "migrate", "--no-input", "--verbosity", "0")
        self._manage("system", "bootstrap")

    def _manage(self, role: str, *arguments: str) -> None:
        argv = [str(VENV / "bin" / "python"), "manage.py", *arguments]
        run(argv, purpose=f"`manage.py {arguments[0]}` on the test database", cwd=CHECKOUT, env=self.environment(role))

    def restart_database(self) -> None:
        """Stop PostgreSQL, if it runs, and start it again. About 1 s; every open connection breaks."""
        database.stop_strays(self.home)
        self._spawn("postgres", database.server_command(self.home, self.parts))
        database.wait_until_ready(self.home)

    def stop_broker(self) -> None:
        """Stop Redis: for tests of what goes on without it."""
        broker.stop_strays(self.home)

    def start_broker(self) -> None:
        """Start Redis and return when it answers."""
        self._spawn("redis", broker.server_command(self.home, self.parts))
        broker.wait_until_ready(self.home)

    def start_store(self) -> None:
        """Start the backup store and return when it answers: only few tests need it. Its port is known before."""
        store.stop_strays(self.home)
        store.configure(self.home)
        self._spawn("store", store.server_command(self.home, self.parts, self.store_port))
        store.wait_until_ready(self.home, self.store_port)

    def environment(self, role: str, *, ports: Ports | None = None) -> dict[str, str]:
        """Return the whole environment of a process on this bench with the database role owner, app or system."""
        ports = replace(ports or Ports(), store=self.store_port)
        return environment(self.home, self.parts, role, ports=ports, environ=base_environment())

    def stop(self) -> None:
        """Stop both servers and whatever still runs in the folder, and remove it. Running it twice is harmless."""
        if self.home.database_folder.exists():
            database.stop_strays(self.home)
            broker.stop_strays(self.home)
            store.stop_strays(self.home)
        while self._children:
            end_session(self._children.pop())
        _remove(self._folder)
        self._hold.close()

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        with (self.home.logs / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=self.home.root,
                env=base_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity(self.home.account),
            )
        self._children.append(child)


def free_port() -> int:
    """Return a port that is free now; somebody may still take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_bench(command: Sequence[str]) -> int:
    """Run a command on a migrated bench, as the web process's database role; return its exit status."""
    bench = Testbench()
    try:
        bench.start()
        bench.migrate()
        variables = bench.environment("app")
        if given := os.environ.get(TEST_KUBECONFIG):
            variables[TEST_KUBECONFIG_INSIDE] = given
        with subprocess.Popen(command, cwd=CHECKOUT, env=variables) as child, passed_on(child):
            return child.wait()
    finally:
        with uninterrupted():
            bench.stop()


def sweep() -> None:
    """Remove benches whose owner was killed: the kernel has dropped their locks."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        # Held by a living owner, gone already, or another user's: none of our business.
        with contextlib.suppress(OSError, SetupError), alone(folder, "in use"):
            _remove(folder)


def _remove(folder: Path) -> None:
    """End what runs inside, engines too, and delete the folder."""
    stop(processes_inside(folder), lambda process: runs_inside(process, folder), grace_seconds=5)
    shutil.rmtree(folder, ignore_errors=True)
