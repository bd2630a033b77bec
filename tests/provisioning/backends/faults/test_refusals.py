"""What stands in a region's way and is not ours: foreign objects, foreign finalizers, no room; and mistakes of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import urllib3
from django.db.models.functions import Now

from common.errors import Permanent
from provisioning import planner, services
from provisioning.backends.kubernetes import api as api_module
from provisioning.backends.kubernetes import fence, system
from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.errors import Fenced
from provisioning.models import Cluster
from provisioning.spec import DesiredCluster
from provisioning.states import OperationState, StepKind
from provisioning.verdicts import Verdict
from tests.kubernetes import eventually
from tests.provisioning.backends.contract import PATIENCE_SECONDS, await_sight, persist
from tests.provisioning.backends.faults.customers import SLUG, Customers, desired_of, serve_with, turns
from tests.provisioning.backends.faults.proxy import Asked, Passage, pass_on
from tests.provisioning.backends.faults.stage import Region
from tests.provisioning.kills import take_turn

pytestmark = [pytest.mark.kubernetes]
SHORT_ROUNDS = 3


# --- F25: somebody else's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        {"app.kubernetes.io/managed-by": "flowplane"},
        {"flowplane.dev/cluster": "OURS"},
        {"app.kubernetes.io/managed-by": "flowplane", "flowplane.dev/cluster": "5eed0f1a-0000-4000-8000-000000000000"},
    ],
    ids=["no cluster", "no manager", "another cluster"],
)
def test_a_namespace_that_is_ours_by_half_is_neither_used_nor_removed(region: Region, labels: dict[str, str]) -> None:
    """Guarantee: without both labels it is somebody else's. (One without any: test_kubernetes.py.)"""
    desired = region.desired()
    name = f"fp-{desired.cluster_id}"
    marks = {key: value.replace("OURS", str(desired.cluster_id)) for key, value in labels.items()}
    region.cluster.apply(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}})
    )
    before = region.cluster.get("namespace", name)["metadata"]
    for call in (
        lambda: persist(region.backend.observe, desired),
        lambda: persist(region.backend.start, desired, desired.nodes, epoch=region.next_epoch()),
        lambda: persist(region.backend.delete, desired.cluster_id, epoch=region.next_epoch()),
    ):
        with pytest.raises(Permanent, match="not this cluster's"):
            call()
    after = region.cluster.get("namespace", name)["metadata"]
    region.cluster.kubectl("delete", "namespace", name, "--wait=false")

    assert after == before


