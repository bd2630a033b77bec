"""Whether the machine has room for more brokers: memory, disk and ports. Asked under the admission lock."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from provisioning.backends.local.configuration import DISK_WATERMARK_MIB, LOOPBACK
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import (
    PORTS_PER_ENGINE,
    BrokerFolder,
    ClusterFolder,
    Ports,
    RegionFolder,
    Seat,
)
from provisioning.backends.local.process import BYTES_PER_MIB, Identity
from provisioning.backends.local.record import running
from provisioning.backends.local.settings import LocalSettings
from provisioning.errors import NoCapacity, PortTaken, RegionUnreachable
from provisioning.spec import DesiredCluster

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
# An engine's data is some hundred files. What lies beyond is not counted, so more disk is kept free than needed.
MAX_COUNTED_FILES = 5000
BLOCK_BYTES = 512
# An entrance takes 7 MiB of its own and 1 for every thousand connections; measured, see docs/adr/0008.
ENTRANCE_MIB = 16
# What makes a broker's data from a backup: Java with a small heap, for some seconds.
RESTORE_MIB = 384
# The request of Linux that has two files share their blocks.
FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Places:
    """The ports of every wished broker, by number, and of the entrance where there is one."""

    brokers: Mapping[int, Ports]
    entrance: Ports | None


def admit(
    desired: DesiredCluster,
    starting: Collection[BrokerFolder],
    cluster: ClusterFolder,
    region: RegionFolder,
    settings: LocalSettings,
    *,
    copies_mib: int = 0,
) -> Places:
    """Return everybody's ports when there is room for all that are to start; reserves nothing, leaves nothing behind.

    `copies_mib` is what copies of their data will take besides.

    Raises:
        NoCapacity: memory, disk or a free block of ports is missing.
        PortTaken: a port that is this cluster's own is used by another program.
    """
    if starting:
        _require_memory(desired, len(starting), cluster, region, settings.memory_budget_mib)
        _require_disk(desired.size.disk_mib, starting, region, copies_mib)
    return _find_places(desired, starting, cluster, region, settings.ports)


def read_ports(seat: Seat) -> Ports | None:
    """Return the block a process keeps for its cluster's life, None before it has one."""
    first = read_json(seat.ports).get("first")
    return None if first is None else Ports(int(first))


def require_memory_for_restore() -> None:
    """See that the machine has the memory now. It does not count against the budget: it is needed for seconds only.

    Raises:
        NoCapacity: it has not.
    """
    if (free_mib := _available_mib()) < RESTORE_MIB:
        raise NoCapacity(
            f"Memory is short: fetching a backup needs {RESTORE_MIB} MiB and the machine has {free_mib} MiB free. "
            "Suspend or delete a cluster, or give the machine more memory.",
            resource="memory",
            needed_mib=RESTORE_MIB,
            free_mib=free_mib,
        )


def _require_memory(
    desired: DesiredCluster, count: int, cluster: ClusterFolder, region: RegionFolder, budget_mib: int | None
) -> None:
    has_entrance = desired.size.brokers == 1 or running(cluster.entrance) is not None
    needed_mib = count * desired.size.memory_mib + (0 if has_entrance else ENTRANCE_MIB)
    reserved = list(_reservations(region))
    if budget_mib is None:
        free_mib = _available_mib() - sum(max(0, mib - used.resident_mib()) for mib, used in reserved)
    else:
        free_mib = budget_mib - sum(mib for mib, _ in reserved)
    if free_mib < needed_mib:
        what = "this engine needs" if count == 1 else f"these {count} brokers need"
        raise NoCapacity(
            f"Memory is short: {what} {needed_mib} MiB and the region has {max(0, free_mib)} MiB free. "
            "Suspend or delete another cluster, or give the region more memory.",
            resource="memory",
            needed_mib=needed_mib,
            free_mib=max(0, free_mib),
        )


def _reservations(region: RegionFolder) -> Iterator[tuple[int, Identity]]:
    """Yield what each running process was promised."""
    for cluster in region.clusters():
        for seat in (*cluster.brokers(), cluster.entrance):
            # One damaged record must not hold up all the other clusters.
            with suppress(RegionUnreachable):
                record = read_json(seat.record)
                identity = Identity.from_record(record)
                if identity is not None and identity.is_alive():
                    yield int(record["memory_mib"]), identity


def _available_mib() -> int:
    """Return what programs can still have, on this machine and within our control group."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
    assert found is not None
    machine_mib = int(found[1]) // 1024
    group_mib = _control_group_mib()
    return machine_mib if group_mib is None else min(machine_mib, group_mib)


def _control_group_mib() -> int | None:
    """Return what is left of a container's memory limit, None without one. File cache counts as free: it gives way."""
    with suppress(OSError, ValueError):
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        statistics = (CONTROL_GROUP / "memory.stat").read_text()
        cache = sum(int(size) for size in re.findall(r"^(?:in)?active_file (\d+)", statistics, re.MULTILINE))
        return (limit - used + cache) // BYTES_PER_MIB
    return None


