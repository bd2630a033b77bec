"""The region's watch: sees an engine's end at once and its health soon, and keeps the last look for all who observe."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from select import POLLIN, poll
from uuid import UUID

from provisioning.backends.engine import health
from provisioning.backends.engine.names import parse_id
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, RegionFolder, Seat
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import EngineRecord, write_sight
from provisioning.errors import RegionUnreachable

SCAN_SECONDS = 1.0
LOOK_SOON_SECONDS = 0.3
# Two looks fit into the time for which a sight is fresh, so that observing needs no look of its own.
LOOK_SECONDS = 2.0


@dataclass(slots=True)
class _Process:
    """One living process as the watch knows it: a broker, or an entrance, which is not asked anything."""

    cluster_id: UUID
    seat: Seat
    record: EngineRecord
    descriptor: int
    look: health.Look | None = None
    due_at: float = 0.0


@dataclass(slots=True)
class Watch:
    """Follows one region; not for several threads."""

    region: RegionFolder
    hears: Callable[[float], None]
    _processes: dict[Seat, _Process] = field(default_factory=dict)
    # Of a broker's restore, and of a cluster that waits for its release.
    _progress: dict[BrokerFolder | UUID, str] = field(default_factory=dict)
    _scan_at: float = 0.0

    def run(self) -> Generator[UUID, None, None]:
        """Yield the ids of clusters that changed, for ever.

        Every cluster there is comes first: who knows what happened while nobody watched, such as all engines' end.
        """
        try:
            for cluster in self.region.clusters():
                yield cluster.cluster_id
            while True:
                self.hears(0.0)
                yield from self._round()
        finally:
            for process in self._processes.values():
                os.close(process.descriptor)

    def _round(self) -> Iterator[UUID]:
        if time.monotonic() >= self._scan_at:
            for cluster in self.region.clusters():
                yield from self._scan(cluster)
            yield from self._follow_releases()
            self._forget_gone()
            self._scan_at = time.monotonic() + SCAN_SECONDS
        for process in [one for one in self._processes.values() if one.due_at <= time.monotonic()]:
            yield from self._look(process)
        yield from self._await_deaths()

    def _scan(self, cluster: ClusterFolder) -> Iterator[UUID]:
        """Take in processes that were started since, also under another identity, and see how restores go on."""
        for seat in (*cluster.brokers(), cluster.entrance):
            with suppress(RegionUnreachable):
                record = EngineRecord.read(seat)
                known = self._processes.get(seat)
                if record is not None and (known is None or known.record.identity != record.identity):
                    yield from self._take_in(cluster.cluster_id, seat, record)
        for broker in cluster.brokers():
            with suppress(RegionUnreachable):
                yield from self._follow_restore(cluster.cluster_id, broker)

    def _take_in(self, cluster_id: UUID, seat: Seat, record: EngineRecord) -> Iterator[UUID]:
        descriptor = record.identity.open()
        if descriptor is None:
            return
        yield from self._drop(seat)
        due_at = 0.0 if isinstance(seat, BrokerFolder) else math.inf
        self._processes[seat] = _Process(cluster_id, seat, record, descriptor, due_at=due_at)
        yield cluster_id

    def _drop(self, seat: Seat) -> Iterator[UUID]:
        process = self._processes.pop(seat, None)
        if process is not None:
            os.close(process.descriptor)
            yield process.cluster_id

    def _look(self, process: _Process) -> Iterator[UUID]:
        seat, record = process.seat, process.record
        assert isinstance(seat, BrokerFolder)
        is_stopping = record.stopping_seconds(seat) is not None
        look = health.Look() if is_stopping else _ask(record)
        # The folder may have been deleted meanwhile; its engine's end is noticed by itself.
        with suppress(FileNotFoundError):
            write_sight(seat, record.identity, look)
        has_changed, process.look = look != process.look, look
        process.due_at = time.monotonic() + (LOOK_SECONDS if look.is_settled else LOOK_SOON_SECONDS)
        if has_changed:
            yield process.cluster_id

    def _await_deaths(self) -> Iterator[UUID]:
        """Sleep until something is due, or a process ends."""
        watched = poll()
        for process in self._processes.values():
            watched.register(process.descriptor, POLLIN)
        next_at = min([self._scan_at, *(process.due_at for process in self._processes.values())])
        ended = {descriptor for descriptor, _ in watched.poll(max(0.0, next_at - time.monotonic()) * 1000)}
        for seat in [key for key, process in self._processes.items() if process.descriptor in ended]:
            yield from self._drop(seat)

    def _follow_restore(self, cluster_id: UUID, broker: BrokerFolder) -> Iterator[UUID]:
        note = read_json(broker.restore)
        if not note and broker not in self._progress:
            return
        at_work = Identity.from_record(note)
        progress = f"{note.get('phase')} {at_work is not None and at_work.is_alive()}"
        if self._progress.get(broker) != progress:
            self._progress[broker] = progress
            yield cluster_id
        if not note:
            del self._progress[broker]

    def _follow_releases(self) -> Iterator[UUID]:
        """Tell the clusters that wait for a release how it goes on, until it is ready or has failed."""
        for path in self.region.waiting.iterdir():
            cluster_id = parse_id(path.name)
            with suppress(FileNotFoundError, RegionUnreachable):
                if cluster_id is not None:
                    yield from self._follow_release(cluster_id, path.read_text())

    def _follow_release(self, cluster_id: UUID, sha256: str) -> Iterator[UUID]:
        note = read_json(self.region.release_state(sha256))
        worker = Identity.from_record(note)
        is_at_work = worker is not None and worker.is_alive()
        progress = f"{note.get('phase')} {is_at_work}"
        if self._progress.get(cluster_id) != progress:
            self._progress[cluster_id] = progress
            yield cluster_id
        if note and not is_at_work:
            (self.region.waiting / str(cluster_id)).unlink(missing_ok=True)
            del self._progress[cluster_id]

    def _forget_gone(self) -> None:
        """Nobody follows a broker any more whose folder was removed, or a cluster that stopped waiting."""
        for key in list(self._progress):
            place = key.path if isinstance(key, BrokerFolder) else self.region.waiting / str(key)
            if not place.exists():
                del self._progress[key]


def _ask(record: EngineRecord) -> health.Look:
    return health.look_at(LoopbackDoor(record.ports.management), is_one_of_several=record.brokers > 1)
