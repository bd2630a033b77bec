"""The Kubernetes backend: one region whose engines are pods (docs/adr/0014)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from common.errors import Permanent, Temporary
from provisioning.backends.base import Find
from provisioning.backends.engine import backups
from provisioning.backends.engine.admin import EngineAdmin, require_retirable
from provisioning.backends.engine.health import Topology, read_topology
from provisioning.backends.engine.store import TIMEOUT, Store
from provisioning.backends.engine.tls import Authority, load_authority
from provisioning.backends.kubernetes import apply, fence, system
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.budget import Gate
from provisioning.backends.kubernetes.charts import Charts, Wish
from provisioning.backends.kubernetes.connection import connect
from provisioning.backends.kubernetes.data import Volumes
from provisioning.backends.kubernetes.door import ProxyDoor
from provisioning.backends.kubernetes.errors import Changed, Missing
from provisioning.backends.kubernetes.fence import Ground
from provisioning.backends.kubernetes.healing import Healing
from provisioning.backends.kubernetes.holdings import Holdings, read_holdings
from provisioning.backends.kubernetes.inventory import list_belongings, take_inventory
from provisioning.backends.kubernetes.kinds import (
    CLAIM,
    DEPLOYMENT,
    NAMESPACE,
    POD,
    STATEFUL_SET,
    former_kinds_in,
    kinds_in,
    meta,
)
from provisioning.backends.kubernetes.look import Lookout
from provisioning.backends.kubernetes.names import (
    BROKER,
    CARD,
    GATEWAY,
    REBALANCED,
    REMOVING,
    claim_of,
    namespace_of,
    pod_of,
)
from provisioning.backends.kubernetes.notes import NamespaceNotes
from provisioning.backends.kubernetes.observe import starts_of
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.backends.kubernetes.watch import ALWAYS, Watch
from provisioning.spec import BackupRef, DesiredCluster, DesiredRelease, ObservedCluster


class KubernetesBackend:
    """A `ClusterBackend`. Keeps nothing of any cluster in memory but what the chart renders to."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._api = Api(partial(connect, settings.kubeconfig), Gate(settings.budget))
        self._healing = Healing()
        self._keys = system.TokenKeys(self._api)

    @property
    def requests(self) -> int:
        """How many requests this process has made of the region."""
        return self._api.requests

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        """See `ClusterBackend`. One request when nothing is there, or is to be; four while it comes up, a dozen when
        all is well.

        Raises:
            RegionUnreachable: the API server does not answer.
            Permanent: a namespace with the cluster's name is somebody else's.
        """
        return self._lookout.observe(desired)

    def prepare(self, release: DesiredRelease) -> None:
        """See `ClusterBackend`. Nothing to do: a node fetches the image when a pod needs it, and says how that goes."""

    def start(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. Applies everything; a pod that runs is left alone, whatever it was started with.

        For no broker at all: the objects around them are made as they are wished, and what is not wished is removed.

        Raises:
            NoCapacity: a quota of the region's does not allow an object.
            Fenced: a newer turn has taken over.
            Permanent: something that only a person can mend.
        """
        nodes = tuple(nodes)
        if not nodes:
            self._healing.begin(desired.cluster_id)
        # Before anything is made: what the chart refuses must not leave an empty namespace behind.
        self._charts.kinds(Wish(desired, desired.size.brokers))
        ground = self._enter_or_found(desired, epoch)
        held = read_holdings(self._api, ground)
        idle = [node for node in nodes if node not in held.alive]
        replicas = max(held.replicas, desired.size.brokers)
        is_start = any(node >= held.replicas for node in idle)
        starts = held.starts + 1 if is_start else max(held.starts, 1)
        finished = self._lay_down(desired, ground, held, idle, replicas=replicas, starts=starts)
        values = self._settings.values
        if not nodes:
            apply.prune(self._api, ground, kinds_in(values), finished)
        # A broker's start beside others that run, as in a roll, finds what it left at the one before.
        if not ground.is_new and not (nodes and held.alive):
            apply.prune(self._api, ground, former_kinds_in(values), finished, where_allowed=True)

    def stop(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. All brokers: the number of pods is set to none. Some: they come back as wished.

        The kubelet ends by force what does not end in time; a pod whose node is silent stays, for two engines on one
        volume would be worse than none.
        """
        ground = fence.enter(self._api, desired.cluster_id, epoch, _wished(desired))
        if ground is None:
            return
        held, doomed = read_holdings(self._api, ground), set(nodes)
        if held.stateful_set is None:
            return
        if set(held.alive) <= doomed:
            self._suspend(desired, ground, held)
        elif going := [node for node in held.alive if node in doomed and not held.pods[node].is_stopping]:
            self._replace(desired, ground, held, going)

    def rescale(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. A change that is under way already is left to come to its end.

        Raises:
            Temporary: no broker answers, or the engine cannot now.
            Permanent: the engine refuses.
        """
        ground = self._enter(desired, epoch)
        door, topology = self._ask_topology(ground, read_holdings(self._api, ground))
        if not topology.is_changing and set(topology.members) != set(desired.nodes):
            EngineAdmin(door).rescale(desired.nodes, replication_factor=desired.size.replication_factor)

    def retire(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """See `ClusterBackend`. Asks the engine itself: what it counts on is not touched.

        Raises:
            Temporary: the engine counts on one of them or does not say on whom, it is wished, or no broker answers.
        """
        ground = self._enter(desired, epoch)
        held, doomed = read_holdings(self._api, ground), sorted(set(nodes))
        _, topology = self._ask_topology(ground, held, besides=doomed)
        for node in doomed:
            require_retirable(node, desired, topology)
        left = max(desired.nodes) + 1
        if held.replicas > left:
            self._resize(ground, left, held.version)
        for node in doomed:
            if (claim := held.claims.get(node)) is not None and not meta(claim).get("deletionTimestamp"):
                self._api.delete(CLAIM, ground.namespace, claim_of(node), uid=str(meta(claim)["uid"]))

    def rebalance(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`.

        Raises:
            Temporary: no broker answers, or the engine cannot now.
        """
        ground = self._enter(desired, epoch)
        held = read_holdings(self._api, ground)
        EngineAdmin(self._ask_topology(ground, held)[0]).rebalance()
        starts = starts_of(tuple(pod.found for pod in held.pods.values()))
        self._api.merge(NAMESPACE, "", ground.namespace, {"metadata": {"annotations": {REBALANCED: starts}}})

    def back_up(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`.

        Raises:
            Permanent: the region has no store, the engine does not know it, or the number cannot be used any more.
            Temporary: the engine does not answer.
        """
        assert desired.backup is not None
        self._require_store()
        ground = self._enter(desired, epoch)
        door, _ = self._ask_topology(ground, read_holdings(self._api, ground))
        namespace = {"metadata": {"name": ground.namespace, "annotations": ground.annotations}}
        backups.begin(NamespaceNotes(self._api, namespace), desired.backup, EngineAdmin(door))

    def restore(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. A Job for each broker, which outlives the caller.

        Raises:
            Permanent: the region has no store, or no backup is named.
            Temporary: the store does not answer, or an earlier attempt is being ended.
        """
        self._require_store()
        if desired.data.source is None:
            raise Permanent("No backup is named that the data could be fetched from.")
        ground = self._enter_or_found(desired, epoch)
        volumes = self._volumes(desired, ground, read_holdings(self._api, ground))
        volumes.restore(apply.provide_identity(self._api, ground, desired, self._authority), desired.data.source)

    def let_go(self, desired: DesiredCluster, *, epoch: int) -> None:
        """See `ClusterBackend`. Begins Jobs; a later call notes that they are through."""
        ground = self._enter(desired, epoch)
        volumes = self._volumes(desired, ground, read_holdings(self._api, ground))
        volumes.let_go(apply.provide_identity(self._api, ground, desired, self._authority))

    def delete(self, cluster_id: UUID, *, epoch: int) -> bool:
        """See `ClusterBackend`. The namespace goes with all that is in it; whatever holds it up is never stripped.

        Raises:
            Permanent: a namespace with its name is somebody else's.
            Temporary: somebody changed the namespace meanwhile; it may be somebody else's by now.
        """
        ground = fence.enter(self._api, cluster_id, epoch, {REMOVING: "true"})
        if ground is not None and ground.is_going:
            # Nothing can be made in it any more, and once it is gone this is called again.
            return False
        # Written before anything goes, and also when nothing is there: see `fence`.
        fence.remember(self._api, cluster_id, epoch, is_first=ground is not None)
        if ground is None:
            return self._api.get(NAMESPACE, "", namespace_of(cluster_id)) is None
        self._api.delete(NAMESPACE, "", ground.namespace, uid=ground.uid, version=ground.version)
        return False

    def belongings(self, cluster_id: UUID) -> Sequence[str]:
        """See `ClusterBackend`. What Kubernetes itself makes of these objects goes with them, unnamed."""
        return tuple(list_belongings(self._api, kinds_in(self._settings.values), cluster_id))

    def drop_backup(self, backup: BackupRef) -> bool:
        """See `ClusterBackend`.

        Raises:
            Permanent: the region has no store.
            Temporary: the store does not answer, or refuses.
        """
        return self._require_store().remove(backup)

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        """See `ClusterBackend`. One request while nothing changes."""
        self._keys.publish(jwks)

    def write_register(self, register: Mapping[str, Any]) -> None:
        """See `ClusterBackend`."""
        system.write_register(self._api, register)

    def read_register(self) -> Mapping[str, Any]:
        """See `ClusterBackend`."""
        return system.read_register(self._api)

    def inventory(self) -> Iterator[Find]:
        """See `ClusterBackend`. Three lists, and one request to the store."""
        return take_inventory(self._api, Store(self._settings.store) if self._settings.store else None)

    def changes(self, hears: Callable[[float], None]) -> Generator[UUID, None, None]:
        """See `ClusterBackend`. May be closed. One process per region is enough."""
        return Watch(self._api, (*ALWAYS, *kinds_in(self._settings.values)), hears).run()

    @cached_property
    def _charts(self) -> Charts:
        return Charts(self._settings)

    @cached_property
    def _lookout(self) -> Lookout:
        return Lookout(self._api, self._charts, self._settings, lambda: self._authority)

    @cached_property
    def _authority(self) -> Authority:
        return load_authority(self._settings.ca_cert, self._settings.ca_key)

    def _volumes(self, desired: DesiredCluster, ground: Ground, held: Holdings) -> Volumes:
        return Volumes(self._api, self._charts, self._settings, desired, ground, held)

    def _lay_down(
        self, desired: DesiredCluster, ground: Ground, held: Holdings, nodes: list[int], *, replicas: int, starts: int
    ) -> tuple[Any, ...]:
        """Apply everything, once it is sure that these brokers could start on what they have."""
        empty_from = self._volumes(desired, ground, held).require_usable(nodes)
        identity = apply.provide_identity(self._api, ground, desired, self._authority)
        rendered = self._charts.render(Wish(desired, replicas, empty_from), identity)
        finished = apply.finish(rendered, held, starts=starts)
        apply.lay_down(self._api, ground, finished)
        return finished

    def _suspend(self, desired: DesiredCluster, ground: Ground, held: Holdings) -> None:
        self._volumes(desired, ground, held).keep_notes(held.alive)
        if held.replicas:
            self._resize(ground, 0, held.version)
        if self._charts.has_gateways(desired):
            with suppress(Missing):
                self._api.merge(DEPLOYMENT, ground.namespace, GATEWAY, {"spec": {"replicas": 0}})

    def _replace(self, desired: DesiredCluster, ground: Ground, held: Holdings, nodes: list[int]) -> None:
        """Delete these very pods; the StatefulSet, which is as wished by then, makes them anew."""
        volumes = self._volumes(desired, ground, held)
        anew = [node for node in nodes if volumes.is_to_begin_anew(node)]
        volumes.keep_notes(nodes)
        usable = [node for node in nodes if node not in anew]
        self._lay_down(desired, ground, held, usable, replicas=held.replicas, starts=held.starts)
        for node in nodes:
            if node in anew:
                # It goes once the pod is gone, and the StatefulSet waits for that before it makes both anew.
                uid = str(meta(held.claims[node])["uid"])
                self._api.delete(CLAIM, ground.namespace, claim_of(node), uid=uid)
            self._api.delete(POD, ground.namespace, pod_of(node), uid=held.pods[node].uid)

    def _resize(self, ground: Ground, replicas: int, version: str) -> None:
        def act(version: str) -> None:
            change = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
            self._api.merge(STATEFUL_SET, ground.namespace, BROKER, change)

        apply.on_version(self._api, ground, version, act)

    def _enter(self, desired: DesiredCluster, epoch: int) -> Ground:
        ground = fence.enter(self._api, desired.cluster_id, epoch, _wished(desired))
        if ground is None:
            fence.require_not_deleted(self._api, desired.cluster_id, epoch)
            raise Temporary("Nothing of the cluster is in the region.", internal=namespace_of(desired.cluster_id))
        return ground

    def _enter_or_found(self, desired: DesiredCluster, epoch: int) -> Ground:
        ground = fence.enter(self._api, desired.cluster_id, epoch, _wished(desired))
        if ground is None:
            try:
                ground = fence.found(self._api, desired, epoch)
            except Changed:
                ground = self._enter(desired, epoch)
        if ground.is_going:
            raise Temporary("What was there of the cluster is being removed first.", retry_after_seconds=2.0)
        return ground

    def _ask_topology(
        self, ground: Ground, held: Holdings, *, besides: Iterable[int] = ()
    ) -> tuple[ProxyDoor, Topology]:
        """Return a broker that answers and what it knows; the one that knows the newest.

        Raises:
            Temporary: none answers.
        """
        asked = [ProxyDoor(self._api, ground.namespace, node) for node in held.ready if node not in besides]
        told = [(door, topology) for door in asked if (topology := read_topology(door)) is not None]
        if not told:
            raise Temporary("No broker of the engine answers.")
        return max(told, key=lambda one: one[1].version)

    def _require_store(self) -> Store:
        if self._settings.store is None:
            raise Permanent(
                "The region has no backup store. Set FLOWPLANE_BACKUP_S3_ENDPOINT and what belongs to it, and suspend "
                "and resume the cluster once."
            )
        return Store(self._settings.store, TIMEOUT)


def _wished(desired: DesiredCluster) -> Mapping[str, str | None]:
    """Return the notes on the namespace of a cluster that is to be there: a removal that was begun is called off."""
    return {CARD: fence.card_of(desired), REMOVING: None}
