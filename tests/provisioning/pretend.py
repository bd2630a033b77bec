"""A region in memory that does what it is told, or misbehaves on demand: for the loop's own tests.

It shows the behaviour that the contract suite asks of every backend, without an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from provisioning.backends.base import Find
from provisioning.errors import Fenced
from provisioning.spec import (
    BackupRef,
    DesiredCluster,
    DesiredRelease,
    Endpoint,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
    Work,
)


@dataclass
class PretendBroker:
    """One broker: a process and its data."""

    running: bool = False
    stopping: bool = False
    digest: str = ""
    release: str = ""
    healthy: bool = False
    data_epoch: int = 0
    # (release, data epoch) of what is kept for going back.
    former: tuple[str, int] | None = None


@dataclass
class PretendCluster:
    """One engine cluster."""

    brokers: dict[int, PretendBroker] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    is_balanced: bool = True
    restored: dict[int, Work] = field(default_factory=dict)
    backups: dict[int, Work] = field(default_factory=dict)
    endpoint: Endpoint | None = None
    starts: int = 0
    last_exit: str = ""
    card: Mapping[str, str] = field(default_factory=dict)
    entrance: bool | None = None
    damage: str = ""


@dataclass
class PretendRegion:
    """Engines as facts in a dictionary.

    Attributes:
        calls: every call that arrived, in order, as `(verb, epoch)`.
        faults: verb -> errors to raise, one for each call, before anything is done.
        after: verb -> errors to raise after the thing was done, as when an answer is lost on its way.
        slow: boots, stops, backups, restores and releases do not finish by themselves; `finish()` lets them.
        crash_on_start: engines end right after their start.
        crashing_release: those of this release do.
        damaged: data of this epoch cannot be read: engines that begin with it do not come up, and say so.
        failing: work that comes to nothing: "backup", "restore".
        age_seconds: how old every sight is.
    """

    clusters: dict[UUID, PretendCluster] = field(default_factory=dict)
    release: ReleaseState = ReleaseState.ABSENT
    release_detail: str = ""
    epochs: dict[UUID, int] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    after: dict[str, list[Exception]] = field(default_factory=dict)
    slow: bool = False
    crash_on_start: bool = False
    crashing_release: str = ""
    damaged: int | None = None
    failing: set[str] = field(default_factory=set)
    age_seconds: float = 0.0
    jwks: Mapping[str, Any] | None = None
    register: Mapping[str, Any] = field(default_factory=dict)
    dropped: list[BackupRef] = field(default_factory=list)
    strays: list[Find] = field(default_factory=list)

    @property
    def starts(self) -> int:
        """How often any engine was started."""
        return sum(cluster.starts for cluster in self.clusters.values())

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        self._raise("observe", self.faults)
        known = ObservedCluster(release=self.release, release_detail=self.release_detail)
        cluster = self.clusters.get(desired.cluster_id)
        if cluster is None:
            data = Work.ABSENT if desired.data.epoch else Work.DONE
            return replace(known, data=data)
        brokers = tuple(self._see(node, one, desired) for node, one in sorted(cluster.brokers.items()))
        members = cluster.members if any(one.running for one in brokers) else ()
        counted = [one for one in brokers if one.node in (members or desired.nodes)]
        return replace(
            known,
            exists=True,
            brokers=brokers,
            available=bool(counted) and sum(one.healthy for one in counted) > len(counted) // 2,
            members=members,
            is_balanced=cluster.is_balanced,
            data=self._data_of(cluster, desired),
            data_detail="The backup cannot be read." if "restore" in self.failing else "",
            backup=cluster.backups.get(desired.backup.number, Work.ABSENT) if desired.backup else Work.ABSENT,
            backup_detail="The store does not answer." if "backup" in self.failing else "",
            keeps_former=any(one.former for one in cluster.brokers.values()),
            endpoint=cluster.endpoint,
            age_seconds=self.age_seconds,
            restarts=cluster.starts,
            last_exit=cluster.last_exit,
            damage=cluster.damage
            if all(one.data_epoch == desired.data.epoch for one in cluster.brokers.values())
            else "",
            entrance=cluster.entrance,
        )

    @staticmethod
    def _see(node: int, broker: PretendBroker, desired: DesiredCluster) -> ObservedBroker:
        return ObservedBroker(
            node=node,
            running=broker.running,
            stopping=broker.stopping,
            digest=broker.digest,
            release=broker.release,
            answers=broker.running and not broker.stopping,
            healthy=broker.running and broker.healthy,
            has_wished_data=broker.data_epoch == desired.data.epoch,
        )

    @staticmethod
    def _data_of(cluster: PretendCluster, desired: DesiredCluster) -> Work:
        epochs = {one.data_epoch for one in cluster.brokers.values()}
        formers = {one.former[1] for one in cluster.brokers.values() if one.former}
        if desired.data.epoch in epochs | formers or (not epochs and not desired.data.epoch):
            return Work.DONE
        return cluster.restored.get(desired.data.epoch, Work.ABSENT)

    def prepare(self, release: DesiredRelease) -> None:
        self._enter("prepare", 0)
        self.release = ReleaseState.PREPARING if self.slow else ReleaseState.READY
        self._raise("prepare", self.after)

    def start(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        cluster = self._reach("start", desired.cluster_id, epoch)
        for node in nodes:
            broker = cluster.brokers.setdefault(node, PretendBroker(data_epoch=desired.data.epoch))
            if not broker.running:
                self._launch(cluster, broker, desired)
        cluster.endpoint = Endpoint(f"{desired.host_name}:26500")
        cluster.entrance = None if cluster.entrance is None else True
        cluster.card = desired.card
        cluster.members = cluster.members or tuple(sorted(cluster.brokers))
        self._raise("start", self.after)

    def _launch(self, cluster: PretendCluster, broker: PretendBroker, desired: DesiredCluster) -> None:
        was = (broker.release, broker.data_epoch)
        now = (desired.release.version, desired.data.epoch)
        if broker.former == now:
            broker.former = None
        elif broker.release and was != now:
            broker.former = was
        crashes = self.crash_on_start or self.crashing_release == desired.release.version
        broker.release, broker.data_epoch = now
        broker.digest, broker.running, broker.stopping = desired.digest, not crashes, False
        is_damaged = broker.data_epoch == self.damaged
        broker.healthy = not crashes and not self.slow and not is_damaged
        cluster.damage = "Files are damaged." if is_damaged else ""
        cluster.starts += 1
        cluster.last_exit = "The engine ended right after its start." if crashes else cluster.last_exit
        cluster.is_balanced = len(cluster.brokers) == 1

    def stop(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        cluster = self._reach("stop", desired.cluster_id, epoch)
        cluster.card = desired.card
        cluster.damage = ""
        for node in nodes:
            broker = cluster.brokers[node]
            broker.running, broker.stopping, broker.healthy = self.slow, self.slow, False
        self._raise("stop", self.after)

    def rescale(self, desired: DesiredCluster, *, epoch: int) -> None:
        cluster = self._reach("rescale", desired.cluster_id, epoch)
        cluster.members = tuple(desired.nodes)
        for broker in cluster.brokers.values():
            broker.healthy = broker.running
        self._raise("rescale", self.after)

    def retire(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        cluster = self._reach("retire", desired.cluster_id, epoch)
        for node in nodes:
            assert node not in cluster.members, "a broker was retired that the engine counts on"
            cluster.brokers.pop(node, None)
        self._raise("retire", self.after)

    def rebalance(self, desired: DesiredCluster, *, epoch: int) -> None:
        self._reach("rebalance", desired.cluster_id, epoch).is_balanced = True
        self._raise("rebalance", self.after)

    def back_up(self, desired: DesiredCluster, *, epoch: int) -> None:
        cluster = self._reach("back_up", desired.cluster_id, epoch)
        assert desired.backup is not None
        over = Work.FAILED if "backup" in self.failing else Work.DONE
        cluster.backups.setdefault(desired.backup.number, Work.RUNNING if self.slow else over)
        self._raise("back_up", self.after)

    def restore(self, desired: DesiredCluster, *, epoch: int) -> None:
        cluster = self._reach("restore", desired.cluster_id, epoch)
        over = Work.FAILED if "restore" in self.failing else Work.DONE
        cluster.restored[desired.data.epoch] = Work.RUNNING if self.slow else over
        self._raise("restore", self.after)

    def let_go(self, desired: DesiredCluster, *, epoch: int) -> None:
        for broker in self._reach("let_go", desired.cluster_id, epoch).brokers.values():
            broker.former = None
        self._raise("let_go", self.after)

    def delete(self, cluster_id: UUID, *, epoch: int) -> bool:
        self._fence(cluster_id, epoch)
        self._enter("delete", epoch)
        self.clusters.pop(cluster_id, None)
        self._raise("delete", self.after)
        return True

    def belongings(self, cluster_id: UUID) -> tuple[str, ...]:
        self._raise("belongings", self.faults)
        return tuple(f"Broker {node}" for node in sorted(self.clusters[cluster_id].brokers))

    def drop_backup(self, backup: BackupRef) -> bool:
        self._enter("drop_backup", 0)
        self.dropped.append(backup)
        return True

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        self._enter("publish_keys", 0)
        self.jwks = jwks

    def write_register(self, register: Mapping[str, Any]) -> None:
        self.register = register

    def read_register(self) -> Mapping[str, Any]:
        self._raise("read_register", self.faults)
        return self.register

    def inventory(self) -> Iterator[Find]:
        self._raise("inventory", self.faults)
        for cluster_id, cluster in self.clusters.items():
            yield Find(cluster_id, card=cluster.card, parts=("an engine",), epoch=self.epochs.get(cluster_id, 0))
        yield from self.strays

    def changes(self, hears: Callable[[float], None]) -> Iterator[UUID]:
        hears(0.0)
        yield from list(self.clusters)

    def finish(self) -> None:
        """Let everything that was begun be done."""
        if self.release is ReleaseState.PREPARING:
            self.release = ReleaseState.READY
        for cluster in self.clusters.values():
            for broker in cluster.brokers.values():
                broker.running = broker.running and not broker.stopping
                broker.stopping, broker.healthy = False, broker.running
            for work in (cluster.backups, cluster.restored):
                work.update({key: Work.DONE for key, how_far in work.items() if how_far is Work.RUNNING})

    def kill(self, cluster_id: UUID, node: int = 0) -> None:
        """A broker dies without being told to."""
        broker = self.clusters[cluster_id].brokers[node]
        broker.running, broker.healthy = False, False

    def is_running(self, cluster_id: UUID) -> bool:
        """Whether any broker of a cluster lives."""
        return any(broker.running for broker in self.clusters[cluster_id].brokers.values())

    def verbs(self) -> list[str]:
        """What was asked of the region, in order."""
        return [verb for verb, _ in self.calls]

    def _reach(self, verb: str, cluster_id: UUID, epoch: int) -> PretendCluster:
        self._fence(cluster_id, epoch)
        self._enter(verb, epoch)
        return self.clusters.setdefault(cluster_id, PretendCluster())

    def _enter(self, verb: str, epoch: int) -> None:
        self.calls.append((verb, epoch))
        self._raise(verb, self.faults)

    def _fence(self, cluster_id: UUID, epoch: int) -> None:
        if epoch < self.epochs.get(cluster_id, 0):
            raise Fenced("A newer turn has taken over.")
        self.epochs[cluster_id] = epoch

    @staticmethod
    def _raise(verb: str, planned: dict[str, list[Exception]]) -> None:
        if planned.get(verb):
            raise planned[verb].pop(0)
