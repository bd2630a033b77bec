"""Whether a process without a door gets anywhere: its loop leaves a pulse in a file, and a probe asks how old that is.

As a program, `python common/pulse.py FILE SECONDS`, it is the probe: 0 when the pulse is younger than that. It needs
nothing but the standard library, because it runs every few seconds and Django's start takes a second of CPU.

What a pulse means: the clock's loop came round to its next chore; the watch's process has lost none of its regions; the
worker is not stuck (`Vitals`). A server that is away is no reason to have no pulse: a restart would not bring it back.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

BEAT_SECONDS = 5.0
# A task takes turns for a few seconds, or sends a mail, whose every step may take 10 s; ten times that is no work.
MAX_TASK_SECONDS = 300.0
# The consumer's loop turns every second, whether or not there is a message.
MAX_LOOP_SECONDS = 60.0


def beat(file: Path | None) -> None:
    """Note that it goes on. Time is the machine's since its start, which nobody sets."""
    if file is None:
        return
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(str(time.monotonic()), encoding="ascii")
    fresh.replace(file)


def age_seconds(file: Path) -> float | None:
    """How old the pulse is; None when there is none."""
    try:
        return time.monotonic() - float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


class Vitals:
    """What a worker knows of itself: which tasks run and since when, and when its consumer's loop turned last."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._running: dict[str, float] = {}
        self._turned_at: float | None = None

    def begin(self, task_id: str) -> None:
        """A task has begun."""
        self._running[task_id] = self._now()

    def end(self, task_id: str) -> None:
        """A task has ended, well or not."""
        self._running.pop(task_id, None)

    def turn(self) -> None:
        """The consumer is connected, and its loop turns."""
        self._turned_at = self._now()

    def disconnect(self) -> None:
        """The consumer has lost the broker and tries to get it back: no turn is expected until it has."""
        self._turned_at = None

    def fault(self) -> str:
        """Why this worker is stuck; "" when it is not. Without a broker it is not: the clock takes turns then."""
        now = self._now()
        if any(now - since > MAX_TASK_SECONDS for since in list(self._running.values())):
            return f"a task has been running for more than {MAX_TASK_SECONDS:.0f} s"
        if self._turned_at is not None and now - self._turned_at > MAX_LOOP_SECONDS:
            return f"no message has been looked for in {MAX_LOOP_SECONDS:.0f} s"
        return ""


def keep_beating(file: Path, vitals: Vitals, complain: Callable[[str], object]) -> threading.Thread:
    """Beat from a thread of its own, for as long as nothing is stuck."""

    def run() -> None:
        while True:
            if fault := vitals.fault():
                complain(fault)
            else:
                beat(file)
            time.sleep(BEAT_SECONDS)

    thread = threading.Thread(target=run, name="pulse", daemon=True)
    thread.start()
    return thread


def main(arguments: list[str]) -> int:
    """Say whether the pulse is young enough."""
    file, limit = Path(arguments[0]), float(arguments[1])
    age = age_seconds(file)
    if age is not None and age <= limit:
        return 0
    said = "there is none" if age is None else f"the last one is {age:.0f} s old"
    sys.stderr.write(f"no pulse within {limit:.0f} s: {said}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
