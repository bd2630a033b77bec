"""Small certainties about files: whole or not there, one holder at a time. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def digest(*parts: bytes) -> str:
    """Return a short name for this content."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:20]


@contextlib.contextmanager
def alone(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the lock on this file or folder; the kernel drops it when we die.

    Waits for another holder, unless there is a `refusal`, which is then raised as SetupError.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        yield
    except BlockingIOError:
        raise SetupError(refusal or "") from None
    finally:
        os.close(handle)