def _require_disk(disk_mib: int, starting: Collection[BrokerFolder], region: RegionFolder, copies_mib: int) -> None:
    needed_mib = sum(_unused_mib(disk_mib, broker) for broker in starting) + copies_mib + DISK_WATERMARK_MIB
    promised_mib = _promised_mib(starting, region)
    free_mib = shutil.disk_usage(region.engines).free // BYTES_PER_MIB
    if free_mib < needed_mib + promised_mib:
        copies = f", {copies_mib} for copies to go back to" if copies_mib else ""
        raise NoCapacity(
            f"Disk is short: this engine needs {needed_mib} MiB (of which it never uses the last {DISK_WATERMARK_MIB}"
            f"{copies}) and {promised_mib} MiB are promised to the region's other brokers, which do not use them yet; "
            f"the region has {free_mib} MiB free. Free some space on the region's disk, or delete another cluster.",
            resource="disk",
            needed_mib=needed_mib,
            promised_mib=promised_mib,
            free_mib=free_mib,
        )


def _promised_mib(besides: Collection[BrokerFolder], region: RegionFolder) -> int:
    """Return what the other brokers, running or not, were promised and do not use yet."""
    total_mib = 0
    for broker in region.brokers():
        # One damaged note must not hold up all the other clusters.
        with suppress(RegionUnreachable):
            if broker not in besides:
                total_mib += _unused_mib(int(read_json(broker.ports).get("disk_mib", 0)), broker)
    return total_mib


def _unused_mib(promised_mib: int, broker: BrokerFolder) -> int:
    return max(0, promised_mib - used_mib(broker.data))


def used_mib(folder: Path) -> int:
    """Return what the folder takes on disk, now: a running engine's files come and go meanwhile."""
    used_bytes = 0
    for path in islice(_files_below(folder), MAX_COUNTED_FILES):
        with suppress(FileNotFoundError):
            used_bytes += path.lstat().st_blocks * BLOCK_BYTES
    return used_bytes // BYTES_PER_MIB


def can_share_blocks(folder: Path) -> bool:
    """Tell whether a copy in this folder's file system takes no room of its own; tries it with two small files."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as copy:
        source.write(b"0" * 4096)
        source.flush()
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, source.fileno())
        except OSError:
            return False
    return True


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _find_places(
    desired: DesiredCluster,
    starting: Collection[BrokerFolder],
    cluster: ClusterFolder,
    region: RegionFolder,
    allowed: range,
) -> Places:
    """Give a block to everybody who has none, and see that those who start can have theirs.

    Brokers that do not start yet get theirs as well: they are in everybody's list of contacts.
    """
    offer = _Offer(region, allowed)
    wished = {*map(cluster.broker, desired.nodes), *starting, *cluster.brokers()}
    brokers = {
        broker.node: _place(broker, offer, is_starting=broker in starting)
        for broker in sorted(wished, key=lambda one: one.node)
    }
    if desired.size.brokers == 1:
        return Places(brokers, None)
    is_opening = running(cluster.entrance) is None
    return Places(brokers, _place(cluster.entrance, offer, is_starting=is_opening))


def _place(seat: Seat, offer: _Offer, *, is_starting: bool) -> Ports:
    own = read_ports(seat)
    if own is None:
        return offer.take()
    if is_starting:
        _require_free(own)
    return own


class _Offer:
    """The blocks of a region that nobody has. Who has which is read only when one is asked for: a note of another
    cluster that is damaged must not hold up who has a block already."""

    def __init__(self, region: RegionFolder, allowed: range) -> None:
        self._region = region
        self._allowed = allowed

    @cached_property
    def _taken(self) -> set[int]:
        seats = (seat for cluster in self._region.clusters() for seat in (*cluster.brokers(), cluster.entrance))
        return {ports.first for seat in seats if (ports := read_ports(seat)) is not None}

    def take(self) -> Ports:
        ports = _find_ports(self._taken, self._allowed)
        self._taken.add(ports.first)
        return ports


def _find_ports(taken: set[int], allowed: range) -> Ports:
    for first in range(allowed.start, allowed.stop - PORTS_PER_ENGINE + 1, PORTS_PER_ENGINE):
        ports = Ports(first)
        if first not in taken and _taken_port(ports) is None:
            return ports
    raise NoCapacity(
        f"Ports are short: the region's range {allowed.start}-{allowed.stop - 1} has no {PORTS_PER_ENGINE} free ports "
        "in a row left. Delete another cluster, or set FLOWPLANE_ENGINE_PORTS to a larger range.",
        resource="ports",
    )


def _require_free(ports: Ports) -> None:
    taken = _taken_port(ports)
    if taken is not None:
        raise PortTaken(
            f"Port {taken} belongs to this cluster and is used by another program. Its clients know that address, so "
            "the engine keeps it and starts as soon as the port is free: end the other program.",
            port=taken,
        )


def _taken_port(ports: Ports) -> int | None:
    """Return a port of the block that cannot be listened on now, None when all can."""
    for port in ports.all:
        if not _can_bind(socket.SOCK_STREAM, LOOPBACK, port):
            return port
    # The engine binds this one to every address, see docs/adr/0004.
    return None if _can_bind(socket.SOCK_DGRAM, "", ports.internal) else ports.internal


def _can_bind(kind: socket.SocketKind, host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            # Else connections of an engine that has just ended would look like a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
