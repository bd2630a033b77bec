"""What was launched for a cluster, as its launcher wrote it down; and how an earlier engine of it came to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.backends.engine.health import Look
from provisioning.backends.local.files import head, read_json, tail, write_json
from provisioning.backends.local.layout import BrokerFolder, Ports, Seat
from provisioning.backends.local.process import Identity, read_boot_id
from provisioning.errors import RegionUnreachable

# A healthy engine is looked at every 3 s; an older sight means that no watch is running.
SIGHT_FRESH_SECONDS = 5.0
# Fixed words of the engine's about files of its own that make no sense: its log, its state, its vote and its topology
# (twice: 8.6 calls that by another name), each seen of 8.5.8. Only of the last it ends; of all it never comes up.
DAMAGES = (
    b"io.camunda.zeebe.journal.CorruptedJournalException",
    b"RocksDBException: block checksum mismatch",
    b"io.atomix.raft.storage.serializer.MetaDecoder",
    b"io.camunda.zeebe.topology.PersistedClusterTopology$",
    b"io.camunda.zeebe.dynamic.config.PersistedClusterConfiguration$",
)
# Fixed words of the runtime and the engine. Nothing else of a log is ever repeated: it may hold workflow data.
CAUSES = (
    (b"java.lang.OutOfMemoryError", "it ran out of memory"),
    (b"A fatal error has been detected by the Java Runtime", "the Java runtime crashed"),
    (b"No space left on device", "the disk was full"),
    (b"Address already in use", "one of its ports was taken"),
    (b"flowplane: the copy failed", "no copy of its data could be kept, for going back"),
    (b"Received a newer topology", "the other brokers had a newer topology, which it knows now"),
    *((mark, "files of its data are damaged") for mark in DAMAGES),
)


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """The process that was last launched on a seat: who it is, and what it was started with.

    `brokers` is how many its cluster was to have, `store` the fingerprint of the backup store it knows ("" for none).
    """

    identity: Identity
    digest: str
    release: str
    ports: Ports
    serves_rest: bool
    starts: int
    last_exit: str
    brokers: int = 1
    store: str = ""

    @classmethod
    def read(cls, seat: Seat) -> EngineRecord | None:
        """Return the record, None before the first start.

        Raises:
            RegionUnreachable: it is damaged; whether an engine runs cannot be told from it.
        """
        record = read_json(seat.record)
        identity = Identity.from_record(record)
        if identity is None:
            return None
        try:
            return cls(
                identity,
                str(record["digest"]),
                str(record.get("release", "")),
                Ports(int(record["ports"])),
                bool(record["serves_rest"]),
                int(record["starts"]),
                str(record["last_exit"]),
                # Records from before there were several brokers and a store lack both.
                int(record.get("brokers", 1)),
                str(record.get("store", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RegionUnreachable(
                f"The record of this cluster's engine is damaged: {seat.record.name}. Restore it, or remove it once "
                "no engine of this cluster runs.",
                internal=repr(error),
            ) from error

    def is_running(self) -> bool:
        return self.identity.is_alive()

    def stopping_seconds(self, seat: Seat) -> float | None:
        """Return how long ago this process was told to stop, None when it was not."""
        note = read_json(seat.stopping)
        if Identity.from_record(note) != self.identity:
            return None
        return max(0.0, time.monotonic() - float(note["at"]))

    def note_stopping(self, seat: Seat) -> None:
        write_json(seat.stopping, {**self.identity.to_record(), "at": time.monotonic()})

    def blames_data(self, seat: Seat) -> bool:
        """Whether this process has written that its data is damaged: as it started, or a moment ago."""
        log = seat.log / "engine.log"
        with suppress(FileNotFoundError):
            # It begins a log of its own with its first words; until then its predecessor's is there.
            if log.lstat().st_mtime_ns >= seat.record.stat().st_mtime_ns:
                words = head(log) + tail(log)
                return any(mark in words for mark in DAMAGES)
        return False

    def explain_end(self, seat: Seat, name: str) -> str:
        """Return why this process, which runs no more, ended; the reason before it when it was told to stop."""
        if self.stopping_seconds(seat) is not None:
            return self.last_exit
        if self.identity.boot_id != read_boot_id():
            return f"{name} ended because the machine was restarted."
        return f"{name} ended without being told to: {_find_cause(seat.log)}."


def running(seat: Seat) -> EngineRecord | None:
    """Return what runs on a seat, None when nothing does. Raises as `EngineRecord.read`."""
    record = EngineRecord.read(seat)
    return record if record is not None and record.is_running() else None


def _find_cause(log: Path) -> str:
    words = b"".join(tail(log / name) for name in ("console.log", "engine.log"))
    return next((cause for mark, cause in CAUSES if mark in words), "its process was killed, or gave up")


def write_sight(broker: BrokerFolder, identity: Identity, look: Look) -> None:
    """Keep a look for all who observe; only the watch does this."""
    write_json(broker.sight, {**identity.to_record(), **look.to_record(), "at": time.monotonic()})


def read_sight(broker: BrokerFolder, identity: Identity) -> tuple[Look, float] | None:
    """Return the watch's last look at this very engine and its age in seconds, None when there is no fresh one."""
    sight: Mapping[str, Any] = read_json(broker.sight)
    if Identity.from_record(sight) != identity:
        return None
    age_seconds = time.monotonic() - float(sight["at"])
    return (Look.from_record(sight), age_seconds) if 0 <= age_seconds < SIGHT_FRESH_SECONDS else None
