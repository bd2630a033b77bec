"""Frozen snapshots the planner decides on: what is wished of an engine cluster, and what was last seen of it.

Pure: no Django, no clock, no input or output.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

# Zeebe flushes and closes its log in 1.4 to 4.6 s when it is asked to stop; past this it is ended by force.
STOP_GRACE_SECONDS = 30.0


class Lifecycle(StrEnum):
    """The wish. Only services change it, and every change adds one to `spec_generation`."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class ReleaseState(StrEnum):
    """How far a region has come with making an engine release runnable."""

    ABSENT = "absent"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DesiredRelease:
    """An engine release as a region needs it to fetch and to start it.

    Attributes:
        version: such as "8.5.8".
        coordinates: Maven coordinates `group:artifact:version:packaging`.
        sha256: hex digest the archive must have.
        main_class: entry point of the broker.
        serves_rest: True when the release has the REST interface under /v2.
    """

    version: str
    coordinates: str
    sha256: str
    main_class: str
    serves_rest: bool


@dataclass(frozen=True, slots=True)
class DesiredSize:
    """Hardware and layout of one engine cluster; sizes in MiB.

    `memory_mib` is what admission reserves for each broker, `heap_mib` the part of it that is Java heap,
    `disk_mib` what must be free before a broker starts. Partitions are fixed when the cluster is created.
    """

    brokers: int
    partitions: int
    replication_factor: int
    memory_mib: int
    heap_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True)
class DesiredCluster:
    """All a backend needs to make one engine cluster real.

    `audience` is what an access token must carry for this engine; `license_key` is empty unless the operator gave one;
    `lifecycle` is the wish as of now (a cluster inside its undo window arrives here as SUSPENDED).
    """

    cluster_id: UUID
    spec_generation: int
    lifecycle: Lifecycle
    release: DesiredRelease
    size: DesiredSize
    audience: str
    host_name: str
    license_key: str = ""

    @property
    def digest(self) -> str:
        """Fingerprint of all that a running engine would have to be restarted for (not its name, not its lifecycle)."""
        parts = (self.release.version, self.release.sha256, self.size, self.audience, self.host_name, self.license_key)
        return sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client reaches an engine. `grpc` is host:port without a scheme; `rest` a URL, or "" when not served."""

    grpc: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class ObservedCluster:
    """What a backend saw of one engine cluster.

    Attributes:
        exists: anything of it is left in the region (folder, namespace, volume).
        running: an engine process (or pod) of it is alive.
        stopping: it was told to stop and has not ended yet.
        stopping_seconds: for how long, 0 when it is not stopping.
        digest: the digest the running (or last started) engine was started with, "" when none.
        healthy_partitions: partitions that the engine itself reports as healthy and led.
        available: the engine itself says that every partition is healthy and led.
        release: how far the region is with the wished release.
        release_detail: sentence about it, such as progress or what failed.
        waits_for: one sentence naming what is being waited for now, "" when nothing.
        endpoint: where clients reach it, None before it has one.
        age_seconds: how old this sight is; 0 for a fresh look.
        restarts: how often an engine of it was started, for spotting a crash loop.
        last_exit: sentence about the last unexpected end, "" when there was none.
    """

    exists: bool = False
    running: bool = False
    stopping: bool = False
    stopping_seconds: float = 0.0
    digest: str = ""
    healthy_partitions: int = 0
    available: bool = False
    release: ReleaseState = ReleaseState.ABSENT
    release_detail: str = ""
    waits_for: str = ""
    endpoint: Endpoint | None = None
    age_seconds: float = 0.0
    restarts: int = 0
    last_exit: str = ""


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """What somebody asks for when creating a cluster; `release` is the channel's default when empty."""

    name: str
    stage: str
    region: str
    plan_type: str
    channel: str
    release: str = ""