@pytest.mark.chaos
def test_what_took_the_place_of_a_namespace_while_it_was_being_removed_stays(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee: a delete names the UID it saw. Between the look and the delete somebody replaces the namespace."""
    # A namespace takes some seconds to go, and the answer waits for that.
    monkeypatch.setattr(api_module, "TIMEOUT", urllib3.Timeout(connect=2.0, read=90.0))
    desired = region.healthy()
    name, foreign = f"fp-{desired.cluster_id}", ""

    def replaced_first(passage: Passage) -> None:
        nonlocal foreign
        region.cluster.kubectl("delete", "namespace", name, "--wait=true")
        region.cluster.kubectl("create", "namespace", name)
        foreign = region.cluster.get("namespace", name)["metadata"]["uid"]
        pass_on(passage)

    def is_removal(asked: Asked) -> bool:
        return asked.method == "DELETE"

    with region.proxy.trouble(replaced_first, is_removal, times=1) as met:
        assert not region.backend.delete(desired.cluster_id, epoch=region.next_epoch())
    left = region.cluster.get("namespace", name)["metadata"]
    region.cluster.kubectl("delete", "namespace", name, "--wait=false")

    assert len(met.met) == 1
    assert left["uid"] == foreign
    assert "deletionTimestamp" not in left


def test_what_an_older_turn_makes_while_a_removal_is_being_closed_is_not_left_behind(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee: who closes has looked after writing the fence; who makes looks at the fence after that."""
    # The answer waits for a whole start.
    monkeypatch.setattr(api_module, "TIMEOUT", urllib3.Timeout(connect=2.0, read=90.0))
    desired, older = region.desired(), region.next_epoch()

    def after_an_older_turn(passage: Passage) -> None:
        region.judge.backend.start(desired, (), epoch=older)
        pass_on(passage)

    def is_fence(asked: Asked) -> bool:
        return asked.path.endswith("/configmaps/fences")

    with region.proxy.trouble(after_an_older_turn, is_fence, times=1) as met:
        is_over = region.backend.delete(desired.cluster_id, epoch=region.next_epoch())
    assert len(met.met) == 1
    assert not is_over
    assert region.uid(desired)
    assert eventually(
        lambda: persist(region.backend.delete, desired.cluster_id, epoch=region.next_epoch()), seconds=PATIENCE_SECONDS
    )
    assert not region.uid(desired)


def test_many_that_are_removed_at_once_are_all_remembered_with_a_request_each(region: Region) -> None:
    """Guarantee: they write one object, and none begins again for another's sake."""
    ids = [uuid4() for _ in range(40)]

    def requests_for(cluster_id: UUID) -> int:
        api = region.another_backend()._api
        fence.remember(api, cluster_id, 7, is_first=True)
        return api.requests

    fence.remember(region.backend._api, uuid4(), 1, is_first=True)
    with ThreadPoolExecutor(len(ids)) as pool:
        assert set(pool.map(requests_for, ids)) == {1}
    known = region.cluster.get("configmap/fences", "-n", "flowplane-system")["data"]
    assert {known[str(one)] for one in ids} == {"7"}


def test_a_removal_that_a_newer_one_has_overtaken_is_refused_whatever_it_knew(region: Region) -> None:
    """Guarantee: the highest epoch stays; who guesses that there was none before is told so."""
    api, one = region.backend._api, uuid4()
    fence.remember(api, one, 7, is_first=True)
    for is_first in (True, False):
        with pytest.raises(Fenced):
            fence.remember(api, one, 6, is_first=is_first)
        fence.remember(api, one, 7, is_first=is_first)
    fence.remember(api, one, 8, is_first=True)
    fence.remember(api, one, 9, is_first=False)
    fence.require_not_deleted(api, one, 9)
    with pytest.raises(Fenced):
        fence.require_not_deleted(api, one, 8)


@pytest.mark.parametrize("data", [None, {}], ids=["none", "empty, as by a release before"])
def test_where_no_removals_are_remembered_a_place_is_made_for_them(
    region: Region, monkeypatch: pytest.MonkeyPatch, data: dict[str, str] | None
) -> None:
    monkeypatch.setattr(fence, "FENCES", "fences-of-a-test")
    api, one, other = region.backend._api, uuid4(), uuid4()
    if data is not None:
        system.ensure_config_map(api, "fences-of-a-test", data)
    try:
        fence.remember(api, one, 7, is_first=True)
        fence.remember(api, other, 7, is_first=False)
        assert [fence._remembered(api)[str(each)] for each in (one, other)] == ["7", "7"]
        monkeypatch.setattr(fence, "MAX_REMEMBERED", 1)
        fence.remember(api, uuid4(), 7, is_first=True)
        assert len(fence._remembered(api)) == 2, "one, and what it is about"
    finally:
        region.cluster.kubectl("-n", "flowplane-system", "delete", "configmap/fences-of-a-test")


# --- F26: what does not go --------------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_a_foreign_finalizer_blocks_one_removal_and_is_left_where_it_is(region: Region) -> None:
    """Guarantee: blocked, and says by what; others come and go; the finalizer is its owner's to take away."""
    stuck, other = region.healthy(), region.desired()
    finalizers = {"metadata": {"finalizers": ["somebody.example/x"]}}
    region.patch(stuck, "service/gateway", finalizers)
    try:
        region.backend.delete(stuck.cluster_id, epoch=region.next_epoch())
        sight = await_sight(region.backend, stuck, lambda sight: "somebody.example/x" in sight.waits_for)
        assert "cannot be removed yet" in sight.waits_for
        for _ in range(3):
            assert not region.backend.delete(stuck.cluster_id, epoch=region.next_epoch())
        region.backend.start(other, other.nodes, epoch=region.next_epoch())
        region.settle(other)
        region.backend.delete(other.cluster_id, epoch=region.next_epoch())
        assert eventually(lambda: region.uid(other) == "", seconds=60)
        assert region.place(stuck).get("service/gateway")["metadata"]["finalizers"] == ["somebody.example/x"]
    finally:
        region.patch(stuck, "service/gateway", {"metadata": {"finalizers": None}})
    assert eventually(
        lambda: persist(region.backend.delete, stuck.cluster_id, epoch=region.next_epoch()), seconds=PATIENCE_SECONDS
    )


def test_a_deletion_that_a_namespace_holds_up_says_by_what_and_ends_when_that_is_gone(
    region: Region, customers: Customers
) -> None:
    """Guarantee: it stays under way and is told for what it is, first as one like any other and stuck in time."""
    customer = customers.new()
    cluster = customer.healthy()
    wish = desired_of(cluster.pk)
    there = {f"{name.replace('/', ' ')}" for name in region.names(wish) if not name.startswith("PersistentVolumeClaim")}
    region.patch(wish, "service/gateway", {"metadata": {"finalizers": ["somebody.example/x"]}})
    operation = customer.ask(services.request_deletion, cluster, purge=True)
    try:
        for _ in turns(cluster):
            shown = customer.look(operation)
            assert (shown.state, shown.error_code) == (OperationState.RUNNING, "")
            if "somebody.example/x" in shown.waits_for:
                break
        assert "cannot be removed yet" in shown.waits_for
        for _ in range(4):
            take_turn(cluster.pk)
        # Asked for again and again, as each removal is: that alone is no reason to be worried.
        operation.steps.filter(kind=StepKind.REMOVE).update(started_at=Now())
        assert customer.look(operation).verdict is Verdict.PROGRESSING
        operation.steps.filter(kind=StepKind.REMOVE).update(started_at=Now() - timedelta(hours=1))
        take_turn(cluster.pk)
        shown = customer.look(operation)
        assert (shown.state, shown.verdict) == (OperationState.RUNNING, Verdict.STUCK)
        assert "somebody.example/x" in shown.waits_for
        assert shown.receipt is not None
        assert {f"Namespace fp-{cluster.pk}", *there} <= set(shown.receipt["removed"])
    finally:
        region.patch(wish, "service/gateway", {"metadata": {"finalizers": None}})
    customer.run(cluster)

    ended = customer.look(operation)
    assert (ended.state, ended.is_confirmed, ended.verdict) == (OperationState.SUCCEEDED, True, None)
    assert ended.receipt == shown.receipt
    assert region.uid(wish) == ""


BROKEN_API = {
    "apiVersion": "apiregistration.k8s.io/v1",
    "kind": "APIService",
    "metadata": {"name": "v1.broken.example"},
    "spec": {
        "group": "broken.example",
        "version": "v1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,
        "service": {"name": "nobody", "namespace": "kube-system"},
    },
}


@pytest.mark.chaos
def test_a_broken_extension_of_the_region_blocks_removals_alone(region: Region) -> None:
    """Guarantee: it says so, new clusters come up meanwhile, and removals go on by themselves when it is mended."""
    stuck, other = region.healthy(), region.desired()
    region.cluster.apply(json.dumps(BROKEN_API))
    try:
        region.backend.delete(stuck.cluster_id, epoch=region.next_epoch())
        sight = await_sight(region.backend, stuck, lambda sight: "broken.example" in sight.waits_for)
        assert "cannot be removed yet" in sight.waits_for
        region.backend.start(other, other.nodes, epoch=region.next_epoch())
        region.settle(other)
        assert region.cluster.get("namespace", f"fp-{stuck.cluster_id}")["spec"]["finalizers"] == ["kubernetes"]
    finally:
        region.cluster.kubectl("delete", "apiservice", "v1.broken.example")
    assert eventually(lambda: persist(region.backend.delete, stuck.cluster_id, epoch=region.next_epoch()), seconds=120)
    region.remove(other)


# --- F27: gone and made again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_long",
    [False, pytest.param(True, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])],
    ids=["short", "long"],
)
def test_a_name_that_is_taken_again_at_once_never_meets_what_is_still_going(
    customers: Customers, is_long: bool, request: pytest.FixtureRequest
) -> None:
    """Guarantee: a namespace carries a fresh id, so no creation waits for an earlier cluster of the same name."""
    rounds = request.config.getoption("rounds") if is_long else SHORT_ROUNDS
    customer, made = customers.new(), list[Cluster]()
    for _ in range(rounds):
        operation = customer.create(name="orders")
        outcome = take_turn(operation.cluster_id)
        assert isinstance(outcome.action, planner.StartEngine)
        assert (outcome.executed, outcome.error_code) == (True, "")
        customer.ask(services.request_deletion, operation.cluster, purge=True)
        assert take_turn(operation.cluster_id).error_code == ""
        made.append(operation.cluster)
    for cluster in made:
        customer.run(cluster)

    assert len({cluster.pk for cluster in made}) == rounds
    assert all(cluster.deleted_at is not None for cluster in made)
    for cluster in made:
        assert customers.region.cluster.get("namespaces", "-l", f"flowplane.dev/cluster={cluster.pk}")["items"] == []


