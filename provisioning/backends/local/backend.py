"""The local backend: one region whose engines are processes of this machine."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from provisioning.backends.local import admission, fence, health, starting
from provisioning.backends.local.files import exclusive, on_disk, open_lock, write_whole
from provisioning.backends.local.layout import ClusterFolder, RegionFolder
from provisioning.backends.local.process import Identity, find_holders
from provisioning.backends.local.record import EngineRecord, read_sight
from provisioning.backends.local.release import Releases
from provisioning.backends.local.settings import LocalSettings
from provisioning.backends.local.watch import Watch
from provisioning.errors import RegionUnreachable
from provisioning.spec import (
    STOP_GRACE_SECONDS,
    DesiredCluster,
    DesiredRelease,
    Endpoint,
    Lifecycle,
    ObservedCluster,
    ReleaseState,
)

# A killed process is gone within milliseconds unless the disk hangs.
KILL_WAIT_SECONDS = 5.0
# A release in one of these states will make progress that a cluster waits for.
_UNDER_WAY = frozenset({ReleaseState.ABSENT, ReleaseState.PREPARING})
# What is seen of an engine on its way out: it is not asked any more.
_SILENCE = (health.Look(), 0.0)


class LocalBackend:
    """A `ClusterBackend`. Keeps nothing in memory: any number of processes may have one of the same region."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._region = RegionFolder(settings.region_home)
        self._releases = Releases(settings)

    @on_disk()
    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        """See `ClusterBackend`. Reads five small files; two requests to the engine when the watch is not running.

        Raises:
            RegionUnreachable: the region's folder is missing or cannot be read.
        """
        self._require_region()
        folder = self._region.cluster(desired.cluster_id)
        state, detail = self._releases.state(desired.release)
        if desired.lifecycle is Lifecycle.RUNNING and state in _UNDER_WAY:
            self._note_waiting(desired)
        record = EngineRecord.read(folder)
        exists = folder.path.exists() or bool(self._region.trash_of(desired.cluster_id))
        if record is None:
            return ObservedCluster(exists=exists, release=state, release_detail=detail, waits_for=detail)
        if not record.is_running():
            return ObservedCluster(
                exists=exists,
                digest=record.digest,
                release=state,
                release_detail=detail,
                waits_for=detail,
                endpoint=self._endpoint(record),
                restarts=record.starts,
                last_exit=record.explain_end(folder),
            )
        return self._observe_running(desired, folder, record, (state, detail))

    def _observe_running(
        self, desired: DesiredCluster, folder: ClusterFolder, record: EngineRecord, release: tuple[ReleaseState, str]
    ) -> ObservedCluster:
        stopping_seconds = record.stopping_seconds(folder)
        is_stopping = stopping_seconds is not None
        look, age_seconds = _SILENCE if is_stopping else _see(folder, record)
        partitions = desired.size.partitions
        return ObservedCluster(
            exists=True,
            running=True,
            stopping=is_stopping,
            stopping_seconds=stopping_seconds or 0.0,
            digest=record.digest,
            healthy_partitions=len(look.healthy),
            available=look.is_available(partitions),
            release=release[0],
            release_detail=release[1],
            waits_for="The engine is stopping." if is_stopping else look.waits_for(partitions),
            endpoint=self._endpoint(record),
            age_seconds=age_seconds,
            restarts=record.starts,
            last_exit=record.last_exit,
        )

    @on_disk()
    def prepare(self, release: DesiredRelease) -> None:
        """See `ClusterBackend`. Starts a program that outlives the caller.

        Raises:
            JavaMissing: there is no Java 21 where the settings say.
            ReleaseUnavailable: the cache cannot be written.
        """
        self._require_region()
        self._releases.prepare(release)

    @on_disk()
    def start(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. A running engine is left alone, whatever it was started with.

        Raises:
            NoCapacity, PortTaken: nothing was started, and a first start left nothing behind.
            Fenced: a newer turn has taken over.
            Permanent: something that only a person can mend, such as a missing Java.
        """
        self._require_region()
        starting.require_possible(desired, self._settings.engine_user)
        program = self._releases.program(desired.release)
        folder = self._region.cluster(desired.cluster_id)
        with fence.held(folder, epoch):
            before = EngineRecord.read(folder)
            if before is not None and before.is_running():
                return
            _refuse_lost_data(folder)
            # What is admitted must be running before the next one asks, or two would get the same room.
            with exclusive(self._region.admission_lock):
                ports = admission.admit(desired, folder, self._region, self._settings)
                starting.lay_down(desired, folder, ports, self._settings)
                launch = starting.Launch(desired, folder, ports, program, epoch)
                launch.run(before, issuer=self._region.issuer, engine_user=self._settings.engine_user)

    @on_disk()
    def stop(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. By force from `STOP_GRACE_SECONDS` after the first call on."""
        self._require_region()
        folder = self._region.cluster(desired.cluster_id)
        with fence.held(folder, epoch):
            record = EngineRecord.read(folder)
            if record is None or not record.is_running():
                return
            seconds = record.stopping_seconds(folder)
            if seconds is None:
                record.note_stopping(folder)
                record.identity.signal(signal.SIGTERM)
            elif seconds >= STOP_GRACE_SECONDS:
                record.identity.signal(signal.SIGKILL)

    @on_disk()
    def delete(self, cluster_id: UUID, *, epoch: int) -> None:
        """See `ClusterBackend`. The engine is ended by force: its data goes too.

        Raises:
            RegionUnreachable: the engine would not end; nothing was removed.
        """
        self._require_region()
        folder = self._region.cluster(cluster_id)
        with fence.held(folder, epoch):
            _end_by_force(folder)
            (self._region.waiting / str(cluster_id)).unlink(missing_ok=True)
            if folder.path.exists() or folder.path.is_symlink():
                # Gone at once for everybody else, however long the removal takes; a removal that was cut off is
                # finished by the next call, for until then the cluster is observed to exist.
                folder.path.rename(self._region.trash / f"{cluster_id}.{time.monotonic_ns()}")
            for left in self._region.trash_of(cluster_id):
                _remove(left)

    @on_disk()
    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        """See `ClusterBackend`. Writes only when the keys differ."""
        self._require_region()
        content = json.dumps(jwks, sort_keys=True).encode()
        if not self._region.keys.exists() or self._region.keys.read_bytes() != content:
            write_whole(self._region.keys, content, mode=0o644)

    def changes(self) -> Generator[UUID, None, None]:
        """See `ClusterBackend`. May be closed. One process per region is enough; it also keeps the sights fresh."""
        self._require_region()
        return Watch(self._region).run()

    def _require_region(self) -> None:
        if not self._region.engines.is_dir():
            raise RegionUnreachable(
                "The region's folder is missing. Mount its disk again, or create the region.",
                internal=str(self._region.engines),
            )

    def _note_waiting(self, desired: DesiredCluster) -> None:
        """Have the watch wake this cluster when its release makes progress."""
        note = self._region.waiting / str(desired.cluster_id)
        if not note.exists():
            note.write_text(desired.release.sha256)

    def _endpoint(self, record: EngineRecord) -> Endpoint:
        address = self._settings.address
        rest = f"https://{address}:{record.ports.rest}" if record.serves_rest else ""
        return Endpoint(grpc=f"{address}:{record.ports.grpc}", rest=rest)


def _see(folder: ClusterFolder, record: EngineRecord) -> tuple[health.Look, float]:
    return read_sight(folder, record.identity) or (health.look_at(record.ports.management), 0.0)


def _refuse_lost_data(folder: ClusterFolder) -> None:
    """Never start an engine on nothing in place of its data. The lock's file tells that one was launched before.

    Raises:
        RegionUnreachable: the cluster had a folder, and it is not there.
    """
    if folder.engine_lock.exists() and not folder.data.is_dir():
        raise RegionUnreachable(
            "The folder with this cluster's data is missing. Mount its disk again, or put the folder back: the engine "
            "is not started on an empty one.",
            internal=str(folder.data),
        )


def _end_by_force(folder: ClusterFolder) -> None:
    """End the engine, known from its record or not: deleting must work in any state."""
    with suppress(RegionUnreachable):
        record = EngineRecord.read(folder)
        if record is not None:
            _kill(record.identity)
    with open_lock(folder.engine_lock) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for holder in find_holders(folder.engine_lock):
                _kill(holder)


def _kill(process: Identity) -> None:
    process.signal(signal.SIGKILL)
    if not process.wait(KILL_WAIT_SECONDS):
        raise RegionUnreachable("The engine does not end although it was killed.", internal=f"pid {process.pid}")


def _remove(path: Path) -> None:
    """Remove a folder; of a link, only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
