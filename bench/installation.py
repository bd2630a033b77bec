"""`make bench-installation`: how long backup and restore of our own database take, for 100 clusters and for N.

A PostgreSQL of its own that waits for the disk, filled by SQL; then the commands that an operator types, each as a
process of its own. Beside them, in the same run, the bare pg_dump and pg_restore on the same database. Prints a table
in Markdown. Peak memory is that of the largest process among the command and its children.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.crowd import fill
from embedded import keyring
from embedded.errors import SetupError
from embedded.setup import CHECKOUT, VENV
from embedded.testbench import Testbench

FEW, MANY = 100, 10_000
RUNS = 3


@dataclass(frozen=True)
class Spent:
    """What a command took; CPU and memory with its children, without PostgreSQL's own."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> int:
    """Measure a small installation and one of as many clusters as the first argument says."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    print("| clusters | what | seconds, median of 3 (range) | of CPU | file | peak memory |\n|---|---|---|---|---|---|")
    for clusters in (FEW, many):
        bench = Testbench()
        try:
            bench.start(durable=True)
            bench.migrate()
            with _owner(bench) as connection:
                fill(connection, clusters)
            _Rounds(bench, clusters).run()
        finally:
            bench.stop()
    return 0


def _owner(bench: Testbench) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(f"host={bench.home.postgres} user=flowplane_owner dbname=flowplane")


class _Rounds:
    """Backup, restore and rehearsal, in turn with the bare tools."""

    def __init__(self, bench: Testbench, clusters: int) -> None:
        self._bench, self._clusters = bench, clusters
        self._folder = bench.home.root
        self._recipient = keyring.ensure_backup_identity(bench.home)
        self._identity = keyring.backup_identity_file(bench.home)
        self._tools = bench.parts.postgres / "bin"
        self._variables = {"PGHOST": str(bench.home.postgres), "PGUSER": "flowplane_owner", "PATH": os.environ["PATH"]}

    def run(self) -> None:
        """Every command as often as the others, and a line for each."""
        steps: dict[str, Callable[[int], Spent]] = {
            "installation_backup": self._back_up,
            "installation_restore": self._restore,
            "installation_restore --rehearse": self._rehearse,
            "bare pg_dump": self._dump,
            "bare pg_restore": self._fill,
        }
        spent: dict[str, list[Spent]] = {name: [] for name in steps}
        for number in range(RUNS):
            for name, step in steps.items():
                spent[name].append(step(number))
        for name, several in spent.items():
            self._print(name, several)

    def _print(self, name: str, several: Sequence[Spent]) -> None:
        seconds = sorted(one.seconds for one in several)
        file = {"installation_backup": self._archive(0), "bare pg_dump": self._bare(0)}.get(name)
        size = f"{file.stat().st_size / 1e6:.1f} MB" if file else ""
        took = f"{statistics.median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})"
        cpu = statistics.median(one.cpu_seconds for one in several)
        peak = max(one.peak_mb for one in several)
        print(f"| {self._clusters:,} | `{name}` | {took} | {cpu:.1f} | {size} | {peak:.0f} MB |", flush=True)

    def _archive(self, number: int) -> Path:
        return self._folder / f"{number}.age"

    def _bare(self, number: int) -> Path:
        return self._folder / f"{number}.dump"

    def _back_up(self, number: int) -> Spent:
        return self._manage("installation_backup", "--to", str(self._archive(number)), "--recipient", self._recipient)

    def _restore(self, number: int) -> Spent:
        words = ("--from", str(self._archive(number)), "--identity", str(self._identity))
        spent = self._manage("installation_restore", *words)
        self._drop_former()
        return spent

    def _rehearse(self, number: int) -> Spent:
        words = ("--from", str(self._archive(number)), "--identity", str(self._identity))
        return self._manage("installation_restore", "--rehearse", *words)

    def _dump(self, number: int) -> Spent:
        argv = [str(self._tools / "pg_dump"), "--format=custom", f"--file={self._bare(number)}", "flowplane"]
        return _measured(argv, self._variables)

    def _fill(self, number: int) -> Spent:
        with psycopg.connect(f"host={self._bench.home.postgres} user=flowplane_owner dbname=postgres") as connection:
            connection.autocommit = True
            connection.execute("CREATE DATABASE bare TEMPLATE template0 ENCODING 'UTF8'")
            argv = [str(self._tools / "pg_restore"), "--single-transaction", "--dbname=bare", str(self._bare(number))]
            spent = _measured(argv, self._variables)
            connection.execute("DROP DATABASE bare")
        return spent

    def _drop_former(self) -> None:
        with psycopg.connect(f"host={self._bench.home.postgres} user=flowplane_owner dbname=postgres") as connection:
            connection.autocommit = True
            for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%replaced%'"):
                connection.execute(f'DROP DATABASE "{name}"')

    def _manage(self, *words: str) -> Spent:
        argv = [str(VENV / "bin" / "python"), "manage.py", *words]
        return _measured(argv, self._bench.environment("owner"))


# A small process of its own that waits for the command: the kernel counts what a process was before it became another
# one, so a command that we started ourselves would seem at least as large as we are.
WAITER = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(pid, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _measured(argv: Sequence[str], variables: Mapping[str, str]) -> Spent:
    """Run a command to its end. The kernel keeps the largest resident set of it and of every child it waited for."""
    started = time.monotonic()
    watched = [sys.executable, "-S", "-E", "-c", WAITER, *argv]
    done = subprocess.run(watched, cwd=CHECKOUT, env=dict(variables), capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        raise SetupError(f"{argv} failed:\n{done.stderr}")
    cpu_seconds, peak_kib = done.stdout.split()
    return Spent(seconds, float(cpu_seconds), int(peak_kib) / 1024)


if __name__ == "__main__":
    sys.exit(main())