# --- F28: no room -----------------------------------------------------------------------------------------------------


def without_room(customers: Customers) -> None:
    """Nobody has a node like that."""
    _values(customers, scheduling={"nodeSelector": {"type": "nowhere"}})


def without_volume(customers: Customers) -> None:
    """Nobody makes volumes of that class."""
    _values(customers, storage={"className": "nobodys"})


def without_room_for_gateways(customers: Customers) -> None:
    """The brokers find room, and whoever is to answer their clients does not."""
    _values(customers, gateway={"mode": "standalone", "memoryMiB": 900_000})


def _values(customers: Customers, **values: object) -> None:
    settings = customers.region.direct
    serve_with(SLUG, replace(settings, values={**settings.values, **values}))


NO_ROOM = [
    (without_room, "finds no node with room"),
    (without_volume, "waits for its volume"),
    (without_room_for_gateways, "A gateway finds no node with room"),
]


@pytest.mark.chaos
@pytest.mark.parametrize(("take_away", "words"), NO_ROOM, ids=["node", "volume", "gateways"])
def test_a_cluster_that_finds_no_room_is_told_why_and_can_be_called_off(
    customers: Customers, take_away: Callable[[Customers], None], words: str
) -> None:
    """Guarantee: it stays under way with the reason shown, is stuck in time, and leaves nothing when it is given up."""
    take_away(customers)
    customer = customers.new()
    operation = customer.create()
    for _ in turns(operation.cluster):
        shown = customer.look(operation)
        if words in shown.waits_for:
            break
    assert (shown.state, shown.error_code) == (OperationState.RUNNING, "")
    operation.steps.filter(finished_at=None).update(started_at=Now() - timedelta(hours=1))
    take_turn(operation.cluster_id)
    shown = customer.look(operation)
    assert (shown.state, shown.verdict, words in shown.waits_for) == (OperationState.RUNNING, Verdict.STUCK, True)

    customer.ask(services.request_deletion, operation.cluster, purge=True)
    customer.run(operation.cluster)

    assert operation.cluster.deleted_at is not None
    assert (
        customers.region.cluster.get("namespaces", "-l", f"flowplane.dev/cluster={operation.cluster_id}")["items"] == []
    )


