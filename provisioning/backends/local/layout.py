"""Names and places: which file of the local backend lies where."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioning.backends.engine.names import parse_id

# gRPC, REST, management, command and internal port; an entrance uses the first two of its block.
PORTS_PER_ENGINE = 5
_BROKER_PREFIX = "broker-"


@dataclass(frozen=True, slots=True)
class Ports:
    """One process's ports, a block without gaps. Clients use the first two; the others listen on loopback only, but
    see docs/adr/0004 for the datagram socket of `internal`."""

    first: int

    @property
    def grpc(self) -> int:
        return self.first

    @property
    def rest(self) -> int:
        return self.first + 1

    @property
    def management(self) -> int:
        return self.first + 2

    @property
    def command(self) -> int:
        return self.first + 3

    @property
    def internal(self) -> int:
        return self.first + 4

    @property
    def all(self) -> range:
        return range(self.first, self.first + PORTS_PER_ENGINE)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one long-lived process of a cluster lives: its folder, and the lock it holds while it does."""

    path: Path
    lock: Path

    @property
    def record(self) -> Path:
        return self.path / "engine.json"

    @property
    def ports(self) -> Path:
        return self.path / "ports.json"

    @property
    def stopping(self) -> Path:
        return self.path / "stopping.json"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def console(self) -> Path:
        return self.log / "console.log"


@dataclass(frozen=True, slots=True)
class BrokerFolder(Seat):
    """The files of one broker. `data`, `former`, `incoming`, `log` and `tmp` belong to the engine user."""

    node: int

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def sight(self) -> Path:
        return self.path / "sight.json"

    @property
    def contents(self) -> Path:
        """What is in `data` and `former`; a folder that is not in there is nobody's."""
        return self.path / "contents.json"

    @property
    def former(self) -> Path:
        return self.path / "former"

    @property
    def copying(self) -> Path:
        """Becomes `former` when the copy is whole."""
        return self.path / "copying"

    @property
    def discarded(self) -> Path:
        """Data that was tried and given up, on its way out."""
        return self.path / "discarded"

    @property
    def incoming(self) -> Path:
        return self.path / "incoming"

    @property
    def restore(self) -> Path:
        """How far the restore into `incoming` has come."""
        return self.path / "restore.json"

    def exists(self) -> bool:
        """Whether anything of this broker is there; the first one shares its folder with the cluster."""
        if self.node:
            return self.path.is_dir()
        return any(path.exists() for path in (self.record, self.ports, self.data, self.restore))


@dataclass(frozen=True, slots=True)
class EntranceFolder(Seat):
    """The files of the process that leads a cluster's clients to its brokers."""

    @property
    def program(self) -> Path:
        return self.path / "entrance.py"

    @property
    def routes(self) -> Path:
        """Which port leads to which brokers; the process reads it again whenever it changes."""
        return self.path / "routes.json"


@dataclass(frozen=True, slots=True)
class ClusterFolder:
    """The files of one cluster. Its first broker lives right here, further ones in folders of their own."""

    cluster_id: uuid.UUID
    path: Path
    guards: Path

    @property
    def tls(self) -> Path:
        return self.path / "tls"

    @property
    def log_configuration(self) -> Path:
        return self.path / "log4j2.xml"

    @property
    def card(self) -> Path:
        return self.path / "card.json"

    @property
    def rebalanced(self) -> Path:
        """Which starts of the brokers the last rebalance came after."""
        return self.path / "rebalanced.json"

    @property
    def backup(self) -> Path:
        """The backup that was asked for last."""
        return self.path / "backup.json"

    @property
    def fence(self) -> Path:
        return self.guards / f"{self.cluster_id}.fence"

    @property
    def restore_lock(self) -> Path:
        return self.guards / f"{self.cluster_id}.restore.lock"

    @property
    def entrance(self) -> EntranceFolder:
        return EntranceFolder(self.path / "entrance", self.guards / f"{self.cluster_id}.entrance.lock")

    def broker(self, node: int) -> BrokerFolder:
        if node == 0:
            return BrokerFolder(self.path, self.guards / f"{self.cluster_id}.lock", 0)
        return BrokerFolder(self.path / f"{_BROKER_PREFIX}{node}", self.guards / f"{self.cluster_id}.{node}.lock", node)

    def brokers(self) -> list[BrokerFolder]:
        """Every broker of which a folder is left, by number."""
        return [broker for broker in map(self.broker, self._nodes()) if broker.exists()]

    def _nodes(self) -> list[int]:
        names = (path.name.removeprefix(_BROKER_PREFIX) for path in self.path.glob(f"{_BROKER_PREFIX}*"))
        return sorted({0, *(int(name) for name in names if name.isdecimal())})

    def locks(self) -> list[Path]:
        """Every lock that a process of this cluster may hold, whether or not its folder is left."""
        return sorted(self.guards.glob(f"{self.cluster_id}*.lock"))


