"""Become an engine: take its lock, leave the caller's process tree, write down who we are, drop privileges, exec.

Run as `python -I -S launch.py` with the order (JSON) on its standard input; standard library only, so that nothing of
ours is in the process that turns into the engine. Answers one JSON object: `{"outcome": "started"}`, "locked" (the
engine already runs), "fenced" (a newer turn took over), or "failed" with a `reason`.

The lock belongs to the open file, and the engine inherits that file: the lock is free exactly when the engine process
has ended. The record is written before exec, so there is no moment in which an engine runs that nobody knows of.

When a copy of the data is to be kept before a new release opens it, "started" is answered before the copy is made: it
may take a while. What makes the copy holds the lock too, so nothing else can begin while it is at work.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import subprocess
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
        answer = launch(order, lock)
    sys.stdout.write(json.dumps(answer))
    return 0


def launch(order: dict[str, Any], lock: int) -> dict[str, Any]:
    """Start the engine in a process that is nobody's child, and return how that went.

    The pipe closes by itself on a successful exec; a failure is written into it first.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(reader)
            _report_and_end(writer, _become_engine(order, lock, writer))
        os._exit(0)
    os.close(writer)
    os.wait()
    with os.fdopen(reader, "rb") as pipe:
        failure = pipe.read(FAILURE_BYTES)
    return dict(json.loads(failure)) if failure else {"outcome": "started"}


def _report_and_end(writer: int, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(writer, json.dumps(answer).encode()[:FAILURE_BYTES])
    os._exit(1)


def _become_engine(order: dict[str, Any], lock: int, writer: int) -> dict[str, Any]:
    """Never returns when all goes well."""
    try:
        # The last check, under the engine's own lock: whoever was suspended on the way here is out of date now.
        if int(Path(order["fence"]).read_text()) > order["record"]["epoch"]:
            return {"outcome": "fenced"}
        os.umask(0o077)
        _write(Path(order["record_file"]), {**order["record"], **_identity()})
        if order.get("copy"):
            _let_go_of_caller(writer)
            _keep_copy(order, lock)
        if order.get("contents"):
            _write(Path(order["contents_file"]), order["contents"], is_durable=True)
        _drop_privileges(order["user"])
        _redirect(order["console"])
        os.chdir(order["folder"])
        # A worker's threads block signals, and a blocked SIGTERM would survive exec.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - becoming the engine is the point
    except (OSError, ValueError, KeyError) as error:
        return {"outcome": "failed", "reason": str(error), "errno": getattr(error, "errno", None)}


def _let_go_of_caller(writer: int) -> None:
    """Close all that the caller waits on. The pipe's number stays taken, or another file could be written into."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, writer, inheritable=False)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def _keep_copy(order: dict[str, Any], lock: int) -> None:
    """Copy the engine's data aside, and give the copy its name once all of it is on disk.

    As the engine user: a link that an engine put into its data must not lead us to what only we may read. Ends this
    process when it fails; the words in the console are what the end is explained with.
    """
    source, unfinished, kept = (order["copy"][name] for name in ("from", "unfinished", "to"))
    # cp shares the blocks where the file system can.
    script = 'cp -a --reflink=auto "$1/." "$2/" && find "$2" "(" -type f -o -type d ")" -exec sync {} +'
    ran = subprocess.run(
        ["/bin/sh", "-c", script, "sh", source, unfinished],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        pass_fds=[lock],
        check=False,
        **_identity_of(order["user"]),
    )
    if ran.returncode != 0:
        Path(order["console"]).unlink(missing_ok=True)
        said = ran.stderr[-FAILURE_BYTES:] + b"\nflowplane: the copy failed\n"
        descriptor = os.open(order["console"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.write(descriptor, said)
        os._exit(1)
    Path(unfinished).rename(kept)
    _flush(Path(kept).parent)


def _write(path: Path, content: dict[str, Any], *, is_durable: bool = False) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    if is_durable:
        _flush(Path(name))
    Path(name).replace(path)
    if is_durable:
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity() -> dict[str, Any]:
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": os.getpid(), "start_time": int(stat[19]), "boot_id": boot_id}


def _identity_of(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


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