@pytest.mark.chaos
def test_a_quota_of_the_region_is_told_and_gone_round_when_it_is_raised(region: Region) -> None:
    """Guarantee: no pod is no outage of ours: the quota is named, and it comes up by itself when there is room."""
    desired = region.healthy()
    place = region.place(desired)
    place.kubectl("create", "quota", "owners", "--hard=pods=0")
    place.kubectl("delete", "pod/broker-0", "--wait=true")
    try:
        sight = await_sight(region.backend, desired, lambda sight: "quota does not allow" in sight.waits_for)
        assert not sight.available
        assert "owners" in sight.waits_for
    finally:
        place.kubectl("delete", "quota", "owners")
    region.settle(desired)
    region.remove(desired)


# --- F32: a wish that is not one --------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_a_database_that_wishes_everything_away_removes_nothing(customers: Customers) -> None:
    """Guarantee: more removals than ever should be, which nobody asked for, stop before the first."""
    rows = [customers.new().healthy() for _ in range(4)]
    before = [customers.region.uids(desired_of(row.pk)) for row in rows]
    Cluster.objects.filter(pk__in=[row.pk for row in rows]).update(lifecycle="deleted", delete_after=Now())
    rounds = [[take_turn(row.pk) for row in rows] for _ in range(3)]

    assert not any(outcome.executed for outcomes in rounds for outcome in outcomes)
    told = [{outcome.error_code for outcome in outcomes} for outcomes in rounds]
    assert told == [{"removals_held"}, {"held_back"}, {"held_back"}]
    Cluster.objects.filter(pk__in=[row.pk for row in rows]).update(lifecycle="running", delete_after=None)
    assert [customers.region.uids(desired_of(row.pk)) for row in rows] == before
    for row in rows:
        customers.region.settle(desired_of(row.pk))


