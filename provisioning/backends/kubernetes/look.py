"""Read what one look at a cluster needs: as little as the moment asks for.

A cluster that is to go costs one request, one that is coming up four, a steady one one more for each kind of object it
has, because only then drift is worth a look; and now and then one that does not come up. Brokers are asked only when
there are several and enough are ready.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from provisioning.backends.engine import backups
from provisioning.backends.engine.health import Look, look_at
from provisioning.backends.engine.tls import Authority, is_good
from provisioning.backends.kubernetes import apply, fence, system
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.charts import Charts, Identity, Wish
from provisioning.backends.kubernetes.door import ProxyDoor
from provisioning.backends.kubernetes.drift import Key, first_difference, key_of
from provisioning.backends.kubernetes.holdings import Holdings
from provisioning.backends.kubernetes.kinds import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Kind,
    Object,
    kind_of,
    labels,
    meta,
    name_in,
    notes_in,
)
from provisioning.backends.kubernetes.names import (
    BROKER,
    GATEWAY,
    KEYS_DIGEST,
    MANAGED_BY,
    MANAGER,
    TLS,
    TOKEN_KEYS,
    namespace_of,
    node_of,
    selector_of,
)
from provisioning.backends.kubernetes.notes import NamespaceNotes
from provisioning.backends.kubernetes.observe import SERVICE_EDGES, Observation, Scene
from provisioning.backends.kubernetes.pods import Pod
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import DesiredCluster, Lifecycle, ObservedCluster, Work

# A cluster that does not come up is looked at every second; all its objects, a dozen requests, need not be, and the
# less the longer it lasts: whatever has become of a node, its engines are late together.
COMPARE_LATE_SECONDS = 10.0
MAX_COMPARE_LATE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Lookout:
    """Looks at clusters of one region; for any number of threads."""

    api: Api
    charts: Charts
    settings: KubernetesSettings
    authority: Callable[[], Authority]
    _compares: dict[UUID, tuple[float, float]] = field(default_factory=dict)

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        """Return what is to be seen of one cluster.

        Raises:
            Temporary: the region does not answer; that never reads as absent.
            Permanent: a namespace with its name is somebody else's.
        """
        name = namespace_of(desired.cluster_id)
        namespace = self.api.get(NAMESPACE, "", name)
        if namespace is None:
            return Observation(desired, Scene(), self.settings).report()
        fence.require_ours(namespace, desired.cluster_id)
        if desired.lifecycle is Lifecycle.DELETED:
            # Whatever is in it goes with it.
            return Observation(desired, Scene(namespace=namespace), self.settings).report()
        selector = selector_of(desired.cluster_id)
        scene = Scene(
            namespace=namespace,
            stateful_set=self.api.get(STATEFUL_SET, name, BROKER),
            pods=self.api.find(POD, name, selector=selector).items,
            claims=self.api.find(CLAIM, name, selector=selector).items,
            gateways=self.charts.gateways(desired) if desired.lifecycle is Lifecycle.RUNNING else 0,
            service=self._service(name) if self.settings.edge in SERVICE_EDGES else None,
            now=self.api.now,
        )
        return Observation(desired, self._look_closer(desired, scene), self.settings).report()

    def _look_closer(self, desired: DesiredCluster, scene: Scene) -> Scene:
        """Read what the first look gives reason for."""
        first = Observation(desired, scene, self.settings)
        namespace = scene.namespace
        assert namespace is not None
        name = name_in(namespace)
        if first.needs_jobs:
            jobs = self.api.find(JOB, name, selector=selector_of(desired.cluster_id)).items
            scene = replace(scene, jobs=jobs)
        if first.needs_warnings:
            scene = replace(scene, warnings=self.api.find(EVENT, name, fields="type=Warning").items)
        if first.asked:
            scene = replace(scene, looks=self._ask(name, first.asked))
        is_going = bool(meta(namespace).get("deletionTimestamp"))
        if desired.lifecycle is Lifecycle.RUNNING and not is_going and self._is_to_be_compared(desired, first):
            scene = replace(scene, drift=self._drift(desired, scene, name))
        if desired.backup is not None:
            scene = replace(scene, backup=self._backup(desired, scene, first.ready))
        return scene

    def _service(self, namespace: str) -> Object | None:
        """Return where clients go; the product's own account may list Services, not get one."""
        return next(iter(self.api.find(SERVICE, namespace, fields=f"metadata.name={GATEWAY}").items), None)

    def _is_to_be_compared(self, desired: DesiredCluster, first: Observation) -> bool:
        if first.is_as_wished or not first.is_late:
            self._compares.pop(desired.cluster_id, None)
            return first.is_as_wished
        now = time.monotonic()
        soon = now + random.uniform(0, COMPARE_LATE_SECONDS)  # noqa: S311 - spreads load, hides nothing
        due_at, pause = self._compares.setdefault(desired.cluster_id, (soon, COMPARE_LATE_SECONDS))
        if now < due_at:
            return False
        self._compares[desired.cluster_id] = (now + pause, min(2 * pause, MAX_COMPARE_LATE_SECONDS))
        return True

    def _ask(self, namespace: str, nodes: tuple[int, ...]) -> dict[int, Look]:
        """Ask each broker how it is, and the first that knows which brokers there are."""
        looks: dict[int, Look] = {}
        knows = False
        for node in nodes:
            looks[node] = look_at(ProxyDoor(self.api, namespace, node), is_one_of_several=not knows and len(nodes) > 1)
            knows = knows or looks[node].topology is not None
        return looks

    def _backup(self, desired: DesiredCluster, scene: Scene, ready: tuple[int, ...]) -> tuple[Work, str]:
        assert desired.backup is not None
        assert scene.namespace is not None
        notes = NamespaceNotes(self.api, scene.namespace)
        doors = [ProxyDoor(self.api, name_in(scene.namespace), node) for node in ready]
        return backups.state(notes, desired.backup, doors)

    def _drift(self, desired: DesiredCluster, scene: Scene, namespace: str) -> str:
        """Return which object is not as it would be rendered now, "" when all are."""
        assert scene.namespace is not None
        if fence.lacks(desired.cluster_id, scene.namespace):
            return "the namespace's labels are not as they were"
        held = _holdings(scene)
        wish = Wish(desired, max(held.replicas, desired.size.brokers), held.empty_from)
        # Who the cluster is does not matter for which kinds of objects it has.
        kinds = {kind_of(one) for one in self.charts.kinds(wish)}
        found = {key: one for kind in kinds for key, one in self._owned(kind, namespace, desired).items()}
        secret, keys = found.get((SECRET.name, TLS)), found.get((CONFIG_MAP.name, TOKEN_KEYS))
        pair = apply.pair_in(secret)
        if not is_good(pair, self.authority(), apply.names_in_certificate(desired)):
            return "the certificate is not good any more"
        document = str(((keys or {}).get("data") or {}).get("certs", ""))
        if keys is None or notes_in(keys).get(KEYS_DIGEST) != system.digest_of(document):
            return "the token keys are not those that were published"
        rendered = self.charts.render(wish, Identity(pair, document))
        finished = apply.finish(rendered, held, starts=held.starts)
        return first_difference(map(apply.without_version, finished), found)

    def _owned(self, kind: Kind, namespace: str, desired: DesiredCluster) -> dict[Key, Object]:
        """Return the objects of a kind that are this cluster's and ours, not those that Kubernetes made of them."""
        items = self.api.find(kind, namespace, selector=selector_of(desired.cluster_id)).items
        return {
            key_of(one, kind.name): one
            for one in items
            if labels(one).get(MANAGED_BY) == MANAGER and not meta(one).get("ownerReferences")
        }


def _holdings(scene: Scene) -> Holdings:
    pods = [pod for pod in map(Pod, scene.pods) if pod.node is not None]
    return Holdings(
        scene.stateful_set,
        {pod.node: pod for pod in pods if pod.node is not None},
        {node: one for one in scene.claims if (node := node_of(name_in(one))) is not None},
    )
