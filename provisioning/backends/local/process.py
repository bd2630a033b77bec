"""Who a process is, beyond its number: pids come round again, also after a reboot."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Any

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ZOMBIE_STATES = frozenset("ZX")
# Fields of /proc/<pid>/stat counted from the one after the name, which is field 2 and may hold spaces.
STATE, START_TIME = 0, 19
BYTES_PER_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """One process and no other: its pid, when it started (clock ticks after boot) and which boot that was."""

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Identity | None:
        """Read the identity out of a note of ours, None when it holds none."""
        try:
            return cls(int(record["pid"]), int(record["start_time"]), str(record["boot_id"]))
        except (KeyError, TypeError, ValueError):
            return None

    def to_record(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_time": self.start_time, "boot_id": self.boot_id}

    def is_alive(self) -> bool:
        """Tell whether this very process runs. A zombie has ended: it holds no lock, port or memory any more."""
        stat = _stat_of(self.pid)
        return (
            stat is not None
            and stat[STATE] not in ZOMBIE_STATES
            and int(stat[START_TIME]) == self.start_time
            and self.boot_id == read_boot_id()
        )

    @contextmanager
    def handle(self) -> Iterator[int | None]:
        """Yield a descriptor of this very process, None when it has ended.

        The identity is checked after the descriptor was opened, so whatever is done through the descriptor can never
        hit a later process with the same pid.
        """
        descriptor = self.open()
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def open(self) -> int | None:
        """Return a descriptor as in `handle`; the caller closes it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive():
            return descriptor
        os.close(descriptor)
        return None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False when it has ended already."""
        with self.handle() as descriptor:
            if descriptor is None:
                return False
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            return True

    def wait(self, seconds: float) -> bool:
        """Wait for the end; True when it has ended."""
        with self.handle() as descriptor:
            if descriptor is None:
                return True
            watched = poll()
            watched.register(descriptor, POLLIN)
            return bool(watched.poll(seconds * 1000))

    def resident_mib(self) -> int:
        """Return the memory it occupies now, 0 when it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") // BYTES_PER_MIB


def own_identity() -> Identity:
    identity = identity_of(os.getpid())
    assert identity is not None
    return identity


def identity_of(pid: int) -> Identity | None:
    stat = _stat_of(pid)
    return None if stat is None else Identity(pid, int(stat[START_TIME]), read_boot_id())


def find_holders(path: Path) -> list[Identity]:
    """Return the other processes that hold a file's lock; looks at every process that we may look at.

    Having the file open is not holding it. Nor does `/proc/locks` help: it names the launcher, which took the lock.
    """
    wanted = path.stat()
    holders = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _holds(entry, wanted):
            holders.append(identity_of(int(entry.name)))
    return [holder for holder in holders if holder is not None]


def _holds(process: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted) and _is_locked(process / "fdinfo" / descriptor.name):
                    return True
    return False


def _is_locked(description: Path) -> bool:
    """Tell whether the lock belongs to this very open file, which its heirs share."""
    lines = description.read_text().splitlines()
    return any(line.startswith("lock:") and " FLOCK " in line for line in lines)


def read_boot_id() -> str:
    return BOOT_ID.read_text().strip()


def _stat_of(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
