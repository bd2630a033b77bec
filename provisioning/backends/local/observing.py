"""Put together what is to be seen of one cluster: from its notes, its processes, and the watch's last looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from provisioning.backends.engine import backups, health
from provisioning.backends.engine.health import Look
from provisioning.backends.engine.names import name_of
from provisioning.backends.engine.origins import Contents
from provisioning.backends.engine.view import View
from provisioning.backends.local import restoring
from provisioning.backends.local.admission import read_ports
from provisioning.backends.local.backups import BackupNotes
from provisioning.backends.local.contents import read_contents
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, RegionFolder
from provisioning.backends.local.record import EngineRecord, read_sight, running
from provisioning.spec import (
    DesiredCluster,
    DesiredData,
    Endpoint,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
    Work,
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of one broker; one that was never launched has no record."""

    broker: BrokerFolder
    record: EngineRecord | None
    contents: Contents
    running: bool = False
    stopping_seconds: float | None = None
    look: Look = field(default_factory=Look)
    age_seconds: float = 0.0

    @property
    def is_asked(self) -> bool:
        """One that is on its way out is not asked any more."""
        return self.running and self.stopping_seconds is None

    @property
    def has_copy_under_way(self) -> bool:
        return self.is_asked and not self.look.answered and self.broker.copying.exists()

    @property
    def is_damaged(self) -> bool:
        """Whether it is not well, or ended without being told to, and said that it cannot read its data."""
        record = self.record
        if record is None or self.look.up or record.stopping_seconds(self.broker) is not None:
            return False
        return record.blames_data(self.broker)

    def is_of(self, wished: DesiredData) -> bool:
        """Whether it would work on the wished data; one that has nothing yet would."""
        return self.contents.data is None or self.contents.data.is_of(wished)

    def explain_end(self, name: str) -> str:
        """Return how an earlier engine of it came to its end without being told to."""
        if self.record is None:
            return ""
        return self.record.last_exit if self.running else self.record.explain_end(self.broker, name)


def see(broker: BrokerFolder) -> Sight:
    """Read a broker's notes; two to four requests to it when the watch is not running.

    Raises:
        RegionUnreachable: a note is damaged.
    """
    record, contents = EngineRecord.read(broker), read_contents(broker)
    if record is None or not record.is_running():
        return Sight(broker, record, contents)
    stopping_seconds = record.stopping_seconds(broker)
    if stopping_seconds is not None:
        return Sight(broker, record, contents, running=True, stopping_seconds=stopping_seconds)
    look, age_seconds = read_sight(broker, record.identity) or (_look_at(record), 0.0)
    return Sight(broker, record, contents, running=True, look=look, age_seconds=age_seconds)


def _look_at(record: EngineRecord) -> Look:
    return health.look_at(LoopbackDoor(record.ports.management), is_one_of_several=record.brokers > 1)


