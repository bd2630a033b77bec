"""Become an engine: take its lock, leave the caller's process tree, drop privileges, write down who we are, exec.

Run as `python -I -S launch.py` with the order (JSON) on its standard input; standard library only, so that nothing of
ours is in the process that turns into the engine. Answers one JSON object: `{"outcome": "started"}`, "locked" (the
engine already runs), "fenced" (a newer turn took over), or "failed" with a `reason`.

The lock belongs to the open file, and the engine inherits that file: the lock is free exactly when the engine process
has ended. The record is written before exec, so there is no moment in which an engine runs that nobody knows of.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

FAILURE_BYTES = 4096


def main() -> int:
    order = json.load(sys.stdin)
    lock = os.open(order["lock"], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        answer = {"outcome": "locked"}
    else:
        os.set_inheritable(lock, True)
        answer = launch(order)
    sys.stdout.write(json.dumps(answer))
    return 0


def launch(order: dict[str, Any]) -> dict[str, Any]:
    """Start the engine in a process that is nobody's child, and return how that went.

    The pipe closes by itself on a successful exec; a failure is written into it first.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(reader)
            _report_and_end(writer, _become_engine(order))
        os._exit(0)
    os.close(writer)
    os.wait()
    with os.fdopen(reader, "rb") as pipe:
        failure = pipe.read(FAILURE_BYTES)
    return dict(json.loads(failure)) if failure else {"outcome": "started"}


def _report_and_end(writer: int, answer: dict[str, Any]) -> None:
    os.write(writer, json.dumps(answer).encode()[:FAILURE_BYTES])
    os._exit(1)


def _become_engine(order: dict[str, Any]) -> dict[str, Any]:
    """Never returns when all goes well."""
    try:
        # The last check, under the engine's own lock: whoever was suspended on the way here is out of date now.
        if int(Path(order["fence"]).read_text()) > order["record"]["epoch"]:
            return {"outcome": "fenced"}
        os.umask(0o077)
        _write_record(Path(order["record_file"]), order["record"])
        _drop_privileges(order["user"])
        _redirect(order["console"])
        os.chdir(order["folder"])
        # A worker's threads block signals, and a blocked SIGTERM would survive exec.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - becoming the engine is the point
    except (OSError, ValueError, KeyError) as error:
        return {"outcome": "failed", "reason": str(error), "errno": getattr(error, "errno", None)}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        json.dump({**record, **_identity()}, file)
    Path(name).replace(path)


def _identity() -> dict[str, Any]:
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": os.getpid(), "start_time": int(stat[19]), "boot_id": boot_id}


def _drop_privileges(user: str | None) -> None:
    if user is None:
        return
    account = pwd.getpwnam(user)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def _redirect(console: str) -> None:
    """Give the engine its own console. Opened after privileges are dropped, and never through a link."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


if __name__ == "__main__":
    sys.exit(main())
