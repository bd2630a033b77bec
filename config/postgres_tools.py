"""PostgreSQL's own programs for dumps, as child processes that are told the password by their environment only."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from config.archive import PIECE_BYTES, Refusal

_MAJOR = re.compile(r"\(PostgreSQL\) (\d+)")
# Enough of their words to see the cause.
SHOWN_LINES = 5
# How libpq calls what Django's settings call so.
_LIBPQ = {"NAME": "PGDATABASE", "USER": "PGUSER", "PASSWORD": "PGPASSWORD", "HOST": "PGHOST", "PORT": "PGPORT"}


@dataclass(frozen=True)
class Tools:
    """pg_dump and pg_restore, both at least as new as the server. `database` is an entry of Django's DATABASES."""

    dump: Path
    restore: Path

    @contextlib.contextmanager
    def dumping(self, database: Mapping[str, Any], snapshot: str) -> Iterator[Iterator[bytes]]:
        """The dump of an exported snapshot, in pieces.

        Never with --enable-row-security: without it, pg_dump fails where a policy would hide rows from it.
        """
        argv = [str(self.dump), "--format=custom", "--no-password", f"--snapshot={snapshot}"]
        with _running(argv, _environment(database), stdout=subprocess.PIPE) as child:
            yield child.pieces()

    def fill(self, database: Mapping[str, Any], dump: Iterator[bytes]) -> None:
        """Restore a dump into an empty database, in one transaction.

        Raises:
            Refusal: pg_restore failed; its words are passed on.
        """
        argv = [str(self.restore), "--single-transaction", "--no-password", f"--dbname={database['NAME']}"]
        with _running(argv, _environment(database), stdin=subprocess.PIPE) as child:
            child.feed(dump)

    def check(self, dump: Iterator[bytes]) -> None:
        """Read a dump through as a restore would, without a database.

        Raises:
            Refusal: pg_restore does not understand it.
        """
        with _running([str(self.restore), f"--file={os.devnull}"], _environment({}), stdin=subprocess.PIPE) as child:
            child.feed(dump)


def find_tools(folder: Path | None, *, server_major: int) -> Tools:
    """From this folder, or from the PATH.

    Raises:
        Refusal: a program is missing, does not run, or is older than the server.
    """
    return Tools(*(_find(name, folder, server_major) for name in ("pg_dump", "pg_restore")))


def _find(name: str, folder: Path | None, server_major: int) -> Path:
    where = f"in {folder} (FLOWPLANE_POSTGRES_BIN)" if folder else "on the PATH"
    remedy = f"Install PostgreSQL's client programs, {server_major} or newer, or set FLOWPLANE_POSTGRES_BIN to theirs."
    found = shutil.which(name, path=str(folder) if folder else None)
    if found is None:
        raise Refusal(f"There is no {name} {where}. {remedy}")
    argv = [found, "--version"]
    said = subprocess.run(argv, env=_environment({}), capture_output=True, text=True, check=False).stdout
    major = _MAJOR.search(said)
    if major is None:
        raise Refusal(f"{found} does not say of which PostgreSQL it is. {remedy}")
    if int(major[1]) < server_major:
        raise Refusal(f"{found} is of PostgreSQL {major[1]}, and the server of {server_major}. {remedy}")
    return Path(found)


def _environment(database: Mapping[str, Any]) -> dict[str, str]:
    """What a child is started with: the address, and what libpq reads beside it (TLS), but no setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWPLANE_")}
    address = {variable: str(database[name]) for name, variable in _LIBPQ.items() if database.get(name)}
    return {**kept, "PGAPPNAME": "flowplane backup", **address}


@contextlib.contextmanager
def _running(
    argv: list[str], env: Mapping[str, str], *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> Iterator[_Child]:
    """Start one of the programs; it is killed when the block is left before it has ended."""
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(argv, env=env, stdin=stdin, stdout=stdout, stderr=words) as process,
    ):
        try:
            yield _Child(Path(argv[0]).name, process, words)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                if process.stdin:
                    process.stdin.close()


@dataclass(frozen=True)
class _Child:
    """One of the programs, and what it says of itself."""

    name: str
    process: subprocess.Popen[bytes]
    words: IO[bytes]

    def pieces(self) -> Iterator[bytes]:
        """What it prints, until it has ended well."""
        assert self.process.stdout is not None
        while piece := self.process.stdout.read(PIECE_BYTES):
            yield piece
        self._require_success()

    def feed(self, dump: Iterator[bytes]) -> None:
        """Give it the whole dump, and wait until it has ended well."""
        assert self.process.stdin is not None
        # When it ends early it says why: the broken pipe is only how we notice.
        with contextlib.suppress(BrokenPipeError):
            for piece in dump:
                self.process.stdin.write(piece)
            self.process.stdin.close()
        self._require_success()
        for _ in dump:
            pass  # it may not need the last bytes, but whether they arrived is for the archive to say

    def _require_success(self) -> None:
        if self.process.wait() == 0:
            return
        self.words.seek(0)
        # Lines of its own only: what the server adds may quote a row.
        said = [line for line in self.words.read().decode(errors="replace").splitlines() if self.name in line]
        raise Refusal(f"{self.name} failed. " + " ".join(said[:SHOWN_LINES]))