class Observation:
    """One look at one cluster."""

    def __init__(
        self, desired: DesiredCluster, cluster: ClusterFolder, region: RegionFolder, release: tuple[ReleaseState, str]
    ) -> None:
        self._desired = desired
        self._cluster = cluster
        self._region = region
        self._release, self._release_detail = release
        self._sights = {broker.node: see(broker) for broker in cluster.brokers()}

    def report(self, address: str) -> ObservedCluster:
        """Return what is to be seen; clients reach this machine under `address`.

        Raises:
            RegionUnreachable: a note is damaged.
        """
        view, (data, data_detail), (backup, backup_detail) = self._view, self._data, self._backup
        topology = view.topology
        return ObservedCluster(
            exists=self._cluster.path.exists() or bool(self._region.trash_of(self._cluster.cluster_id)),
            brokers=self._brokers(),
            entrance=None if self._is_single else running(self._cluster.entrance) is not None,
            available=view.is_available,
            healthy_partitions=len(view.healthy_partitions),
            members=topology.members,
            is_rescaling=topology.is_changing,
            is_balanced=self._is_single or not view.is_available or view.is_even or self._was_rebalanced,
            release=self._release,
            release_detail=self._release_detail,
            data=data,
            data_detail=data_detail,
            backup=backup,
            backup_detail=backup_detail,
            keeps_former=any(self._keeps_former(sight) for sight in self._sights.values()),
            damage=self._damage,
            waits_for=self._waits_for(data_detail, backup_detail),
            endpoint=self._endpoint(address),
            age_seconds=max((sight.age_seconds for sight in self._sights.values()), default=0.0),
            restarts=max((sight.record.starts for sight in self._sights.values() if sight.record), default=0),
            last_exit=self._last_exit(),
        )

    @property
    def _is_single(self) -> bool:
        return self._desired.size.brokers == 1

    @cached_property
    def _view(self) -> View:
        sights = self._sights
        return View(
            self._desired.size,
            {node: sight.look for node, sight in sights.items() if sight.is_asked},
            frozenset(node for node, sight in sights.items() if sight.stopping_seconds is not None),
            frozenset(node for node, sight in sights.items() if sight.has_copy_under_way),
        )

    def _brokers(self) -> tuple[ObservedBroker, ...]:
        found = [self._describe(node, sight) for node, sight in self._sights.items()]
        # One whose folder is on its way out is there until all of it is gone.
        leaving = self._region.retired(self._cluster.cluster_id) - self._sights.keys()
        return tuple(sorted([*found, *map(ObservedBroker, leaving)], key=lambda one: one.node))

    def _describe(self, node: int, sight: Sight) -> ObservedBroker:
        record = sight.record
        return ObservedBroker(
            node=node,
            running=sight.running,
            stopping=sight.stopping_seconds is not None,
            stopping_seconds=sight.stopping_seconds or 0.0,
            digest=record.digest if record else "",
            release=record.release if record else "",
            answers=sight.look.answered,
            healthy=self._view.is_healthy(node),
            has_wished_data=sight.is_of(self._desired.data),
        )

    @cached_property
    def _data(self) -> tuple[Work, str]:
        """Whether the wished data is in the region, in place, restored or kept; else how far its restore is."""
        wished = self._desired.data
        seated = [sight.contents for sight in self._sights.values()]
        is_in_place = any(
            origin is not None and origin.is_of(wished) for one in seated for origin in (one.data, one.former)
        )
        states = {node: self._data_of(node, is_in_place=is_in_place) for node in self._desired.nodes}
        for work in (Work.RUNNING, Work.FAILED, Work.ABSENT):
            named = [(node, detail) for node, (found, detail) in states.items() if found is work]
            if named:
                return work, self._say(*named[0])
        return Work.DONE, ""

    def _data_of(self, node: int, *, is_in_place: bool) -> tuple[Work, str]:
        wished, contents = self._desired.data, self._contents(node)
        if any(origin is not None and origin.is_of(wished) for origin in (contents.data, contents.former)):
            return Work.DONE, ""
        # One that has nothing joins others that have, or makes its own.
        if contents.data is None and (is_in_place or wished.epoch == 0):
            return Work.DONE, ""
        return restoring.state(self._cluster.broker(node), self._desired)

    def _contents(self, node: int) -> Contents:
        return self._sights[node].contents if node in self._sights else Contents()

    def _say(self, node: int, sentence: str) -> str:
        if self._is_single or not sentence:
            return sentence
        return f"{name_of(node, self._desired.size.brokers)}: {sentence}"

    @cached_property
    def _damage(self) -> str:
        """Of several brokers, the others have what one of them has lost."""
        wished = self._desired.data
        is_lost = self._is_single and any(sight.is_of(wished) and sight.is_damaged for sight in self._sights.values())
        return "The engine cannot read its data: files of it are damaged on the region's disk." if is_lost else ""

    def _keeps_former(self, sight: Sight) -> bool:
        broker = sight.broker
        data = sight.contents.data
        is_stale = data is not None and data.is_of(self._desired.data) and broker.incoming.exists()
        return is_stale or broker.former.exists() or broker.discarded.exists()

    @cached_property
    def _backup(self) -> tuple[Work, str]:
        if self._desired.backup is None:
            return Work.ABSENT, ""
        asked = [sight.record for sight in self._sights.values() if sight.record and sight.look.answered]
        doors = [LoopbackDoor(record.ports.management) for record in asked]
        return backups.state(BackupNotes(self._cluster), self._desired.backup, doors)

    @property
    def _was_rebalanced(self) -> bool:
        """Whether the engine was asked to spread its leaders after the last start of any broker."""
        return read_json(self._cluster.rebalanced) == starts_of(self._cluster)

    def _waits_for(self, data_detail: str, backup_detail: str) -> str:
        if not any(sight.running for sight in self._sights.values()):
            return self._release_detail or data_detail
        return self._damage or self._view.waits_for() or data_detail or backup_detail

    def _endpoint(self, address: str) -> Endpoint | None:
        if not self._is_single:
            return self._entrance_endpoint(address)
        record = self._sights[0].record if 0 in self._sights else None
        return (
            endpoint(address, record.ports.grpc, record.ports.rest if record.serves_rest else None) if record else None
        )

    def _entrance_endpoint(self, address: str) -> Endpoint | None:
        ports = read_ports(self._cluster.entrance)
        if ports is None or not self._cluster.entrance.routes.exists():
            return None
        routes = json.loads(self._cluster.entrance.routes.read_bytes())["routes"]
        serves_rest = any(route["listen"] == ports.rest for route in routes)
        return endpoint(address, ports.grpc, ports.rest if serves_rest else None)

    def _last_exit(self) -> str:
        """Return the last unexpected end: of a broker that does not run now, else of the one that was started last."""
        brokers = self._desired.size.brokers
        known = [(sight, sight.explain_end(name_of(node, brokers))) for node, sight in self._sights.items()]
        told = [(sight, sentence) for sight, sentence in known if sentence]
        latest = max(told, key=lambda one: (not one[0].running, _started_at(one[0])), default=None)
        return latest[1] if latest else ""


def _started_at(sight: Sight) -> int:
    return sight.record.identity.start_time if sight.record else 0


def starts_of(cluster: ClusterFolder) -> Mapping[str, int]:
    """Return how often each broker was started, as a note holds it."""
    records = {broker.node: EngineRecord.read(broker) for broker in cluster.brokers()}
    return {str(node): record.starts for node, record in records.items() if record is not None}


def endpoint(address: str, grpc: int, rest: int | None) -> Endpoint:
    return Endpoint(grpc=f"{address}:{grpc}", rest=f"https://{address}:{rest}" if rest else "")
