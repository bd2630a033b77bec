"""What is seen of a cluster's objects, as the planner wants it. Pure: everything was read before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from provisioning.backends.engine.health import Look
from provisioning.backends.engine.names import name_of
from provisioning.backends.engine.origins import Contents, ref_to_record
from provisioning.backends.engine.view import View
from provisioning.backends.kubernetes.kinds import Object, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import DIGEST, REBALANCED, RELEASE, RESTORE, STARTS, node_of
from provisioning.backends.kubernetes.pods import Pod, contents_of, last_words, parse_time, sentence
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import (
    DesiredCluster,
    Endpoint,
    Gateway,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
    Work,
)

# Seen: a second or two on a busy machine. The gateway learns of its partitions within this, too.
FRESH_SECONDS = 30.0
# Where a cluster's own Service is the edge: what of each of its ports clients use.
SERVICE_EDGES = {"nodePort": "nodePort", "loadBalancer": "port"}
# A start takes some eight seconds; on a machine that has much to do, three times that.
LATE_SECONDS = 30.0
# Namespace, StatefulSet, pods, claims, and a list for each kind of object that a cluster owns: counted in a test.
LOOK_REQUESTS = 14
# Several brokers are asked at every look, each twice, and one of them which there are (`engine.health.look_at`).
LOOK_REQUESTS_OF_A_BROKER = 2
_EPOCH = datetime.fromtimestamp(0, UTC)
# What Kubernetes says of a namespace that does not go, each true when it is so.
_STUCK = (
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
    "NamespaceFinalizersRemaining",
    "NamespaceContentRemaining",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What was read of one cluster.

    Attributes:
        gateways: how many pods of their own are to answer clients; 0 where the brokers do.
        looks: what brokers said, of those that were asked.
        drift: which object is not as rendered, "" when all are, None when that was not looked at.
        backup: how far the wished backup is.
        service: where clients go, of those regions where it has ports of its own.
    """

    namespace: Object | None = None
    stateful_set: Object | None = None
    pods: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    warnings: tuple[Object, ...] = ()
    gateways: int = 0
    looks: Mapping[int, Look] = field(default_factory=dict)
    drift: str | None = None
    backup: tuple[Work, str] = (Work.ABSENT, "")
    service: Object | None = None
    now: datetime = _EPOCH


