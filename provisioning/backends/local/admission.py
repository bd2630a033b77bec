"""Whether the machine has room for one more engine: memory, disk and ports. Asked under the admission lock."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from provisioning.backends.local.configuration import DISK_WATERMARK_MIB, LOOPBACK
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import PORTS_PER_ENGINE, ClusterFolder, Ports, RegionFolder
from provisioning.backends.local.process import BYTES_PER_MIB, Identity
from provisioning.backends.local.settings import LocalSettings
from provisioning.errors import NoCapacity, PortTaken, RegionUnreachable
from provisioning.spec import DesiredCluster

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
# An engine's data is some hundred files. What lies beyond is not counted, so more disk is kept free than needed.
MAX_COUNTED_FILES = 5000
BLOCK_BYTES = 512


def admit(desired: DesiredCluster, folder: ClusterFolder, region: RegionFolder, settings: LocalSettings) -> Ports:
    """Return the engine's ports when there is room for it; reserves nothing and leaves nothing behind.

    Raises:
        NoCapacity: memory, disk or a free block of ports is missing.
        PortTaken: a port that is this cluster's own is used by another program.
    """
    _require_memory(desired.size.memory_mib, region, settings.memory_budget_mib)
    _require_disk(desired.size.disk_mib, folder, region)
    own = read_ports(folder)
    return _find_ports(region, settings.ports) if own is None else _require_free(own)


def read_ports(folder: ClusterFolder) -> Ports | None:
    """Return the block a cluster keeps for its life, None before it has one."""
    first = read_json(folder.ports).get("first")
    return None if first is None else Ports(int(first))


def _require_memory(needed_mib: int, region: RegionFolder, budget_mib: int | None) -> None:
    reserved = list(_reservations(region))
    if budget_mib is None:
        free_mib = _available_mib() - sum(max(0, mib - used.resident_mib()) for mib, used in reserved)
    else:
        free_mib = budget_mib - sum(mib for mib, _ in reserved)
    if free_mib < needed_mib:
        raise NoCapacity(
            f"Memory is short: this engine needs {needed_mib} MiB and the region has {max(0, free_mib)} MiB free. "
            "Suspend or delete another cluster, or give the region more memory.",
            resource="memory",
            needed_mib=needed_mib,
            free_mib=max(0, free_mib),
        )


def _reservations(region: RegionFolder) -> Iterator[tuple[int, Identity]]:
    """Yield what each running engine was promised."""
    for folder in region.clusters():
        # One damaged record must not hold up all the other clusters.
        with suppress(RegionUnreachable):
            record = read_json(folder.record)
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


def _require_disk(disk_mib: int, folder: ClusterFolder, region: RegionFolder) -> None:
    needed_mib = _unused_mib(disk_mib, folder) + DISK_WATERMARK_MIB
    promised_mib = _promised_mib(folder, region)
    free_mib = shutil.disk_usage(region.engines).free // BYTES_PER_MIB
    if free_mib < needed_mib + promised_mib:
        raise NoCapacity(
            f"Disk is short: this engine needs {needed_mib} MiB (of which it never uses the last {DISK_WATERMARK_MIB}) "
            f"and {promised_mib} MiB are promised to the region's other clusters, which do not use them yet; the "
            f"region has {free_mib} MiB free. Free some space on the region's disk, or delete another cluster.",
            resource="disk",
            needed_mib=needed_mib,
            promised_mib=promised_mib,
            free_mib=free_mib,
        )


def _promised_mib(besides: ClusterFolder, region: RegionFolder) -> int:
    """Return what the other clusters, running or not, were promised and do not use yet."""
    total_mib = 0
    for folder in region.clusters():
        # One damaged note must not hold up all the other clusters.
        with suppress(RegionUnreachable):
            if folder != besides:
                total_mib += _unused_mib(int(read_json(folder.ports).get("disk_mib", 0)), folder)
    return total_mib


def _unused_mib(promised_mib: int, folder: ClusterFolder) -> int:
    return max(0, promised_mib - _used_mib(folder.data))


def _used_mib(data: Path) -> int:
    """Return what the folder takes on disk, now: a running engine's files come and go meanwhile."""
    used_bytes = 0
    for path in islice(_files_below(data), MAX_COUNTED_FILES):
        with suppress(FileNotFoundError):
            used_bytes += path.lstat().st_blocks * BLOCK_BYTES
    return used_bytes // BYTES_PER_MIB


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _find_ports(region: RegionFolder, allowed: range) -> Ports:
    taken = {ports.first for folder in region.clusters() if (ports := read_ports(folder)) is not None}
    for first in range(allowed.start, allowed.stop - PORTS_PER_ENGINE + 1, PORTS_PER_ENGINE):
        ports = Ports(first)
        if first not in taken and _taken_port(ports) is None:
            return ports
    raise NoCapacity(
        f"Ports are short: the region's range {allowed.start}-{allowed.stop - 1} has no {PORTS_PER_ENGINE} free ports "
        "in a row left. Delete another cluster, or set FLOWPLANE_ENGINE_PORTS to a larger range.",
        resource="ports",
    )


def _require_free(ports: Ports) -> Ports:
    taken = _taken_port(ports)
    if taken is not None:
        raise PortTaken(
            f"Port {taken} belongs to this cluster and is used by another program. Its clients know that address, so "
            "the engine keeps it and starts as soon as the port is free: end the other program.",
            port=taken,
        )
    return ports


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
