"""The region's watch: sees an engine's end at once and its health soon, and keeps the last look for all who observe."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from select import POLLIN, poll
from uuid import UUID

from provisioning.backends.local import health
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import ClusterFolder, RegionFolder, parse_id
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import EngineRecord, write_sight
from provisioning.errors import RegionUnreachable

SCAN_SECONDS = 1.0
LOOK_SOON_SECONDS = 0.3
# Two looks fit into the time for which a sight is fresh, so that observing needs no look of its own.
LOOK_SECONDS = 2.0


@dataclass(slots=True)
class _Engine:
    """One living engine as the watch knows it."""

    folder: ClusterFolder
    record: EngineRecord
    descriptor: int
    look: health.Look | None = None
    due_at: float = 0.0


@dataclass(slots=True)
class Watch:
    """Follows one region; not for several threads."""

    region: RegionFolder
    _engines: dict[UUID, _Engine] = field(default_factory=dict)
    _progress: dict[UUID, str] = field(default_factory=dict)
    _scan_at: float = 0.0

    def run(self) -> Generator[UUID, None, None]:
        """Yield the ids of clusters that changed, for ever.

        Every cluster there is comes first: who knows what happened while nobody watched, such as all engines' end.
        """
        try:
            for folder in self.region.clusters():
                yield folder.cluster_id
            while True:
                yield from self._round()
        finally:
            for engine in self._engines.values():
                os.close(engine.descriptor)

    def _round(self) -> Iterator[UUID]:
        if time.monotonic() >= self._scan_at:
            yield from self._scan()
            yield from self._follow_releases()
            self._scan_at = time.monotonic() + SCAN_SECONDS
        for engine in [one for one in self._engines.values() if one.due_at <= time.monotonic()]:
            yield from self._look(engine)
        yield from self._await_deaths()

    def _scan(self) -> Iterator[UUID]:
        """Take in engines that were started since, also under another identity."""
        for folder in self.region.clusters():
            with suppress(RegionUnreachable):
                record = EngineRecord.read(folder)
                known = self._engines.get(folder.cluster_id)
                if record is not None and (known is None or known.record.identity != record.identity):
                    yield from self._take_in(folder, record)

    def _take_in(self, folder: ClusterFolder, record: EngineRecord) -> Iterator[UUID]:
        descriptor = record.identity.open()
        if descriptor is None:
            return
        yield from self._drop(folder.cluster_id)
        self._engines[folder.cluster_id] = _Engine(folder, record, descriptor)
        yield folder.cluster_id

    def _drop(self, cluster_id: UUID) -> Iterator[UUID]:
        engine = self._engines.pop(cluster_id, None)
        if engine is not None:
            os.close(engine.descriptor)
            yield cluster_id

    def _look(self, engine: _Engine) -> Iterator[UUID]:
        is_stopping = engine.record.stopping_seconds(engine.folder) is not None
        look = health.Look() if is_stopping else health.look_at(engine.record.ports.management)
        # The folder may have been deleted meanwhile; its engine's end is noticed by itself.
        with suppress(FileNotFoundError):
            write_sight(engine.folder, engine.record.identity, look)
        has_changed, engine.look = look != engine.look, look
        engine.due_at = time.monotonic() + (LOOK_SECONDS if look.up else LOOK_SOON_SECONDS)
        if has_changed:
            yield engine.folder.cluster_id

    def _await_deaths(self) -> Iterator[UUID]:
        """Sleep until something is due, or an engine ends."""
        watched = poll()
        for engine in self._engines.values():
            watched.register(engine.descriptor, POLLIN)
        next_at = min([self._scan_at, *(engine.due_at for engine in self._engines.values())])
        ended = {descriptor for descriptor, _ in watched.poll(max(0.0, next_at - time.monotonic()) * 1000)}
        for cluster_id in [key for key, engine in self._engines.items() if engine.descriptor in ended]:
            yield from self._drop(cluster_id)

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