class Observation:
    """One look at one cluster."""

    def __init__(self, desired: DesiredCluster, scene: Scene, settings: KubernetesSettings) -> None:
        self._desired = desired
        self._scene = scene
        self._settings = settings
        self._pods = {pod.node: pod for pod in map(Pod, scene.pods) if pod.node is not None}
        self._gateways = [pod for pod in map(Pod, scene.pods) if pod.is_gateway and not pod.is_finished]
        self._claims = {node: one for one in scene.claims if (node := node_of(name_in(one))) is not None}

    def report(self) -> ObservedCluster:
        """Return what is to be seen."""
        if self._scene.namespace is None:
            data = Work.DONE if self._desired.data.epoch == 0 else Work.ABSENT
            return ObservedCluster(release=ReleaseState.READY, data=data)
        view, (data, data_detail), (backup, backup_detail) = self._view, self._data, self._scene.backup
        topology = view.topology
        return ObservedCluster(
            exists=True,
            brokers=tuple(self._broker(node) for node in sorted({*self._pods, *self._claims})),
            entrance=False if self._scene.drift else self._entrance,
            answers_clients=not self._scene.gateways or any(pod.is_ready for pod in self._gateways),
            is_entrance_current=self._is_entrance_current,
            available=self._is_available,
            healthy_partitions=len(self._healthy_partitions),
            members=topology.members,
            is_rescaling=topology.is_changing,
            is_balanced=self._is_single or not self._is_available or view.is_even or self._was_rebalanced,
            release=ReleaseState.READY,
            data=data,
            data_detail=data_detail,
            backup=backup,
            backup_detail=backup_detail,
            keeps_former=any(self._contents(node).former is not None for node in self._claims),
            waits_for=self._waits_for() or data_detail or backup_detail,
            look_requests=self._look_requests,
            endpoint=self._endpoint(),
            restarts=self._starts + max((pod.restarts for pod in self._pods.values()), default=0),
            last_exit=self._last_exit(),
        )

    @property
    def is_as_wished(self) -> bool:
        """Whether all wished brokers are ready, and were started as they are wished: then drift is worth a look."""
        return self._is_started_as_wished and set(self._desired.nodes) <= set(self.ready)

    @property
    def is_late(self) -> bool:
        """Whether all were started as wished a while ago, and some are not ready: what they lack may be an object."""
        waiting = [pod for node, pod in self._pods.items() if node in self._desired.nodes and not pod.is_ready]
        return self._is_started_as_wished and any(self._age(pod.found) > LATE_SECONDS for pod in waiting)

    @property
    def _is_started_as_wished(self) -> bool:
        """What is wished otherwise, or not restored yet, must not become the template that a pod comes back with."""
        pods = [self._pods.get(node) for node in self._desired.nodes]
        return all(
            pod is not None
            and not pod.is_stopping
            and pod.digest == self._desired.digest
            and pod.data_epoch == self._desired.data.epoch
            for pod in pods
        )

    @property
    def asked(self) -> tuple[int, ...]:
        """The brokers that are worth asking.

        A single one calls itself ready a moment before it leads its partitions, so it is asked while that is fresh;
        later, its readiness is enough. Of several none is asked before enough are ready to hold a partition.
        """
        if self._is_single:
            return tuple(node for node in self.ready if self._pods[node].ready_seconds(self._scene.now) < FRESH_SECONDS)
        up = [node for node, pod in self._pods.items() if pod.is_engine_up and not pod.is_stopping]
        ready = [node for node in up if self._pods[node].is_ready]
        quorum = self._desired.size.replication_factor // 2 + 1
        return tuple(sorted(up)) if len(ready) >= quorum else ()

    @property
    def ready(self) -> tuple[int, ...]:
        """The brokers whose pods are ready."""
        return tuple(sorted(node for node, pod in self._pods.items() if pod.is_ready))

    @property
    def needs_jobs(self) -> bool:
        """Whether the wished data is not in its place, so that restores are worth a look."""
        return self._desired.data.epoch > 0 and any(not self._has_wished_data(node) for node in self._desired.nodes)

    @property
    def needs_warnings(self) -> bool:
        """Whether something that has been wished for a while does not go on, so that its reason is worth a look."""
        if self._scene.stateful_set is None or not self._wished_replicas:
            return False
        patience = [self._age(self._scene.stateful_set) > 5 for node in self._desired.nodes if node not in self._pods]
        slow = [
            self._age(pod.found) > 10 for pod in self._pods.values() if not pod.is_engine_up and not pod.is_stopping
        ]
        return any([*patience, *slow])

    @property
    def _look_requests(self) -> int:
        brokers = len(self._desired.nodes)
        return LOOK_REQUESTS + (LOOK_REQUESTS_OF_A_BROKER * brokers + 1 if brokers > 1 else 0)

    @property
    def _is_single(self) -> bool:
        return self._desired.size.brokers == 1 and len(self._pods) <= 1

    @property
    def _wished_replicas(self) -> int:
        return int(((self._scene.stateful_set or {}).get("spec") or {}).get("replicas", 0))

    @cached_property
    def _view(self) -> View:
        stopping = frozenset(node for node, pod in self._pods.items() if pod.is_stopping)
        return View(self._desired.size, self._scene.looks, stopping)

    @property
    def _healthy_partitions(self) -> set[int]:
        if self._is_single and not self._scene.looks:
            is_up = any(pod.is_ready for pod in self._pods.values())
            return set(range(1, self._desired.size.partitions + 1)) if is_up else set()
        return self._view.healthy_partitions

    @property
    def _is_available(self) -> bool:
        """Whether every partition is led in health; a single broker that was asked calls itself healthy, too."""
        if self._is_single and not all(look.up for look in self._scene.looks.values()):
            return False
        return self._healthy_partitions >= set(range(1, self._desired.size.partitions + 1))

    @property
    def _entrance(self) -> bool | None:
        """Whether gateways of their own are there, for whoever has to end them; that they come is the region's part."""
        return True if any(not pod.is_stopping for pod in self._gateways) else None

    @property
    def _is_entrance_current(self) -> bool:
        """One from before takes tokens that are not good any more, until its very end."""
        current = [pod for pod in self._gateways if pod.is_ready and pod.digest == self._desired.digest]
        outdated = [pod for pod in self._gateways if pod.digest != self._desired.digest]
        return not self._scene.gateways or (len(current) >= self._scene.gateways and not outdated)

    def _broker(self, node: int) -> ObservedBroker:
        pod = self._pods.get(node)
        contents = self._contents(node)
        if pod is None or pod.is_finished:
            started = notes_in(((self._scene.stateful_set or {}).get("spec") or {}).get("template") or {})
            is_known = contents.data is not None
            return ObservedBroker(
                node,
                digest=started.get(DIGEST, "") if is_known else "",
                release=contents.data.release if contents.data else "",
                has_wished_data=contents.data is None or contents.data.epoch == self._desired.data.epoch,
            )
        look = self._scene.looks.get(node)
        return ObservedBroker(
            node,
            running=True,
            stopping=pod.is_stopping,
            stopping_seconds=pod.stopping_seconds(self._scene.now),
            digest=pod.digest,
            release=pod.release or self._started.get(RELEASE, ""),
            answers=pod.is_ready or (look is not None and look.answered),
            healthy=pod.is_ready and (look is None or self._view.is_healthy(node)),
            has_wished_data=pod.data_epoch == self._desired.data.epoch,
        )

    @property
    def _started(self) -> Mapping[str, str]:
        return notes_in(((self._scene.stateful_set or {}).get("spec") or {}).get("template") or {})

    def _contents(self, node: int) -> Contents:
        return contents_of(self._pods.get(node), self._claims.get(node), self._scene.stateful_set, self._desired.data)

    def _has_wished_data(self, node: int) -> bool:
        contents = self._contents(node)
        return any(
            one is not None and one.epoch == self._desired.data.epoch for one in (contents.data, contents.former)
        )

    @cached_property
    def _data(self) -> tuple[Work, str]:
        """Whether the wished data is in its place, restored or kept, for every wished broker; else how far that is."""
        is_in_place = any(self._has_wished_data(node) for node in self._claims)
        states = {node: self._data_of(node, is_in_place=is_in_place) for node in self._desired.nodes}
        for work in (Work.RUNNING, Work.FAILED, Work.ABSENT):
            named = [(node, detail) for node, (seen, detail) in states.items() if seen is work]
            if named:
                return work, self._say(*named[0])
        return Work.DONE, ""

    def _data_of(self, node: int, *, is_in_place: bool) -> tuple[Work, str]:
        if self._has_wished_data(node):
            return Work.DONE, ""
        if self._contents(node).data is None and (is_in_place or self._desired.data.epoch == 0):
            return Work.DONE, ""
        job = next((one for one in self._scene.jobs if name_in(one) == restore_name(self._desired, node)), None)
        if job is None or notes_in(job).get(RESTORE) != restore_wish(self._desired):
            return Work.ABSENT, ""
        work = job_state(job)
        if work is Work.FAILED:
            said = last_words(self._scene.pods, name_in(job))
            return work, said or "Fetching the backup failed without a word."
        return work, "" if work is Work.DONE else "The backup is being fetched."

    def _say(self, node: int, words: str) -> str:
        if self._is_single or not words:
            return words
        return f"{name_of(node, self._desired.size.brokers)}: {words}"

    @property
    def _was_rebalanced(self) -> bool:
        return notes_in(self._scene.namespace or {}).get(REBALANCED) == starts_of(self._scene.pods)

    @property
    def _starts(self) -> int:
        return int(notes_in(self._scene.stateful_set or {}).get(STARTS, 0))

    def _waits_for(self) -> str:
        namespace = self._scene.namespace or {}
        if meta(namespace).get("deletionTimestamp"):
            return _why_it_stays(namespace)
        if not self._wished_replicas and not self._pods:
            return ""
        for node in self._desired.nodes:
            pod, name = self._pods.get(node), name_of(node, self._desired.size.brokers)
            words = pod.waits_for(name) if pod is not None else f"{name} does not run."
            if words and (not self._scene.looks or node not in self._view.looks):
                return self._warning(pod, words)
            if words and node in self._view.looks and not self._view.looks[node].answered:
                return words
        if not self._scene.looks and not self._is_single:
            return "The brokers look for each other."
        return (self._view.waits_for() if self._scene.looks else "") or self._gateways_wait_for()

    def _gateways_wait_for(self) -> str:
        if self._is_entrance_current:
            return ""
        words = [pod.waits_for("A gateway") for pod in self._gateways if pod.digest == self._desired.digest]
        told = next((one for one in words if one), "")
        is_old_left = any(pod.digest != self._desired.digest for pod in self._gateways)
        return told or ("A gateway from before is ending." if is_old_left else "The gateways are being started.")

    def _warning(self, pod: Pod | None, words: str) -> str:
        """Return what Kubernetes warned of last about a pod that does not go on, else the words that there are."""
        is_told = pod is not None and (pod.is_engine_up or pod.is_stopping or not words.endswith("is being started."))
        if is_told:
            return words
        latest = max(
            self._scene.warnings,
            key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""),
            default=None,
        )
        if latest is None:
            return words
        said = str(latest.get("message", ""))
        if "exceeded quota" in said:
            return f"The region's quota does not allow the engine's pods: {sentence(said)}"
        return f"{words.removesuffix('.')}: {sentence(said)}"

    def _endpoint(self) -> Endpoint | None:
        host, (grpc, rest) = self._desired.host_name, self._ports()
        if self._scene.stateful_set is None or grpc is None:
            return None
        # Gateways of their own ask nobody for a token by REST, so the chart keeps that off.
        is_guarded = self._desired.gateway is Gateway.EMBEDDED
        has_rest = rest is not None and self._desired.release.serves_rest and is_guarded
        return Endpoint(grpc=f"{host}:{grpc}", rest=f"https://{host}:{rest}" if has_rest else "")

    def _ports(self) -> tuple[int | None, int | None]:
        """Return under which ports clients reach gRPC and REST: one edge has the same for all clusters."""
        if self._settings.edge not in SERVICE_EDGES:
            return self._settings.endpoint_port, self._settings.rest_port if self._settings.leads_to_rest else None
        ports = ((self._scene.service or {}).get("spec") or {}).get("ports") or ()
        told = {one.get("name"): one.get(SERVICE_EDGES[self._settings.edge]) for one in ports}
        return told.get("grpc"), told.get("rest")

    def _last_exit(self) -> str:
        """Return the last unexpected end of any broker."""
        brokers = self._desired.size.brokers
        told = [
            (str(pod.last_end.get("finishedAt", "")), pod.explain_end(name_of(node, brokers)))
            for node, pod in self._pods.items()
        ]
        return max((one for one in told if one[1]), default=("", ""))[1]

    def _age(self, one: Object) -> float:
        made = meta(one).get("creationTimestamp")
        return (self._scene.now - parse_time(str(made))).total_seconds() if made else 0.0


