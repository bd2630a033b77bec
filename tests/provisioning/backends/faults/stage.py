"""A region behind a proxy, and a second way to it on which nothing is disturbed: for doing, and for judging."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.charts import Charts, Wish
from provisioning.backends.kubernetes.kinds import INGRESS, OWNED
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.planner import plan
from provisioning.spec import DesiredCluster, ObservedCluster
from testbed.simulated import SCHEDULING
from tests.kubernetes import Kubernetes, Namespace
from tests.provisioning.backends.contract import await_sight, is_well, persist
from tests.provisioning.backends.faults.proxy import Proxy
from tests.provisioning.backends.kubernetes_stage import KubernetesStage

KINDS = ",".join((*(kind.plural for kind in (*OWNED, INGRESS)), "persistentvolumeclaims", "pods"))
# What Kubernetes puts into every namespace, or makes of what is ours.
ITS_OWN = ("ServiceAccount/default", "ConfigMap/kube-root-ca.crt")


@dataclass
class Ground:
    """One region as whoever judges it reaches it: directly. Objects are named as kubectl takes them, `Kind/name`."""

    cluster: Kubernetes
    direct: KubernetesSettings

    def __post_init__(self) -> None:
        self.judge = KubernetesStage(self.direct, self.cluster)

    def desired(self, **overrides: object) -> DesiredCluster:
        return self.judge.desired(**overrides)

    def next_epoch(self) -> int:
        return self.judge.next_epoch()

    def place(self, desired: DesiredCluster) -> Namespace:
        return self.cluster.inside(f"fp-{desired.cluster_id}")

    def healthy(self, **overrides: object) -> DesiredCluster:
        """A cluster that stands as it is wished."""
        desired = self.desired(**overrides)
        persist(self.judge.backend.start, desired, desired.nodes, epoch=self.next_epoch())
        self.settle(desired)
        return desired

    def settle(self, desired: DesiredCluster) -> ObservedCluster:
        """Wait until it stands as it is wished, with exactly what belongs to it: the steady state before and after."""
        sight = self.await_steady(desired)
        there, wished = self.names(desired), self.names_wished(desired)
        assert there == wished, f"too much: {there - wished}; missing: {wished - there}"
        return sight

    def await_steady(self, desired: DesiredCluster) -> ObservedCluster:
        """Wait until it is well and nothing is left to do."""
        return await_sight(
            self.judge.backend, desired, lambda sight: is_well(desired)(sight) and plan(desired, sight) is None
        )

    def rendered(self, desired: DesiredCluster) -> list[str]:
        """Every object that is made for it, in order."""
        return [name_of(one) for one in Charts(self.direct).kinds(Wish(desired, desired.size.brokers))]

    def names_wished(self, desired: DesiredCluster) -> set[str]:
        """What there is of a cluster of these brokers that stands as it is wished; without gateways of its own."""
        pods = [f"Pod/broker-{node}" for node in desired.nodes]
        claims = [f"PersistentVolumeClaim/data-broker-{node}" for node in desired.nodes]
        return {*self.rendered(desired), *pods, *claims}

    def names(self, desired: DesiredCluster) -> set[str]:
        """What there is."""
        return set(self.uids(desired))

    def uids(self, desired: DesiredCluster) -> dict[str, str]:
        """Which objects there are: another object of the same name is another one."""
        found = [one for one in self.place(desired).get(KINDS)["items"] if not is_named_by_chance(one)]
        uids = {name_of(one): str(one["metadata"]["uid"]) for one in found}
        return {name: uid for name, uid in uids.items() if name not in ITS_OWN}

    def uid(self, desired: DesiredCluster) -> str:
        """Which namespace it is, "" when there is none."""
        found = self.cluster.get("namespaces", "-l", f"flowplane.dev/cluster={desired.cluster_id}")["items"]
        assert len(found) <= 1
        return str(found[0]["metadata"]["uid"]) if found else ""

    def remove(self, desired: DesiredCluster) -> None:
        """Begin to remove a cluster; nobody waits for it."""
        persist(self.judge.backend.delete, desired.cluster_id, epoch=self.next_epoch())

    def patch(self, desired: DesiredCluster, name: str, change: Any, *options: str) -> None:
        """Change an object as somebody with kubectl does."""
        self.place(desired).kubectl("patch", name, "--type=merge", "-p", json.dumps(change), *options)


@dataclass
class Region(Ground):
    """A region that is reached through a proxy by what is tested."""

    proxy: Proxy
    settings: KubernetesSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backend = KubernetesBackend(self.settings)

    def another_backend(self) -> KubernetesBackend:
        """A second process of ours, behind the same proxy."""
        return KubernetesBackend(self.settings)


def is_named_by_chance(one: Any) -> bool:
    """Whether it is a pod of a Job's, which goes with it, or of a Deployment's."""
    return any(owner["kind"] in ("Job", "ReplicaSet") for owner in one["metadata"].get("ownerReferences", ()))


def name_of(one: Any) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def simulated(settings: KubernetesSettings) -> KubernetesSettings:
    """The same region with its engines on nodes that are none."""
    return replace(settings, values={**settings.values, "scheduling": SCHEDULING})


def reached_by(settings: KubernetesSettings, kubeconfig: Path) -> KubernetesSettings:
    return replace(settings, kubeconfig=kubeconfig)
