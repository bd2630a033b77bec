"""PostgreSQL for one machine: a folder, a unix socket, three roles, no network."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

import psycopg

from embedded.accounts import invoking_user
from embedded.environment import ROLES, base_environment
from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.processes import Process, processes_inside, run, runs_inside, stop
from embedded.setup import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    from embedded.home import Home
    from embedded.parts import Parts

SUPERUSER = "postgres"
START_SECONDS = 60.0

CONFIGURATION = """\
# Written by `python -m embedded` at every start: change embedded/database.py, not this file.
listen_addresses = ''
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
max_connections = 60
shared_buffers = 32MB
max_wal_size = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
# A refused statement holds what was to be written, such as the hash of a password; the web process logs the refusal.
log_min_error_statement = panic
log_error_verbosity = terse
"""

# A throwaway database may forget everything when the machine stops: no waiting for the disk. Tests of what holds when
# everybody comes at once need a connection for each.
THROWAWAY = """\
max_connections = 150
fsync = off
synchronous_commit = off
full_page_writes = off
"""


def initialise(home: Home, parts: Parts) -> None:
    """Make the data folder once. It appears whole or not at all, so a killed run is simply repeated.

    Raises:
        SetupError: the data is of another major version, or initdb failed.
    """
    if home.database_folder.exists():
        _require_same_major_version(home, parts)
        return
    unfinished = home.postgres / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    argv: list[str | Path] = [
        parts.postgres / "bin" / "initdb",
        "--pgdata",
        unfinished,
        "--username",
        SUPERUSER,
        "--auth",
        "peer",
    ]
    argv += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
    run(argv, purpose="Making the database", cwd=home.postgres, env=base_environment(), account=home.account)
    unfinished.rename(home.database_folder)


def _require_same_major_version(home: Home, parts: Parts) -> None:
    made_by = (home.database_folder / "PG_VERSION").read_text(encoding="ascii").strip()
    answer = run([parts.postgres / "bin" / "postgres", "--version"], purpose="Asking PostgreSQL for its version")
    ours = answer.split()[-1].partition(".")[0]
    if made_by != ours:
        raise SetupError(
            f"The data in {home.database_folder} is PostgreSQL {made_by}'s, and this release brings {ours}: dump it "
            "with the release that made it, or start afresh with `make demo-down PURGE=1`."
        )


def configure(home: Home, *, durable: bool = True) -> None:
    """Write the server's settings and who may sign in: peers on the socket, by the kernel's word for their user.

    The service user, who also runs the engines, is no peer: an engine that went astray cannot read the database.
    """
    text = CONFIGURATION.format(socket_folder=home.postgres) + ("" if durable else THROWAWAY)
    peers = "".join(f'us "{invoking_user()}" {role}\n' for role in (SUPERUSER, *ROLES.values()))
    for name, content in (
        ("postgresql.conf", text),
        ("pg_hba.conf", "local all all peer map=us\n"),
        ("pg_ident.conf", peers),
    ):
        _hand_over(home, home.database_folder / name, content)


def _hand_over(home: Home, path: Path, content: str) -> None:
    write_whole(path, content, mode=0o600)
    if home.account is not None:
        shutil.chown(path, home.account.uid, home.account.gid)


def server_command(home: Home, parts: Parts) -> list[str]:
    """Return the argument list that serves this data folder in the foreground; SIGINT stops it quickly and cleanly."""
    return [str(parts.postgres / "bin" / "postgres"), "-D", str(home.database_folder)]


def stop_strays(home: Home) -> None:
    """Stop a server that lost its owner, and drop the lock files that a killed one left.

    PostgreSQL would believe a lock file when its process number has passed to any other process of the same user.
    """
    lock = home.database_folder / "postmaster.pid"
    if lock.exists():
        server = Process(int(lock.read_text(encoding="ascii").split()[0]))
        stop([server], lambda process: runs_inside(process, home.database_folder), first=signal.SIGINT)
    stop(processes_inside(home.database_folder), lambda process: runs_inside(process, home.database_folder))
    for leftover in (lock, home.postgres / ".s.PGSQL.5432", home.postgres / ".s.PGSQL.5432.lock"):
        leftover.unlink(missing_ok=True)


def wait_until_ready(home: Home, *, seconds: float = START_SECONDS) -> None:
    """Return when the server takes connections.

    Raises:
        SetupError: it did not in time; its last answer is quoted.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with psycopg.connect(superuser_address(home), connect_timeout=5):
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                log = home.logs / "postgres.log"
                raise SetupError(f"PostgreSQL did not start within {seconds:.0f} s ({error}); see {log}.") from error
        time.sleep(0.1)


def superuser_address(home: Home) -> str:
    # Every part is named, so that no PG* variable of the machine leads elsewhere.
    return f"host={home.postgres} port=5432 user={SUPERUSER} dbname=postgres"


def provide_roles(home: Home, parts: Parts) -> None:
    """Run the same file that a database administrator runs in production. Harmless when repeated."""
    argv: list[str | Path] = [parts.postgres / "bin" / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--dbname"]
    argv += [superuser_address(home), "--file", CHECKOUT / "config" / "sql" / "roles.sql"]
    run(argv, purpose="Making the database roles", env=base_environment())