@dataclass(frozen=True, slots=True)
class RegionFolder:
    """The files of one region."""

    path: Path

    @property
    def engines(self) -> Path:
        return self.path / "engines"

    @property
    def guards(self) -> Path:
        return self.path / "guards"

    @property
    def trash(self) -> Path:
        return self.path / "trash"

    @property
    def waiting(self) -> Path:
        return self.path / "waiting"

    @property
    def releases(self) -> Path:
        return self.path / "releases"

    @property
    def register(self) -> Path:
        """What the region remembers of the account database."""
        return self.path / "register.json"

    @property
    def issuer(self) -> Path:
        """What engines take for the token issuer's base address."""
        return self.path / "keys"

    @property
    def keys(self) -> Path:
        """The path below the issuer is the one that engines ask for."""
        return self.issuer / "protocol" / "openid-connect" / "certs"

    @property
    def admission_lock(self) -> Path:
        return self.guards / "admission.lock"

    def release_state(self, sha256: str) -> Path:
        return self.releases / f"{sha256}.json"

    def cluster(self, cluster_id: uuid.UUID) -> ClusterFolder:
        return ClusterFolder(cluster_id, self.engines / str(cluster_id), self.guards)

    def clusters(self) -> Iterator[ClusterFolder]:
        """Every cluster of which a folder is left."""
        for path in sorted(self.engines.iterdir()):
            cluster_id = parse_id(path.name)
            if cluster_id is not None:
                yield self.cluster(cluster_id)

    def brokers(self) -> Iterator[BrokerFolder]:
        """Every broker of every cluster of which a folder is left."""
        for cluster in self.clusters():
            yield from cluster.brokers()

    def trash_of(self, cluster_id: uuid.UUID, *, node: int | None = None) -> list[Path]:
        """What of a cluster and its brokers, or of one of them, is on its way out."""
        part = "" if node is None else f"{_BROKER_PREFIX}{node}."
        return list(self.trash.glob(f"{cluster_id}.{part}*"))

    def retired(self, cluster_id: uuid.UUID) -> set[int]:
        """Numbers of the brokers whose folders are on their way out."""
        names = (path.name.split(".")[1] for path in self.trash.glob(f"{cluster_id}.{_BROKER_PREFIX}*.*"))
        return {int(name.removeprefix(_BROKER_PREFIX)) for name in names}


def trash_name(cluster_id: uuid.UUID, stamp: int, *, node: int | None = None) -> str:
    """Return what a folder is called on its way out."""
    part = "" if node is None else f".{_BROKER_PREFIX}{node}"
    return f"{cluster_id}{part}.{stamp}"


def create_region(region_home: Path) -> None:
    """Make the folders of a region; may run twice.

    Separate from the backend on purpose: a backend that made a missing home itself would take an unmounted disk for a
    region without clusters, and start empty engines.
    """
    region = RegionFolder(region_home)
    # Engines run as another user and must pass through to their own folder, whose mode keeps others out.
    region_home.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder, mode in (
        (region.engines, 0o711),
        (region.issuer, 0o755),
        (region.guards, 0o700),
        (region.trash, 0o700),
        (region.waiting, 0o700),
        (region.releases, 0o700),
    ):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
    region.keys.parent.mkdir(parents=True, exist_ok=True)
    for folder in (region.keys.parent, region.keys.parent.parent):
        folder.chmod(0o755)
