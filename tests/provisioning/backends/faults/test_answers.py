"""Answers that are lost, late, refused or old: one cluster in the end, and nothing removed that anybody needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import urllib3

from common.errors import Temporary
from provisioning.backends.kubernetes import api as api_module
from provisioning.backends.kubernetes.pods import Pod
from provisioning.errors import RegionUnreachable
from provisioning.planner import plan
from provisioning.spec import DesiredCluster
from tests.kubernetes import eventually
from tests.provisioning.backends.conftest import TRIO
from tests.provisioning.backends.contract import persist
from tests.provisioning.backends.faults.proxy import Asked, Said, hang, late, lose_answer, refuse, remember, say_again
from tests.provisioning.backends.faults.stage import Region

pytestmark = [pytest.mark.kubernetes]


def start(region: Region, desired: DesiredCluster, *, most: int = 60) -> int:
    """Start a cluster as turns do: again and again until nothing is in the way; how often it had to be tried."""
    for attempt in range(most):
        try:
            region.backend.start(desired, desired.nodes, epoch=region.next_epoch())
        except Temporary:
            # Another process of ours, for which no pause was asked and no breaker is open.
            region.backend = region.another_backend()
        else:
            return attempt
    raise AssertionError("it could not be started")


def writes(asked: Asked) -> bool:
    return asked.is_write


# --- F15: done, and the answer lost -----------------------------------------------------------------------------------


@pytest.mark.chaos
def test_what_was_done_and_whose_answer_was_lost_is_not_done_twice(region: Region) -> None:
    """Guarantee: no duplicate. Every single write of a first start is done and cut off once, the namespace first."""
    desired = region.desired()
    seen: set[str] = set()

    def is_new(asked: Asked) -> bool:
        place = f"{asked.method} {asked.path}"
        is_first = asked.is_write and place not in seen
        seen.add(place)
        return is_first

    with region.proxy.trouble(lose_answer, is_new) as lost:
        start(region, desired)
    region.settle(desired)

    assert len(lost.met) >= len(region.names_wished(desired)) - 2
    region.remove(desired)


@pytest.mark.chaos
def test_an_answer_that_stays_lost_fails_the_turn_and_the_next_one_goes_on(region: Region) -> None:
    """Guarantee: no duplicate, although the connection is cut again when it is tried again."""
    desired = region.desired()
    with region.proxy.trouble(lose_answer, writes, times=2), pytest.raises(RegionUnreachable):
        region.backend.start(desired, desired.nodes, epoch=region.next_epoch())
    first = region.uid(desired)
    start(region, desired)
    region.settle(desired)

    assert region.uid(desired) == first
    region.remove(desired)


@pytest.mark.chaos
def test_a_removal_whose_answer_was_lost_removes_once(region: Region) -> None:
    """Guarantee: the end is the same, and a cluster beside it stays."""
    desired, other = region.healthy(), region.healthy()
    before = region.uids(other)
    with region.proxy.trouble(lose_answer, lambda asked: asked.method == "DELETE", times=1) as lost:
        # Asked again, it is of another version: it is on its way out already, which the next look sees.
        persist(region.backend.delete, desired.cluster_id, epoch=region.next_epoch())

    assert len(lost.met) == 1
    assert region.judge.backend.observe(desired).waits_for or not region.judge.backend.observe(desired).exists
    assert region.uids(other) == before
    region.settle(other)
    region.remove(other)


# --- F16: late and refused --------------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_a_slow_server_costs_time_and_nothing_else(region: Region, healthy: DesiredCluster) -> None:
    """Guarantee: 2 s for every answer is no outage: no breaker opens, and the look is the same."""
    before = region.judge.backend.observe(healthy)
    with region.proxy.trouble(late(2.0), times=3) as met:
        sight = region.backend.observe(healthy)

    assert len(met.met) == 3
    assert plan(healthy, sight) is None
    assert (sight.available, sight.brokers) == (before.available, before.brokers)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("status", "reason", "headers"),
    [(429, "TooManyRequests", {"Retry_After": "9"}), (500, "InternalError", {}), (503, "ServiceUnavailable", {})],
    ids=["429", "500", "503"],
)
def test_a_refusal_in_the_middle_of_a_start_is_worth_another_try(
    region: Region, status: int, reason: str, headers: dict[str, str]
) -> None:
    """Guarantee: retried, never taken for an answer about the cluster; a pause that is asked for is kept."""
    desired, beside = region.desired(), region.another_backend()
    applied: list[Asked] = []

    def is_fifth_write(asked: Asked) -> bool:
        if asked.is_write:
            applied.append(asked)
        return asked.is_write and len(applied) == 5

    with region.proxy.trouble(refuse(status, reason, **headers), is_fifth_write) as met:
        with pytest.raises(Temporary) as refused:
            region.backend.start(desired, desired.nodes, epoch=region.next_epoch())
        if headers:
            asked = len(region.proxy.asked)
            with pytest.raises(Temporary, match="asked for a pause"):
                region.backend.observe(desired)
            assert len(region.proxy.asked) == asked
            assert refused.value.retry_after_seconds == 9
        assert len(met.met) == 1
        beside.start(desired, desired.nodes, epoch=region.next_epoch())
    region.settle(desired)
    region.remove(desired)


@pytest.mark.chaos
def test_a_conflict_is_read_again_and_tried_again(region: Region, healthy: DesiredCluster) -> None:
    """Guarantee: somebody who writes at the same time costs one more try, not an error."""
    before = region.uids(healthy)
    for plural in ("namespaces", "statefulsets"):
        with region.proxy.trouble(refuse(409, "Conflict"), patches(plural), times=2) as met:
            region.backend.start(healthy, healthy.nodes, epoch=region.next_epoch())
        assert len(met.met) == 2
    region.settle(healthy)

    assert region.uids(healthy) == before


def patches(plural: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.method == "PATCH" and asked.path.split("?")[0].split("/")[-2] == plural


@pytest.mark.chaos
def test_a_server_that_never_answers_opens_the_breaker_of_its_region_alone(
    region: Region, healthy: DesiredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee: three silences, and no more is asked; silence never reads as absence; another way in is served."""
    monkeypatch.setattr(api_module, "TIMEOUT", urllib3.Timeout(connect=2.0, read=0.5))
    with region.proxy.trouble(hang) as met:
        for _ in range(5):
            with pytest.raises(RegionUnreachable):
                region.backend.observe(healthy)
        assert len(met.met) == 3
        assert plan(healthy, region.judge.backend.observe(healthy)) is None
    region.settle(healthy)


