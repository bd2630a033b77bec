"""Frozen snapshots the planner decides on: what is wished of an engine cluster, and what was last seen of it.

Pure: no Django, no clock, no input or output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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


class Gateway(StrEnum):
    """Who answers clients: every broker itself, or processes of their own before them."""

    EMBEDDED = "embedded"
    STANDALONE = "standalone"


class ReleaseState(StrEnum):
    """How far a region has come with making an engine release runnable."""

    ABSENT = "absent"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


class Work(StrEnum):
    """How far something is that a region does by itself once it was begun, such as a backup."""

    ABSENT = "absent"
    RUNNING = "running"
    DONE = "done"
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
        restore_class: entry point of the program that makes a broker's data from a backup.
        rolls_from: releases whose brokers this one's work beside while they are replaced one by one.
    """

    version: str
    coordinates: str
    sha256: str
    main_class: str
    serves_rest: bool
    restore_class: str = "io.camunda.zeebe.restore.RestoreApp"
    rolls_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DesiredSize:
    """Hardware and layout of one engine cluster; sizes in MiB.

    `memory_mib` is what admission reserves for each broker, `heap_mib` the part of it that is Java heap,
    `disk_mib` what must be free before a broker starts. Partitions and replication are fixed when the cluster is
    created; the number of brokers may change as long as it does not fall below the replication factor.
    """

    brokers: int
    partitions: int
    replication_factor: int
    memory_mib: int
    heap_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True)
class BackupRef:
    """One backup in the region's store: `number` rises within its cluster, whose id names the folder it lies in."""

    cluster_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class DesiredData:
    """Which data the engine is to work on.

    `epoch` is 0 for what the cluster has made itself; every restore adds one and names the backup to start from.
    """

    epoch: int = 0
    source: BackupRef | None = None


@dataclass(frozen=True, slots=True)
class DesiredCluster:
    """All a backend needs to make one engine cluster real.

    Attributes:
        lifecycle: the wish as of now (a cluster inside its undo window arrives here as SUSPENDED).
        audience: what an access token must carry for this engine.
        license_key: empty unless the operator gave one.
        data: which data it works on.
        backup: a backup that is to be taken, None when none is.
        gateway: who answers clients; a region that has only one way goes that way.
        card: who this is, in words and ids of the account database; kept beside the engine, so that a cluster whose
            row was lost can be found and adopted. Nothing about it restarts an engine.
    """

    cluster_id: UUID
    spec_generation: int
    lifecycle: Lifecycle
    release: DesiredRelease
    size: DesiredSize
    audience: str
    host_name: str
    license_key: str = ""
    data: DesiredData = DesiredData()
    backup: BackupRef | None = None
    gateway: Gateway = Gateway.EMBEDDED
    card: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Fingerprint of all that a running broker would have to be restarted for (not its name, not its lifecycle).

        The number of brokers is left out: the engine itself takes brokers in and lets them go.
        """
        layout = replace(self.size, brokers=self.size.replication_factor)
        parts = (self.release.version, self.release.sha256, layout, self.audience, self.host_name, self.license_key)
        if self.gateway is not Gateway.EMBEDDED:
            parts = (*parts, self.gateway.value)  # type: ignore[assignment] # brokers that answer clients keep theirs
        return sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def nodes(self) -> range:
        """The brokers' numbers."""
        return range(self.size.brokers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client reaches an engine. `grpc` is host:port without a scheme; `rest` a URL, or "" when not served."""

    grpc: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class ObservedBroker:
    """What a backend saw of one broker.

    Attributes:
        node: its number in the cluster, from 0.
        running: its process (or pod) is alive.
        stopping: it was told to stop and has not ended yet; `stopping_seconds` for how long.
        digest, release: what it was (last) started with, "" when never.
        answers: its management interface answers.
        healthy: it calls itself healthy, its replicas included.
        has_wished_data: what it would work on is of the wished data epoch; also true while it has nothing yet.
    """

    node: int
    running: bool = False
    stopping: bool = False
    stopping_seconds: float = 0.0
    digest: str = ""
    release: str = ""
    answers: bool = False
    healthy: bool = False
    has_wished_data: bool = True


@dataclass(frozen=True, slots=True)
class ObservedCluster:
    """What a backend saw of one engine cluster.

    Attributes:
        exists: anything of it is left in the region (folder, namespace, volume).
        brokers: every broker of which anything is there, by number.
        entrance: whether the process that leads clients to the brokers runs; None where the brokers are it themselves.
        answers_clients: whether anybody does; False where gateways of their own do that and none is ready.
        is_entrance_current: whether all who do were started as it is wished, and nobody else does any more.
        available: the engine itself says that every partition is led and healthy.
        healthy_partitions: how many are.
        members: brokers that the engine's own topology counts in; () when it did not say.
        is_rescaling: the engine is taking brokers in or letting them go.
        is_balanced: leaders are spread as evenly as the region can have them.
        release: how far the region is with the wished release.
        release_detail: sentence about it, such as progress or what failed.
        data: whether the wished data is in the region, ready to be started on (DONE), or how far its restore is.
        data_detail: sentence about that.
        backup: how far the wished backup is; ABSENT when none is wished.
        backup_detail: sentence about that.
        keeps_former: something is kept for going back: data from before a restore or an upgrade.
        damage: sentence about data that the engine cannot read, so that it never comes up; "" when it says none.
        waits_for: one sentence naming what is being waited for now, "" when nothing.
        endpoint: where clients reach it, None before it has one.
        age_seconds: how old this sight is; 0 for a fresh look.
        look_requests: what a look at a cluster at rest asks of a server that all clusters of the region share; 0 where
            there is none.
        restarts: how often an engine of it was started, for spotting a crash loop.
        last_exit: sentence about the last unexpected end, "" when there was none.
    """

    exists: bool = False
    brokers: tuple[ObservedBroker, ...] = ()
    entrance: bool | None = None
    answers_clients: bool = True
    is_entrance_current: bool = True
    available: bool = False
    healthy_partitions: int = 0
    members: tuple[int, ...] = ()
    is_rescaling: bool = False
    is_balanced: bool = True
    release: ReleaseState = ReleaseState.ABSENT
    release_detail: str = ""
    data: Work = Work.DONE
    data_detail: str = ""
    backup: Work = Work.ABSENT
    backup_detail: str = ""
    keeps_former: bool = False
    damage: str = ""
    waits_for: str = ""
    endpoint: Endpoint | None = None
    age_seconds: float = 0.0
    look_requests: int = 0
    restarts: int = 0
    last_exit: str = ""

    @property
    def running(self) -> bool:
        """Whether any broker of it is alive."""
        return any(broker.running for broker in self.brokers)

    def broker(self, node: int) -> ObservedBroker:
        """The broker with this number; one of which nothing is there, too."""
        return next((one for one in self.brokers if one.node == node), ObservedBroker(node))


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """What somebody asks for when creating a cluster; `release` is the channel's default when empty.

    Without a `region` the service chooses one, which has all of the `labels`; with a backup, the backup's own.
    `from_backup` starts it on a copy of another cluster's data, with as many partitions and a release that can read it.
    """

    name: str
    stage: str
    region: str
    plan_type: str
    channel: str
    release: str = ""
    from_backup: UUID | None = None
    labels: tuple[str, ...] = ()
