"""Programs of ours that do what takes minutes, outlive their caller, and note how far they are."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from provisioning.backends.local.process import Identity, read_boot_id
from provisioning.errors import RegionUnreachable

# The folder that holds the top package.
CODE = Path(__file__).parents[3]
OURS = ("FLOWPLANE_", "DJANGO_")
PR_SET_PDEATHSIG = 1
# A program that was asked to end unwinds and removes what it had half-made.
END_SECONDS = 3.0


def begin(module: str, orders: Sequence[Mapping[str, Any]], *, what: str) -> None:
    """Have a program begin for each order, at the same time; returns once each has noted its first phase.

    Nothing of our own environment's secrets goes along.

    Raises:
        RegionUnreachable: one did not begin.
    """
    programs = [_launch(module) for _ in orders]
    said = [program.communicate(json.dumps(order).encode()) for program, order in zip(programs, orders, strict=True)]
    failed = [words for program, (_, words) in zip(programs, said, strict=True) if program.returncode != 0]
    if failed:
        raise RegionUnreachable(
            f"{what} could not be begun. Look whether the region's disk is full or its memory short.",
            internal=failed[0].decode(errors="replace")[-500:],
        )


def _launch(module: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        cwd=CODE,
    )


def worker_of(note: Mapping[str, Any]) -> Identity | None:
    """Return who should be at work; None when the attempt was ended, by itself, by `stop_all` or with the machine."""
    worker = None if note.get("is_over") else Identity.from_record(note)
    return worker if worker is not None and worker.boot_id == read_boot_id() else None


def detach(begin: Callable[[], None]) -> bool:
    """Go on in a process that is nobody's child: True there, after `begin`; False in the caller once that is done.

    The caller ends with 1 when `begin` failed.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.wait()
        has_begun = os.read(reader, 1)
        os.close(reader)
        if not has_begun:
            raise SystemExit(1)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(reader)
    begin()
    os.write(writer, b".")
    os.close(writer)
    return True


def redirect(log: Path) -> None:
    """Send all that is printed to a file of its own."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def run_as(owner: tuple[int, int] | None, work: Callable[[], None]) -> str:
    """Do some work in a child that has become this user (uid, gid); return how it failed, "" when it did not.

    For files that belong to that user: what we open with our own rights, a link of theirs could have chosen.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            if owner is not None:
                os.setgroups([])
                os.setgid(owner[1])
                os.setuid(owner[0])
            work()
        except Exception as error:  # noqa: BLE001 - the rim of this process
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:1000])
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said or ("" if status == 0 else "it was killed")


def unwind(_number: int, _frame: FrameType | None) -> None:
    """For a signal: end in order, so that nothing half-made is left."""
    raise SystemExit(1)


def die_with_parent() -> None:
    """For a child between fork and exec: end when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
