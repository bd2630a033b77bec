"""Somebody with kubectl edits or deletes what we own: it is put right, and what they added of their own stays theirs.

An edit of each of ten kinds is in test_kubernetes.py, with a real pod; here is every object of a cluster of all kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from provisioning.backends.kubernetes.kinds import INGRESS, OWNED
from provisioning.planner import StartEngine, plan
from provisioning.spec import DesiredCluster, Gateway
from tests.kubernetes import Kubernetes
from tests.provisioning.backends.contract import await_sight, persist, start
from tests.provisioning.backends.faults.stage import Ground, simulated
from tests.provisioning.backends.kubernetes_stage import make_settings

pytestmark = [pytest.mark.kubernetes]
NOTE = "somebody.example/note"
OUR_LABELS = ("app.kubernetes.io/managed-by", "flowplane.dev/cluster")


@pytest.fixture(scope="module")
def ground(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A region whose clusters have objects of every kind that this Kubernetes knows."""
    settings = simulated(make_settings(kubernetes, tmp_path_factory.mktemp("by-hand"), None))
    return Ground(kubernetes, replace(settings, values={**settings.values, "edge": {"kind": "ingress"}}))


@pytest.fixture(scope="module")
def cluster(ground: Ground) -> Iterator[DesiredCluster]:
    """A cluster with gateways of its own; each test leaves it as it is wished."""
    desired = ground.desired(gateway=Gateway.STANDALONE)
    start(ground.judge, desired)
    yield desired
    ground.remove(desired)


@pytest.fixture(autouse=True)
def steady(ground: Ground, cluster: DesiredCluster) -> Iterator[None]:
    """The guarantee before and after each fault: all is as it is wished, and the same brokers run."""
    ground.await_steady(cluster)
    before = brokers(ground, cluster)
    yield
    ground.await_steady(cluster)
    assert brokers(ground, cluster) == before


def brokers(ground: Ground, cluster: DesiredCluster) -> dict[str, str]:
    return {name: uid for name, uid in ground.uids(cluster).items() if name.startswith("Pod/broker-")}


def put_right(ground: Ground, cluster: DesiredCluster) -> None:
    """Take the turn that a drifted cluster leads to. A process puts things right only so often; this is another one."""
    await_sight(ground.judge.backend, cluster, lambda sight: plan(cluster, sight) == StartEngine(()))
    persist(ground.judge.another_backend().start, cluster, (), epoch=ground.next_epoch())


def test_the_cluster_has_objects_of_every_kind(ground: Ground, cluster: DesiredCluster) -> None:
    """So a kind that is new in the chart is edited and deleted here, too."""
    kinds = {one.partition("/")[0] for one in ground.rendered(cluster)}

    assert kinds == {kind.name for kind in (*OWNED, INGRESS)}


@pytest.mark.chaos
def test_every_object_that_is_deleted_is_there_again(ground: Ground, cluster: DesiredCluster) -> None:
    """Guarantee: whichever one is gone is missed, made again, and nothing else is made anew."""
    for name in ground.rendered(cluster):
        before = ground.uids(cluster)
        ground.place(cluster).kubectl("delete", name, "--cascade=orphan", "--wait=true")
        put_right(ground, cluster)
        after = ground.uids(cluster)

        assert after.keys() == before.keys()
        assert {one for one, uid in after.items() if uid != before[one]} == {name}
        assert ground.judge.backend.observe(cluster).entrance is True


def test_every_object_that_lost_our_labels_gets_them_back(ground: Ground, cluster: DesiredCluster) -> None:
    """Guarantee: what cannot be found by its labels is missed and marked again, not made twice and not removed."""
    before = ground.uids(cluster)
    ground.place(cluster).kubectl("label", *ground.rendered(cluster), *(f"{label}-" for label in OUR_LABELS))
    put_right(ground, cluster)

    assert ground.uids(cluster) == before


