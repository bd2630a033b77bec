"""Whole files or none, and locks that die with their holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from provisioning.errors import RegionUnreachable

# A lock is held for the time of a start at the most; whoever waits longer comes back in another turn.
LOCK_WAIT_SECONDS = 3.0
LOCK_POLL_SECONDS = 0.05
LOG_PART_BYTES = 65536
# What a full, read-only or broken disk answers.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


@contextmanager
def on_disk() -> Iterator[None]:
    """Around each call of the backend: whatever the system refuses there is for another turn, with a sentence.

    Raises:
        RegionUnreachable: in place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        what = "The region's disk cannot be used" if error.errno in DISK_ERRORS else "The region's machine refuses"
        raise RegionUnreachable(
            f"{what}: {error.strerror or 'no reason given'}. Mend that; until then this is tried again and again.",
            internal=repr(error),
        ) from error


def write_whole(path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace a file at once: a reader sees the old content or the new one, never a part.

    After a power cut a new file may be empty, as we do not wait for the disk; whoever reads takes that for none.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any], *, is_durable: bool = False) -> None:
    """Replace a note of ours; with `is_durable` it survives a power cut, at the price of waiting for the disk."""
    write_whole(path, json.dumps(content).encode())
    if is_durable:
        for written in (path, path.parent):
            _flush(written)


def tail(path: Path) -> bytes:
    """Return a log's last part, b"" without one; never through a link, for the folder may be the engine user's."""
    return _part(path, is_last=True)


def head(path: Path) -> bytes:
    """Return a log's first part; as `tail`."""
    return _part(path, is_last=False)


def _part(path: Path, *, is_last: bool) -> bytes:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, os.fstat(descriptor).st_size - LOG_PART_BYTES) if is_last else 0)
            return file.read(LOG_PART_BYTES)
    return b""


def move_durably(source: Path, target: Path) -> None:
    """Rename a folder so that it stays renamed after a power cut."""
    source.rename(target)
    _flush(target.parent)


def remove(path: Path) -> None:
    """Remove a folder or file, if it is there; of a link, only the link. A removal that was cut off is repeated."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def flush_all(folder: Path) -> None:
    """Wait until everything below a folder is on disk."""
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            if not path.is_symlink():
                _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, {} when there is no such file or nothing in it.

    Raises:
        RegionUnreachable: the file is there and cannot be read, which says nothing about the cluster.
    """
    try:
        content = json.loads(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RegionUnreachable(
            "The region's notes about an engine cannot be read.", internal=f"{path}: {error!r}"
        ) from error
    return cast("dict[str, Any]", content)


@contextmanager
def exclusive(path: Path, *, wait_seconds: float = LOCK_WAIT_SECONDS) -> Iterator[int]:
    """Hold a file's lock and yield its descriptor; the kernel lets go of the lock when the holder dies.

    Raises:
        RegionUnreachable: somebody else held it all the while.
    """
    with open_lock(path) as descriptor:
        _acquire(descriptor, path, time.monotonic() + wait_seconds)
        yield descriptor


@contextmanager
def open_lock(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RegionUnreachable("The region's folder cannot be used.", internal=f"{path}: {error!r}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() >= deadline:
            raise RegionUnreachable("Another worker is busy with this engine.", internal=f"{path} is locked")
        time.sleep(LOCK_POLL_SECONDS)
