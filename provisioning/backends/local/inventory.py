"""Everything of any cluster that is in a region, whoever wished it there and whether or not its notes are left."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import UUID

from common.errors import Temporary
from provisioning.backends.base import Find
from provisioning.backends.engine.names import parse_id
from provisioning.backends.engine.store import Store
from provisioning.backends.local import fence
from provisioning.backends.local.admission import MAX_COUNTED_FILES, read_ports, used_mib
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import ClusterFolder, RegionFolder
from provisioning.backends.local.process import find_all_holders
from provisioning.errors import RegionUnreachable

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Parts:
    """What was found of one cluster."""

    words: list[str] = field(default_factory=list)
    since: float | None = None

    def add(self, words: str, since: float | None = None) -> None:
        self.words.append(words)
        if since is not None:
            self.since = since if self.since is None else min(self.since, since)


def take_inventory(region: RegionFolder, store: Store | None) -> Iterator[Find]:
    """Yield a find for each cluster of which anything is there. Looks at every process that we may look at."""
    found: defaultdict[UUID, _Parts] = defaultdict(_Parts)
    _find_folders(region, found)
    _find_processes(region, found)
    _find_backups(store, found)
    for cluster_id, parts in sorted(found.items()):
        cluster = region.cluster(cluster_id)
        since = datetime.fromtimestamp(parts.since, UTC) if parts.since is not None else None
        yield Find(cluster_id, _read_card(cluster), tuple(parts.words), since, fence.highest(cluster))


def list_belongings(region: RegionFolder, cluster_id: UUID) -> Iterator[str]:
    """Yield what there is of one cluster, as its customer may read it. Looks at every process that we may look at."""
    cluster = region.cluster(cluster_id)
    folders = {cluster.path, *(broker.path for broker in cluster.brokers())}
    for path in sorted(folder for folder in folders if folder.is_dir()):
        yield f"Folder {path.relative_to(region.path)}, {used_mib(path)} MiB"
    yield from (f"Ports {ports.start} to {ports.stop - 1}" for ports in _ports_of(cluster))
    yield from sorted(f"Process {pid}, {_name_of(pid)}" for pid in _pids(region)[cluster_id])


def _ports_of(cluster: ClusterFolder) -> Iterator[range]:
    for seat in (*cluster.brokers(), cluster.entrance):
        with suppress(RegionUnreachable):
            if (ports := read_ports(seat)) is not None:
                yield ports.all


def _find_folders(region: RegionFolder, found: defaultdict[UUID, _Parts]) -> None:
    for cluster in region.clusters():
        _describe_folder(cluster.path, "The folder", found[cluster.cluster_id])
        for ports in _ports_of(cluster):
            found[cluster.cluster_id].add(f"The ports {ports.start} to {ports.stop - 1}.")
    for path in region.trash.iterdir():
        cluster_id = parse_id(path.name.split(".")[0])
        if cluster_id is not None:
            _describe_folder(path, "A folder on its way out,", found[cluster_id])


def _describe_folder(path: Path, what: str, parts: _Parts) -> None:
    parts.add(f"{what} {path}, {used_mib(path)} MiB.", _oldest(path))


def _oldest(folder: Path) -> float | None:
    """Return when the oldest file below a folder was written: a folder's own time moves with every change in it."""
    times = []
    for parent, _, names in islice(os.walk(folder), MAX_COUNTED_FILES):
        for name in names:
            with suppress(OSError):
                times.append(Path(parent, name).lstat().st_mtime)
    return min(times, default=None)


def _find_processes(region: RegionFolder, found: defaultdict[UUID, _Parts]) -> None:
    for cluster_id, living in _pids(region).items():
        for pid in sorted(living):
            found[cluster_id].add(f"The process {pid}, {_name_of(pid)}.", _started_at(pid))


def _pids(region: RegionFolder) -> defaultdict[UUID, set[int]]:
    """Find them by where they work and by the locks they hold: their records may be gone, or their folders."""
    pids: defaultdict[UUID, set[int]] = defaultdict(set)
    for pid, cluster_id in _working(region):
        pids[cluster_id].add(pid)
    for lock, holders in find_all_holders(region.guards.glob("*.lock")).items():
        owner = parse_id(lock.name.split(".")[0])
        if owner is not None:
            pids[owner] |= {holder.pid for holder in holders}
    return pids


def _working(region: RegionFolder) -> Iterator[tuple[int, UUID]]:
    """Yield processes that work in a cluster's folder, also in one that was removed below them."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            where = (entry / "cwd").readlink()
            for home in (region.engines.resolve(), region.trash.resolve()):
                if where.is_relative_to(home) and where != home:
                    cluster_id = parse_id(where.relative_to(home).parts[0].split(".")[0].split(" ")[0])
                    if cluster_id is not None:
                        yield int(entry.name), cluster_id


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "which has just ended"


def _started_at(pid: int) -> float | None:
    """Return when a process began: its entry's own time."""
    try:
        return Path(f"/proc/{pid}").stat().st_mtime
    except OSError:
        return None


def _find_backups(store: Store | None, found: defaultdict[UUID, _Parts]) -> None:
    """Ask the store; its silence must not hide all the rest."""
    if store is None:
        return
    try:
        for cluster_id in store.cluster_ids():
            found[cluster_id].add("Backups in the region's store.")
    except Temporary as error:
        logger.warning("the inventory lacks backups: %s (%s)", error.message, error.internal)


def _read_card(cluster: ClusterFolder) -> dict[str, object]:
    try:
        return dict(read_json(cluster.card))
    except RegionUnreachable:
        return {}
