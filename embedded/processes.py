"""Operating-system processes: run one to its end, find ours, stop them. Standard library only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedded.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from embedded.accounts import Account

# Enough of a failed command's output to see the cause, not so much that the sentence is lost.
SHOWN_LINES = 25
GRACE_SECONDS = 15.0
INTERRUPTED = 130


def interruptible() -> None:
    """Let a polite kill and a closed terminal unwind like Ctrl-C, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)


def run_as_command(work: Callable[[], int]) -> int:
    """Do what a command is for and return its exit status; what goes wrong is told in a sentence."""
    interruptible()
    try:
        return work()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a folder that became read-only, a connection that broke: the system's own words name it.
        print(f"Stopped by an error of the system: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish the block even when the person presses Ctrl-C again; it must be short.

    A handler that does nothing, not SIG_IGN: commands that we start must stay interruptible.
    """
    with _answering(lambda *_: None):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Have an interrupt come when the block is over, which must be short.

    A handler, not a mask: commands that we start inside would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():  # no interrupt comes in any other
        yield
        return
    came: list[int] = []
    try:
        with _answering(lambda number, _: came.append(number)):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def _answering(answer: Callable[[int, object], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, answer) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def passed_on(child: subprocess.Popen[Any]) -> Iterator[None]:
    """Leave interrupts to a child that shares our terminal: Ctrl-C reaches it anyway, others are passed on as one."""

    def interrupt(*_: object) -> None:
        child.send_signal(signal.SIGINT)

    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def identity(account: Account | None) -> dict[str, Any]:
    """Return the arguments of Popen that make a child run as `account`; none means as ourselves."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def run(
    argv: Sequence[str | Path],
    *,
    purpose: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
) -> str:
    """Run a command to its end and return its output.

    It gets a session of its own, so that an interrupt reaches it through us and leaves nothing behind.

    Raises:
        SetupError: it could not be started or did not exit with 0; the end of its output is quoted.
    """
    with contextlib.ExitStack() as guarded:
        with held_back():  # or an interrupt between the two would leave a child that nobody guards
            try:
                child = subprocess.Popen(
                    [str(word) for word in argv],
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                    **identity(account),
                )
            except OSError as error:
                raise SetupError(f"{purpose} failed: {argv[0]} could not be started ({error.strerror}).") from error
            guarded.enter_context(child)
            guarded.enter_context(session_ended_on_interrupt(child))
        output: str = child.communicate()[0]
    if child.returncode != 0:
        shown = "\n".join(output.splitlines()[-SHOWN_LINES:])
        raise SetupError(f"{purpose} failed: {Path(argv[0]).name} ended with {child.returncode}. It said:\n{shown}")
    return output


@contextlib.contextmanager
def session_ended_on_interrupt(child: subprocess.Popen[Any]) -> Iterator[None]:
    """End the child's whole session when the block is left by any exception."""
    try:
        yield
    except BaseException:
        end_session(child)
        raise


def end_session(child: subprocess.Popen[Any], *, grace_seconds: float = GRACE_SECONDS) -> None:
    """Stop a child that leads its own session, with all that it started. Running it twice is harmless."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@dataclass(frozen=True)
class Process:
    """One entry of the process table, as we saw it."""

    pid: int

    @property
    def folder(self) -> Path:
        return Path(f"/proc/{self.pid}")

    @property
    def working_directory(self) -> Path | None:
        """Where it runs, or None when it is gone or not ours to look at."""
        try:
            return (self.folder / "cwd").readlink()
        except OSError:
            return None

    @property
    def environment(self) -> dict[str, str]:
        """The variables it was started with; empty when it is gone or not ours to look at."""
        try:
            raw = (self.folder / "environ").read_bytes()
        except OSError:
            return {}
        pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
        return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}

    @property
    def command(self) -> list[str]:
        """Its argument list; empty when it is gone."""
        try:
            return [os.fsdecode(word) for word in (self.folder / "cmdline").read_bytes().split(b"\0")]
        except OSError:
            return []

    @property
    def leads_session(self) -> bool:
        try:
            return os.getsid(self.pid) == self.pid
        except OSError:
            return False


def processes() -> Iterator[Process]:
    """Yield every process but ourselves."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield Process(int(entry.name))


def processes_inside(folder: Path) -> list[Process]:
    """Return the processes whose working directory lies in `folder`. One look at the process table."""
    return [process for process in processes() if runs_inside(process, folder)]


def runs_inside(process: Process, folder: Path) -> bool:
    """Tell whether a process's working directory lies in `folder`, which must be free of symbolic links."""
    working_directory = process.working_directory
    return working_directory is not None and working_directory.is_relative_to(folder)


def stop(
    victims: Iterable[Process],
    still_ours: Callable[[Process], bool],
    *,
    first: signal.Signals = signal.SIGTERM,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """End these processes: politely, then by force. Returns when they are gone.

    `still_ours` is asked again once the process is pinned, because its number may have passed to somebody else.
    """
    with contextlib.ExitStack() as stack:
        pinned: list[int] = []
        for process in victims:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(process.pid)
                stack.callback(os.close, handle)
                if still_ours(process):
                    signal.pidfd_send_signal(handle, first)
                    pinned.append(handle)
        for handle in _alive_after(pinned, grace_seconds):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        _alive_after(pinned, grace_seconds)


def _alive_after(handles: list[int], seconds: float) -> list[int]:
    """Wait until all these processes have ended, at most `seconds`; return those that have not."""
    deadline = time.monotonic() + seconds
    alive = list(handles)
    while alive and (left := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(alive, [], [], left)
        alive = [handle for handle in alive if handle not in ended]
    return alive