# --- F22: old answers -------------------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_what_was_made_anew_is_not_removed_on_an_old_picture(region: Region) -> None:
    """Guarantee: a delete names the object it means. One that was made since is another one, and stays."""
    desired, said = region.healthy(), dict[str, Said]()
    with region.proxy.trouble(remember(said), lambda asked: not asked.is_write):
        region.backend.observe(desired)
        old = region.uid(desired)
    place = region.place(desired)
    before = region.uids(desired)
    # Somebody deletes a service, and it is made again, as another object.
    place.kubectl("delete", "service/gateway")
    region.another_backend().start(desired, (), epoch=region.next_epoch())
    after = region.uids(desired)
    assert after["Service/gateway"] != before["Service/gateway"]
    left_over = {"metadata": {"labels": place.get("configmap/engine-files")["metadata"]["labels"]}}
    place.kubectl("create", "configmap", "left-over")
    region.patch(desired, "configmap/left-over", left_over)
    listed = f"/api/v1/namespaces/{place.name}/configmaps"
    with region.proxy.trouble(remember(said), lambda asked: asked.method == "GET" and asked.path.startswith(listed)):
        region.another_backend().start(desired, (), epoch=region.next_epoch())
    place.kubectl("create", "configmap", "left-over")
    region.patch(desired, "configmap/left-over", left_over)
    made = place.get("configmap/left-over")["metadata"]["uid"]
    lists = {
        path: answer for path, answer in said.items() if path.startswith(listed) and "left-over" in str(answer.body)
    }
    assert lists

    with region.proxy.trouble(say_again(lists)) as met:
        region.another_backend().start(desired, (), epoch=region.next_epoch())

    assert any(asked.path in lists for asked in met.met)
    assert place.get("configmap/left-over")["metadata"]["uid"] == made
    region.another_backend().start(desired, (), epoch=region.next_epoch())
    region.settle(desired)
    assert region.uid(desired) == old
    region.remove(desired)


def test_an_old_look_neither_recreates_nor_stops_what_runs(region: Region) -> None:
    """Guarantee: a second API server that stands still shows a cluster before its start; nothing is made twice."""
    desired, said = region.desired(), dict[str, Said]()
    with region.proxy.trouble(remember(said), lambda asked: not asked.is_write):
        persist(region.backend.observe, desired)
        persist(region.backend.start, desired, desired.nodes, epoch=region.next_epoch())
    region.settle(desired)
    before, namespace = region.uids(desired), region.uid(desired)

    with region.proxy.trouble(say_again(said), lambda asked: not asked.is_write) as met:
        # "There is nothing", says the old look: so a turn begins to start it.
        assert not region.backend.observe(desired).exists
        with pytest.raises(Temporary):
            region.backend.start(desired, desired.nodes, epoch=region.next_epoch())
        assert met.met

    assert (region.uids(desired), region.uid(desired)) == (before, namespace)
    region.settle(desired)
    region.remove(desired)


@pytest.mark.chaos
def test_an_old_pod_is_not_taken_for_the_one_that_runs_now(region: Region) -> None:
    """Guarantee: a stop names the very pod that it saw; the one that came after it goes on."""
    desired, said = region.desired(size=TRIO), dict[str, Said]()
    region.judge.backend.start(desired, desired.nodes, epoch=region.next_epoch())
    assert eventually(lambda: ready(region, desired) == 3)
    with region.proxy.trouble(remember(said), reads_pods):
        region.backend.start(desired, (), epoch=region.next_epoch())
    region.place(desired).kubectl("delete", "pod/broker-0", "--wait=true")
    assert eventually(lambda: ready(region, desired) == 3)
    now = region.uids(desired)

    with region.proxy.trouble(say_again(said), reads_pods) as met, suppress(Temporary):
        region.backend.stop(desired, (0,), epoch=region.next_epoch())

    assert met.met
    assert region.uids(desired) == now
    region.backend.stop(desired, (0,), epoch=region.next_epoch())
    assert region.uids(desired).get("Pod/broker-0") != now["Pod/broker-0"]
    region.remove(desired)


def reads_pods(asked: Asked) -> bool:
    return asked.concerns("pods") and not asked.is_write


def ready(region: Region, desired: DesiredCluster) -> int:
    """How many of a cluster's brokers say that they are ready."""
    pods = [Pod(one) for one in region.place(desired).get("pods")["items"]]
    return sum(pod.is_ready for pod in pods)
