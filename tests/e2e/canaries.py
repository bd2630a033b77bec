"""Search everything that we write for strings that only an engine may know.

Each place is searched for the strings as they are and in the encodings in which bytes usually travel. Searches read
the real thing: a dump and the raw files of PostgreSQL, every command that reached Redis and every key in it, every
file of the home that is ours.
"""

from __future__ import annotations

import base64
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from embedded.home import Home
from tests.e2e.stack import Stack

# What a place holds: its name and its bytes, piece by piece.
Piece = tuple[str, bytes]


def spellings(text: str) -> set[bytes]:
    """A string in the encodings in which it might be hidden."""
    raw = text.encode()
    inside_base64 = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        # The ends depend on the neighbours; the middle does not.
        inside_base64.add(encoded[4:-4])
    return {raw, raw.hex().encode(), text.encode("utf-16-le"), *inside_base64}


def hits(canaries: Mapping[str, str], pieces: Iterator[Piece]) -> list[str]:
    """Which canary was found where, in words."""
    wanted = {name: spellings(text) for name, text in canaries.items()}
    return [
        f"the {name} in {where}"
        for where, content in pieces
        for name, variants in wanted.items()
        if any(variant in content for variant in variants)
    ]


def postgres_dump(stack: Stack) -> Iterator[Piece]:
    """Every row of every database, as text."""
    dump = stack.machine.parts.postgres / "bin" / "pg_dump"
    address = stack.database_address()
    text = subprocess.run([dump, "--dbname", address, "--inserts"], capture_output=True, check=True).stdout
    yield "a dump of PostgreSQL", text


def postgres_files(home: Home) -> Iterator[Piece]:
    """The server's own files, rows that were deleted and the write-ahead log included."""
    yield from files(home.database_folder)


def redis_keys(home: Home) -> Iterator[Piece]:
    """Every key of Redis with its value, whatever its type."""
    client: Any = redis.Redis(unix_socket_path=str(home.broker_socket))
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    for key in client.scan_iter():
        if (kind := client.type(key)) != b"none":  # gone since
            yield f"Redis at {key!r}", key + repr(readers[kind](key)).encode()


class Wiretap:
    """Everything that was said to Redis while it listened: the arguments of tasks pass through here and are gone."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def pieces(self) -> Iterator[Piece]:
        """Each command."""
        for command in self.commands:
            yield f"a command to Redis ({command[:40]}…)", command.encode()


@contextmanager
def listening(home: Home) -> Iterator[Wiretap]:
    """Listen to Redis for the length of the block."""
    tap = Wiretap()
    client: Any = redis.Redis(unix_socket_path=str(home.broker_socket))
    is_over = threading.Event()

    def listen() -> None:
        with suppress(redis.ConnectionError, OSError, ValueError), client.monitor() as monitor:
            for command in monitor.listen():
                tap.commands.append(str(command["command"]))
                if is_over.is_set():
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield tap
    finally:
        is_over.set()
        # One more command, so that the listener wakes and sees that it is over.
        redis.Redis(unix_socket_path=str(home.broker_socket)).ping()
        thread.join(timeout=10)


def our_files(home: Home) -> Iterator[Piece]:
    """Logs, mails and whatever else we keep: all of the home but the engines' folders and the customer's own."""
    tenants_own = (home.region, home.demo, home.database_folder)
    for place in sorted(home.root.iterdir()):
        yield from (piece for piece in files(place, except_below=tenants_own))


def files(place: Path, *, except_below: tuple[Path, ...] = ()) -> Iterator[Piece]:
    """Every regular file at or below a place."""
    if place in except_below:
        return
    if place.is_symlink() or not (place.is_dir() or place.is_file()):
        return
    if place.is_file():
        # A temporary file of the server may be gone by now.
        with suppress(FileNotFoundError):
            yield str(place), place.read_bytes()
        return
    inside: list[Path] = []
    with suppress(FileNotFoundError):  # a folder of an engine's own may be gone by now
        inside = sorted(place.iterdir())
    for inner in inside:
        yield from files(inner, except_below=except_below)
