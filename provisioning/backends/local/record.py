"""What was launched for a cluster, as its launcher wrote it down; and how an earlier engine of it came to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.backends.local.files import read_json, write_json
from provisioning.backends.local.health import Look
from provisioning.backends.local.layout import ClusterFolder, Ports
from provisioning.backends.local.process import Identity, read_boot_id
from provisioning.errors import RegionUnreachable

# A healthy engine is looked at every 3 s; an older sight means that no watch is running.
SIGHT_FRESH_SECONDS = 5.0
LOG_TAIL_BYTES = 65536
# Fixed words of the runtime and the engine. Nothing else of a log is ever repeated: it may hold workflow data.
CAUSES = (
    (b"java.lang.OutOfMemoryError", "it ran out of memory"),
    (b"A fatal error has been detected by the Java Runtime", "the Java runtime crashed"),
    (b"No space left on device", "the disk was full"),
    (b"Address already in use", "one of its ports was taken"),
)


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """The engine that was last launched: who it is, and what it was started with."""

    identity: Identity
    digest: str
    ports: Ports
    serves_rest: bool
    starts: int
    last_exit: str

    @classmethod
    def read(cls, folder: ClusterFolder) -> EngineRecord | None:
        """Return the record, None before the first start.

        Raises:
            RegionUnreachable: it is damaged; whether an engine runs cannot be told from it.
        """
        record = read_json(folder.record)
        identity = Identity.from_record(record)
        if identity is None:
            return None
        try:
            return cls(
                identity,
                str(record["digest"]),
                Ports(int(record["ports"])),
                bool(record["serves_rest"]),
                int(record["starts"]),
                str(record["last_exit"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RegionUnreachable(
                f"The record of this cluster's engine is damaged: {folder.record.name}. Restore it, or remove it once "
                "no engine of this cluster runs.",
                internal=repr(error),
            ) from error

    def is_running(self) -> bool:
        return self.identity.is_alive()

    def stopping_seconds(self, folder: ClusterFolder) -> float | None:
        """Return how long ago this engine was told to stop, None when it was not."""
        note = read_json(folder.stopping)
        if Identity.from_record(note) != self.identity:
            return None
        return max(0.0, time.monotonic() - float(note["at"]))

    def note_stopping(self, folder: ClusterFolder) -> None:
        write_json(folder.stopping, {**self.identity.to_record(), "at": time.monotonic()})

    def explain_end(self, folder: ClusterFolder) -> str:
        """Return why this engine, which runs no more, ended; the reason before it when it was told to stop."""
        if self.stopping_seconds(folder) is not None:
            return self.last_exit
        if self.identity.boot_id != read_boot_id():
            return "The engine ended because the machine was restarted."
        return f"The engine ended without being told to: {_find_cause(folder.log)}."


def _find_cause(log: Path) -> str:
    words = b"".join(_tail(log / name) for name in ("console.log", "engine.log"))
    return next((cause for mark, cause in CAUSES if mark in words), "its process was killed, or gave up")


def _tail(path: Path) -> bytes:
    """Return a log's last part, without following a link: the folder belongs to the engine user."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, os.fstat(descriptor).st_size - LOG_TAIL_BYTES))
            return file.read(LOG_TAIL_BYTES)
    return b""


def write_sight(folder: ClusterFolder, identity: Identity, look: Look) -> None:
    """Keep a look for all who observe; only the watch does this."""
    write_json(folder.sight, {**identity.to_record(), **look.to_record(), "at": time.monotonic()})


def read_sight(folder: ClusterFolder, identity: Identity) -> tuple[Look, float] | None:
    """Return the watch's last look at this very engine and its age in seconds, None when there is no fresh one."""
    sight: Mapping[str, Any] = read_json(folder.sight)
    if Identity.from_record(sight) != identity:
        return None
    age_seconds = time.monotonic() - float(sight["at"])
    return (Look.from_record(sight), age_seconds) if 0 <= age_seconds < SIGHT_FRESH_SECONDS else None
