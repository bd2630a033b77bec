"""Who a process is, beyond its number: pids come round again, also after a reboot."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Any, cast

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ZOMBIE_STATES = frozenset("ZX")
# Fields of /proc/<pid>/stat counted from the one after the name, which is field 2 and may hold spaces.
STATE, THREADS, START_TIME = 0, 17, 19
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
        """Tell whether this very process runs. A zombie has ended: it holds no lock, port or memory any more.

        Of a process with several threads the first may be gone while others still hold all that.
        """
        stat = _stat_of(self.pid)
        return (
            stat is not None
            and (stat[STATE] not in ZOMBIE_STATES or int(stat[THREADS]) > 1)
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
    """Return the other processes that hold a file's lock; looks at every process that we may look at."""
    return find_all_holders([path]).get(path, [])


def find_all_holders(paths: Iterable[Path]) -> dict[Path, list[Identity]]:
    """Return who holds which of these files' locks, in one look at all processes.

    Having the file open is not holding it. Nor does `/proc/locks` help: it names the launcher, which took the lock.
    """
    wanted = {(found.st_dev, found.st_ino): path for path in paths if (found := _stat(path)) is not None}
    holders: dict[Path, list[Identity]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            held = _held(entry, wanted)
            identity = identity_of(int(entry.name)) if held else None
            for path in held if identity is not None else ():
                holders.setdefault(path, []).append(cast("Identity", identity))
    return holders


def _held(process: Path, wanted: Mapping[tuple[int, int], Path]) -> set[Path]:
    held = set()
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            found = _stat(descriptor)
            path = wanted.get((found.st_dev, found.st_ino)) if found is not None else None
            with suppress(OSError):
                if path is not None and _is_locked(process / "fdinfo" / descriptor.name):
                    held.add(path)
    return held


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


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