def test_a_chart_that_came_torn_removes_nothing(region: Region, healthy: DesiredCluster, tmp_path: Path) -> None:
    """Guarantee: what is not rendered is removed, but never because nothing is rendered."""
    before = region.uids(healthy)
    shutil.copytree(region.settings.chart, tmp_path / "chart")
    for template in (tmp_path / "chart" / "templates").glob("*.yaml"):
        template.unlink()
    torn = KubernetesBackend(replace(region.settings, chart=tmp_path / "chart"))
    for call in (
        lambda: torn.observe(healthy),
        lambda: torn.start(healthy, (), epoch=region.next_epoch()),
        lambda: torn.start(healthy, healthy.nodes, epoch=region.next_epoch()),
    ):
        with pytest.raises(Permanent, match="does not make all"):
            call()

    assert region.uids(healthy) == before
    region.settle(healthy)


def test_labels_that_somebody_wiped_make_a_cluster_nobodys_and_nothing_is_removed(
    region: Region, healthy: DesiredCluster
) -> None:
    """Guarantee: a cluster that cannot be recognized is neither absent nor made again; with its labels it is well."""
    before, name = region.uids(healthy), f"fp-{healthy.cluster_id}"
    labels = {"app.kubernetes.io/managed-by": "flowplane", "flowplane.dev/cluster": str(healthy.cluster_id)}
    region.cluster.kubectl("label", "namespace", name, *(f"{key}-" for key in labels))
    try:
        assert not [find for find in region.backend.inventory() if find.cluster_id == healthy.cluster_id and find.card]
        for call in (
            lambda: persist(region.backend.observe, healthy),
            lambda: persist(region.backend.start, healthy, healthy.nodes, epoch=region.next_epoch()),
            lambda: persist(region.backend.delete, healthy.cluster_id, epoch=region.next_epoch()),
        ):
            with pytest.raises(Permanent, match="give it its labels back"):
                call()
    finally:
        region.cluster.kubectl("label", "namespace", name, *(f"{key}={value}" for key, value in labels.items()))

    assert region.uids(healthy) == before
    region.settle(healthy)
