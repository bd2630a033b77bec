"""The local backend: one region whose engines are processes of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from urllib3 import Timeout

from common.errors import Permanent, Temporary
from provisioning.backends.base import Find
from provisioning.backends.engine import backups, store
from provisioning.backends.engine.admin import EngineAdmin, require_retirable
from provisioning.backends.engine.health import Topology, read_topology
from provisioning.backends.engine.names import name_of
from provisioning.backends.engine.origins import Move
from provisioning.backends.engine.store import Store
from provisioning.backends.local import admission, contents, ending, fence, restoring, starting
from provisioning.backends.local.backups import BackupNotes
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.files import on_disk, read_json, write_json, write_whole
from provisioning.backends.local.inventory import list_belongings, take_inventory
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, Ports, RegionFolder
from provisioning.backends.local.observing import Observation, starts_of
from provisioning.backends.local.record import EngineRecord, running
from provisioning.backends.local.release import Releases
from provisioning.backends.local.settings import LocalSettings
from provisioning.backends.local.starting import Start
from provisioning.backends.local.watch import Watch
from provisioning.errors import RegionUnreachable
from provisioning.spec import BackupRef, DesiredCluster, DesiredRelease, Lifecycle, ObservedCluster, ReleaseState, Work

# A release in one of these states will make progress that a cluster waits for.
_UNDER_WAY = frozenset({ReleaseState.ABSENT, ReleaseState.PREPARING})


class LocalBackend:
    """A `ClusterBackend`. Keeps nothing in memory: any number of processes may have one of the same region."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._region = RegionFolder(settings.region_home)
        self._releases = Releases(settings)

    @on_disk()
    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        """See `ClusterBackend`. Reads some ten small files for each broker; asks the brokers only when no watch runs,
        and the engine about a backup only when one is wished.

        Raises:
            RegionUnreachable: the region's folder is missing or cannot be read.
        """
        self._require_region()
        release = self._releases.state(desired.release)
        if desired.lifecycle is Lifecycle.RUNNING and release[0] in _UNDER_WAY:
            self._note_waiting(desired)
        cluster = self._region.cluster(desired.cluster_id)
        return Observation(desired, cluster, self._region, release).report(self._settings.address)

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
    def start(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. A running broker is left alone, whatever it was started with.

        Raises:
            NoCapacity, PortTaken: nothing was started, and a first start left nothing behind.
            Fenced: a newer turn has taken over.
            Permanent: something that only a person can mend, such as a missing Java.
        """
        self._require_region()
        starting.require_possible(self._settings.engine_user)
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            alive = [broker for broker in cluster.brokers() if running(broker) is not None]
            idle = [broker for broker in map(cluster.broker, sorted(set(nodes))) if broker not in alive]
            has_entrance = desired.size.brokers == 1 or running(cluster.entrance) is not None
            if not idle and has_entrance:
                return
            program = self._releases.program(desired.release) if idle else None
            starting.refuse_mixed_data(desired, alive if idle else ())
            Start(desired, cluster, self._region, self._settings, epoch).run(idle, program)

    @on_disk()
    def stop(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. By force from `STOP_GRACE_SECONDS` after the first call on."""
        self._require_region()
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            if cluster.path.exists():
                starting.write_card(desired, cluster)
            for node in nodes:
                ending.ask_to_stop(cluster.broker(node))
            if ending.is_closing(cluster):
                ending.ask_to_stop(cluster.entrance)

    @on_disk()
    def rescale(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. A change that is under way already is left to come to its end.

        Raises:
            Temporary: no broker answers, or the engine cannot now.
            Permanent: the engine refuses.
        """
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            ports, topology = self._ask_topology(cluster)
            if not topology.is_changing and set(topology.members) != set(desired.nodes):
                EngineAdmin(_door(ports)).rescale(desired.nodes, replication_factor=desired.size.replication_factor)
            self._lead_clients(desired, cluster)

    @on_disk()
    def retire(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. Asks the engine itself, never an aged sight: what it counts on is not touched.

        Raises:
            Temporary: the engine counts on one of them or does not say on whom, it is wished, or no broker answers.
                None of it is for a person to mend: the next look tells what is to be done instead.
        """
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            doomed = sorted(set(nodes))
            _, topology = self._ask_topology(cluster, besides=doomed)
            for node in doomed:
                require_retirable(node, desired, topology)
            # First of all: their ports will be somebody else's.
            self._lead_clients(desired, cluster, besides=doomed)
            for node in doomed:
                ending.retire(cluster.broker(node), cluster, self._region)

    @on_disk()
    def rebalance(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`.

        Raises:
            Temporary: no broker answers, or the engine cannot now.
        """
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            EngineAdmin(_door(self._ask_topology(cluster)[0])).rebalance()
            write_json(cluster.rebalanced, starts_of(cluster))

    @on_disk()
    def back_up(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`.

        Raises:
            Permanent: the region has no store, the engine does not know it, or the number cannot be used any more.
            Temporary: the engine does not answer.
        """
        cluster = self._region.cluster(desired.cluster_id)
        assert desired.backup is not None
        with fence.held(cluster, epoch):
            self._require_store_in(cluster, desired)
            backups.begin(BackupNotes(cluster), desired.backup, EngineAdmin(_door(self._ask_topology(cluster)[0])))

    @on_disk()
    def restore(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. Starts a program for each broker, which outlives the caller.

        Raises:
            Permanent: the region has no store, or no backup is named.
            NoCapacity: the machine has no memory for it now.
            Temporary: the release is not prepared.
        """
        self._require_region()
        starting.require_possible(self._settings.engine_user)
        self._require_store()
        if desired.data.source is None:
            raise Permanent("No backup is named that the data could be fetched from.")
        program = self._releases.program(desired.release)
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            missing = [broker for broker in map(cluster.broker, desired.nodes) if self._lacks_data(broker, desired)]
            if missing:
                admission.require_memory_for_restore()
                starting.lay_down_cluster(desired, cluster, self._settings)
            application = replace(program, main_class=desired.release.restore_class)
            restoring.begin([self._prepare_restore(broker, cluster, desired, application) for broker in missing])

    @on_disk()
    def let_go(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. Also removes what was restored and is not wished any more."""
        cluster = self._region.cluster(desired.cluster_id)
        with fence.held(cluster, epoch):
            for broker in cluster.brokers():
                contents.let_go(broker)
                data = contents.read_contents(broker).data
                if data is not None and data.is_of(desired.data):
                    restoring.discard(broker)

    @on_disk()
    def delete(self, cluster_id: UUID, *, epoch: int) -> bool:
        """See `ClusterBackend`. The processes are ended by force: the data goes too.

        Raises:
            RegionUnreachable: one would not end; nothing was removed.
        """
        self._require_region()
        cluster = self._region.cluster(cluster_id)
        with fence.held(cluster, epoch):
            ending.end_by_force(cluster)
            ending.remove_cluster(cluster, self._region)
        return True

    def belongings(self, cluster_id: UUID) -> Sequence[str]:
        """See `ClusterBackend`."""
        self._require_region()
        with on_disk():
            return tuple(list_belongings(self._region, cluster_id))

    def drop_backup(self, backup: BackupRef) -> bool:
        """See `ClusterBackend`.

        Raises:
            Permanent: the region has no store.
            Temporary: the store does not answer, or refuses.
        """
        return self._require_store().remove(backup)

    @on_disk()
    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        """See `ClusterBackend`. Writes only when the keys differ."""
        self._require_region()
        content = json.dumps(jwks, sort_keys=True).encode()
        if not self._region.keys.exists() or self._region.keys.read_bytes() != content:
            write_whole(self._region.keys, content, mode=0o644)

    @on_disk()
    def write_register(self, register: Mapping[str, Any]) -> None:
        """See `ClusterBackend`. Waits for the disk."""
        self._require_region()
        write_json(self._region.register, register, is_durable=True)

    @on_disk()
    def read_register(self) -> Mapping[str, Any]:
        """See `ClusterBackend`."""
        self._require_region()
        return read_json(self._region.register)

    def inventory(self) -> Iterator[Find]:
        """See `ClusterBackend`. Reads every process's table of files, and asks the store once."""
        self._require_region()
        with on_disk():
            yield from take_inventory(self._region, Store(self._settings.store) if self._settings.store else None)

    def changes(self, hears: Callable[[float], None]) -> Generator[UUID, None, None]:
        """See `ClusterBackend`. May be closed. One process per region is enough; it also keeps the sights fresh."""
        self._require_region()
        return Watch(self._region, hears).run()

    def _require_region(self) -> None:
        if not self._region.engines.is_dir():
            raise RegionUnreachable(
                "The region's folder is missing. Mount its disk again, or create the region.",
                internal=str(self._region.engines),
            )

    def _require_store(self, timeout: Timeout = store.TIMEOUT) -> Store:
        if self._settings.store is None:
            raise Permanent(
                "The region has no backup store. Set FLOWPLANE_BACKUP_S3_ENDPOINT and what belongs to it, and suspend "
                "and resume the cluster once."
            )
        return Store(self._settings.store, timeout)

    def _require_store_in(self, cluster: ClusterFolder, desired: DesiredCluster) -> None:
        """See that every broker knows the store as it is now: each writes the partitions that it leads."""
        self._require_store(store.TURN_TIMEOUT).provide_bucket()
        assert self._settings.store is not None
        for broker in cluster.brokers():
            record = running(broker)
            if record is not None and record.store != self._settings.store.fingerprint:
                raise Permanent(
                    f"{name_of(broker.node, desired.size.brokers)} was started before the region had a backup store, "
                    "or had this one: suspend and resume it once."
                )

    def _lacks_data(self, broker: BrokerFolder, desired: DesiredCluster) -> bool:
        """Whether the wished data is neither in its place nor kept nor coming."""
        found = contents.read_contents(broker)
        if any(origin is not None and origin.is_of(desired.data) for origin in (found.data, found.former)):
            return False
        return restoring.state(broker, desired)[0] not in {Work.RUNNING, Work.DONE}

    def _prepare_restore(
        self, broker: BrokerFolder, cluster: ClusterFolder, desired: DesiredCluster, application: Program
    ) -> dict[str, Any]:
        """Clear the way for one broker's restore, and return the order for it."""
        starting.make_folder(broker.path, 0o750, starting.passage_of(self._settings.engine_user))
        if contents.read_contents(broker).move is not Move.NONE:
            # A start was cut off while it moved things; nobody works on them then.
            contents.finish(broker)
        restoring.end(broker)
        owner = starting.account_of(self._settings.engine_user) if self._settings.engine_user else None
        # The application opens no port, and insists on being told all of them.
        ports = {node: admission.read_ports(cluster.broker(node)) or Ports(0) for node in desired.nodes}
        return restoring.order_for(broker, cluster, desired, self._settings, application, ports, owner)

    def _ask_topology(self, cluster: ClusterFolder, *, besides: Iterable[int] = ()) -> tuple[Ports, Topology]:
        """Return a broker that answers and what it knows; the one that knows the newest.

        Raises:
            Temporary: none answers.
        """
        self._require_region()
        asked = [running(broker) for broker in cluster.brokers() if broker.node not in besides]
        records: list[EngineRecord] = [record for record in asked if record is not None]
        known = [(record.ports, read_topology(_door(record.ports))) for record in records]
        told = [(ports, topology) for ports, topology in known if topology is not None]
        if not told:
            raise Temporary("No broker of the engine answers.")
        return max(told, key=lambda one: one[1].version)

    def _lead_clients(self, desired: DesiredCluster, cluster: ClusterFolder, besides: Collection[int] = ()) -> None:
        """Have the entrance lead to all other brokers that there are."""
        entrance = admission.read_ports(cluster.entrance)
        if desired.size.brokers > 1 and entrance is not None:
            others = [broker for broker in cluster.brokers() if broker.node not in besides]
            ports = [one for broker in others if (one := admission.read_ports(broker)) is not None]
            starting.write_routes(cluster.entrance, entrance, ports, desired.release.serves_rest)

    def _note_waiting(self, desired: DesiredCluster) -> None:
        """Have the watch wake this cluster when its release makes progress."""
        note = self._region.waiting / str(desired.cluster_id)
        if not note.exists():
            note.write_text(desired.release.sha256)


def _door(ports: Ports) -> LoopbackDoor:
    return LoopbackDoor(ports.management)
