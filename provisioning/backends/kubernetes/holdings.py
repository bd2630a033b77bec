"""What is there of a cluster: its workload, pods and claims, as they are read before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioning.backends.engine.origins import Contents
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.fence import Ground
from provisioning.backends.kubernetes.kinds import CLAIM, POD, STATEFUL_SET, Object, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import BROKER, STARTS, node_of, selector_of
from provisioning.backends.kubernetes.pods import Pod, contents_of
from provisioning.spec import DesiredData


@dataclass(frozen=True, slots=True)
class Holdings:
    """The parts of one cluster that changing it depends on."""

    stateful_set: Object | None = None
    pods: Mapping[int, Pod] = field(default_factory=dict)
    claims: Mapping[int, Object] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        return int(((self.stateful_set or {}).get("spec") or {}).get("replicas", 0))

    @property
    def version(self) -> str:
        """The version of the StatefulSet, "" when there is none."""
        return str(meta(self.stateful_set or {}).get("resourceVersion", ""))

    @property
    def starts(self) -> int:
        return int(notes_in(self.stateful_set or {}).get(STARTS, 0))

    @property
    def alive(self) -> tuple[int, ...]:
        """Brokers whose pods are there and not finished, also those that are stopping."""
        return tuple(sorted(node for node, pod in self.pods.items() if not pod.is_finished))

    @property
    def ready(self) -> tuple[int, ...]:
        return tuple(sorted(node for node, pod in self.pods.items() if pod.is_ready))

    @property
    def empty_from(self) -> int | None:
        """From which broker on they may begin with nothing, as it was last applied."""
        spec = (((self.stateful_set or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
        told: Iterable[Mapping[str, Any]] = (
            one for container in spec.get("initContainers") or () for one in container.get("env") or ()
        )
        return next((int(one["value"]) for one in told if one["name"] == "MAY_BEGIN_EMPTY_FROM"), None)

    def contents(self, node: int, wished: DesiredData) -> Contents:
        return contents_of(self.pods.get(node), self.claims.get(node), self.stateful_set, wished)


def read_holdings(api: Api, ground: Ground) -> Holdings:
    """Read them: three requests, none of a namespace that was made this moment.

    The StatefulSet is read after the epoch was raised, so whoever has an older epoch and its version comes too late.
    """
    if ground.is_new:
        return Holdings()
    selector = selector_of(ground.cluster_id)
    stateful_set = api.get(STATEFUL_SET, ground.namespace, BROKER)
    pods = map(Pod, api.find(POD, ground.namespace, selector=selector).items)
    claims = api.find(CLAIM, ground.namespace, selector=selector).items
    return Holdings(
        stateful_set,
        {pod.node: pod for pod in pods if pod.node is not None},
        {node: one for one in claims if (node := node_of(name_in(one))) is not None},
    )