@pytest.mark.chaos
def test_what_others_write_into_our_objects_is_theirs(ground: Ground, cluster: DesiredCluster) -> None:
    """Guarantee: notes, labels, finalizers and entries of others are no drift, and outlast our putting things right."""
    place, names = ground.place(cluster), ground.rendered(cluster)
    place.kubectl("annotate", *names, f"{NOTE}=kept")
    place.kubectl("label", *names, f"{NOTE}=kept")
    for name in names:
        ground.patch(cluster, name, {"metadata": {"finalizers": ["somebody.example/x"]}})
    ground.patch(cluster, "configmap/engine-files", {"data": {"theirs": "kept"}})
    try:
        assert ground.judge.backend.observe(cluster).entrance is True
        place.edit("service/gateway", lambda one: one["spec"]["selector"].update(nobody="here"))
        place.edit("networkpolicy/default-deny", lambda one: one["spec"].update(ingress=[{}]))
        put_right(ground, cluster)
        found = place.get(*names)["items"]
        for one in found:
            about = one["metadata"]
            assert about["annotations"][NOTE] == about["labels"][NOTE] == "kept"
            assert "somebody.example/x" in about["finalizers"]
        assert place.get("configmap/engine-files")["data"]["theirs"] == "kept"
    finally:
        for name in names:
            ground.patch(cluster, name, {"metadata": {"finalizers": None}})


CONTAINER = ("spec", "template", "spec", "containers", 0)
# What is listed there belongs together: one more port, variable or volume makes something else of it.
ADDITIONS: dict[str, tuple[str, tuple[str | int, ...], dict[str, Any]]] = {
    "a port": ("service/gateway", ("spec", "ports"), {"name": "theirs", "port": 4242}),
    "a broker's variable": ("statefulset/broker", (*CONTAINER, "env"), {"name": "THEIRS", "value": "1"}),
    "a gateway's variable": ("deployment/gateway", (*CONTAINER, "env"), {"name": "THEIRS", "value": "1"}),
    "a container": (
        "statefulset/broker",
        CONTAINER[:-1],
        {"name": "theirs", "image": "localhost/tools:testbed", "securityContext": {"runAsNonRoot": True}},
    ),
    "a rule": ("ingress/grpc", ("spec", "rules"), {"host": "theirs.example"}),
}


@pytest.mark.chaos
@pytest.mark.parametrize("what", ADDITIONS)
def test_what_others_add_to_a_list_of_ours_goes(ground: Ground, cluster: DesiredCluster, what: str) -> None:
    """Guarantee: put right at once, not tried again and again: a server-side apply alone leaves what others own."""
    name, path, added = ADDITIONS[what]
    place = ground.place(cluster)
    before = place.get(name)
    place.edit(name, lambda one: part_of(one, path).append(added))
    put_right(ground, cluster)
    after = place.get(name)

    assert part_of(after, path) == part_of(before, path)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert ground.judge.backend.observe(cluster).entrance is True


def part_of(found: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        found = found[step]
    return found


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("deployment/gateway", lambda one: one["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=1)),
        ("deployment/gateway", lambda one: one["spec"].update(replicas=0)),
        ("poddisruptionbudget/gateway", lambda one: one["spec"].update(maxUnavailable=2)),
        ("ingress/grpc", lambda one: one["spec"]["rules"][0].update(host="theirs.example")),
    ],
)
def test_an_edit_of_the_kinds_that_only_some_clusters_have_is_undone(
    ground: Ground, cluster: DesiredCluster, name: str, change: Callable[[Any], object]
) -> None:
    """Guarantee: as for the ten others."""
    place = ground.place(cluster)
    before = place.get(name)
    place.edit(name, change)
    put_right(ground, cluster)

    assert place.get(name)["spec"] == before["spec"]


@pytest.mark.parametrize(
    "labels",
    [
        {"pod-security.kubernetes.io/enforce": "privileged"},
        {"pod-security.kubernetes.io/enforce": None},
        {"pod-security.kubernetes.io/warn": None, "app.kubernetes.io/instance": "another"},
    ],
    ids=["opened", "without", "others"],
)
def test_a_namespace_that_somebody_opened_is_closed_again(
    ground: Ground, cluster: DesiredCluster, labels: dict[str, str | None]
) -> None:
    """Guarantee: its labels say what pods may do there, so they are ours as much as anything in it; others' stay."""
    name = f"fp-{cluster.cluster_id}"
    before = ground.cluster.get("namespace", name)["metadata"]["labels"]
    change = {"metadata": {"labels": {**labels, NOTE: "kept"}}}
    ground.cluster.kubectl("patch", "namespace", name, "--type=merge", "-p", json.dumps(change))
    put_right(ground, cluster)

    assert ground.cluster.get("namespace", name)["metadata"]["labels"] == {**before, NOTE: "kept"}
