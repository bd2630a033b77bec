"""Names and places: which file of the local backend lies where."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# gRPC, REST, management, command and internal port.
PORTS_PER_ENGINE = 5


@dataclass(frozen=True, slots=True)
class Ports:
    """One engine's ports, a block without gaps. Clients use the first two; the others listen on loopback only, but see
    docs/adr/0004 for the datagram socket of `internal`."""

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
class ClusterFolder:
    """The files of one cluster. Only `data`, `log` and `tmp` belong to the engine user."""

    cluster_id: uuid.UUID
    path: Path
    guards: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def tls(self) -> Path:
        return self.path / "tls"

    @property
    def log_configuration(self) -> Path:
        return self.path / "log4j2.xml"

    @property
    def record(self) -> Path:
        return self.path / "engine.json"

    @property
    def sight(self) -> Path:
        return self.path / "sight.json"

    @property
    def ports(self) -> Path:
        return self.path / "ports.json"

    @property
    def stopping(self) -> Path:
        return self.path / "stopping.json"

    @property
    def fence(self) -> Path:
        return self.guards / f"{self.cluster_id}.fence"

    @property
    def engine_lock(self) -> Path:
        return self.guards / f"{self.cluster_id}.lock"


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

    def trash_of(self, cluster_id: uuid.UUID) -> list[Path]:
        return list(self.trash.glob(f"{cluster_id}.*"))


def parse_id(name: str) -> uuid.UUID | None:
    """Return the id that a file is named after, None for a file of another kind."""
    try:
        return uuid.UUID(name)
    except ValueError:
        return None


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