def restore_wish(desired: DesiredCluster) -> str:
    """Return what tells one restore of a cluster from another. How its partitions lie depends on how many brokers."""
    wish = {"epoch": desired.data.epoch, "source": ref_to_record(desired.data.source), "brokers": desired.size.brokers}
    return json.dumps(wish, sort_keys=True)


def restore_name(desired: DesiredCluster, node: int) -> str:
    return f"restore-{desired.data.epoch}-{node}"


def job_state(job: Object) -> Work:
    """Return how far a Job is."""
    conditions: list[Mapping[str, Any]] = (job.get("status") or {}).get("conditions") or []
    true = {one["type"] for one in conditions if one.get("status") == "True"}
    if "Complete" in true:
        return Work.DONE
    return Work.FAILED if "Failed" in true else Work.RUNNING


def starts_of(pods: tuple[Object, ...]) -> str:
    """Return which starts of the brokers there have been, as a note holds it."""
    running = [pod for pod in map(Pod, pods) if pod.node is not None]
    return ",".join(sorted(f"{pod.uid}/{pod.restarts}" for pod in running))


def _why_it_stays(namespace: Object) -> str:
    conditions = (namespace.get("status") or {}).get("conditions") or ()
    true = {one["type"]: one for one in conditions if one.get("status") == "True"}
    found = next((true[kind] for kind in _STUCK if kind in true), None)
    if found is None:
        return "The cluster's namespace is being removed."
    return f"The cluster's namespace cannot be removed yet: {sentence(str(found.get('message', '')))}"
