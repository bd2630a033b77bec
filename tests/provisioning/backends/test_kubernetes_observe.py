"""What is made of a cluster's objects: pure, on objects as the API server writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from provisioning.backends.engine.health import Look, Topology
from provisioning.backends.engine.origins import Contents, Origin
from provisioning.backends.kubernetes.observe import Observation, Scene, job_state, restore_wish, starts_of
from provisioning.backends.kubernetes.pods import Pod, note_of, sentence
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.planner import LetGo, RemoveCluster, RestoreData, StartEngine, StopEngine, Wait, plan
from provisioning.spec import BackupRef, DesiredCluster, DesiredData, Gateway, Lifecycle, ObservedCluster, Work
from provisioning.states import StepKind
from tests.provisioning.backends.conftest import SMALL, TRIO, desired_release

CLUSTER_ID = UUID("5d3b1c9e-6c4f-4f5e-9d2b-0f6f8f1f2a3b")
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
SETTINGS = KubernetesSettings("r", None, Path("chart"), Path("ca"), Path("key"))
WISH = DesiredCluster(
    CLUSTER_ID, 1, Lifecycle.RUNNING, desired_release("8.5.8"), SMALL, f"{CLUSTER_ID}/1", f"{CLUSTER_ID}.region.example"
)
THREE = replace(WISH, size=TRIO)
RESTORED = replace(WISH, data=DesiredData(1, BackupRef(CLUSTER_ID, 7)))
LABELS = {"app.kubernetes.io/component": "broker", "flowplane.dev/cluster": str(CLUSTER_ID)}


def stamp(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def namespace(**about: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"fp-{CLUSTER_ID}", "labels": LABELS, **about}}


def workload(replicas: int = 1, release: str = "8.5.8", epoch: int = 0, made_ago: float = 60) -> dict[str, Any]:
    started = {"flowplane.dev/digest": WISH.digest, "flowplane.dev/release": release}
    started["flowplane.dev/data-epoch"] = str(epoch)
    return {
        "metadata": {
            "name": "broker",
            "creationTimestamp": stamp(made_ago),
            "annotations": {"flowplane.dev/starts": "1"},
        },
        "spec": {"replicas": replicas, "template": {"metadata": {"annotations": started}}},
    }


def pod(node: int = 0, wish: DesiredCluster = WISH, made_ago: float = 60, **status: Any) -> dict[str, Any]:
    notes = {
        "flowplane.dev/digest": wish.digest,
        "flowplane.dev/release": wish.release.version,
        "flowplane.dev/data-epoch": str(wish.data.epoch),
    }
    about = {"name": f"broker-{node}", "uid": f"u{node}", "labels": LABELS, "annotations": notes}
    return {"metadata": {**about, "creationTimestamp": stamp(made_ago)}, "status": {"phase": "Running", **status}}


def said(word: str, code: int = 0) -> list[dict[str, Any]]:
    return [{"name": "prepare-data", "state": {"terminated": {"exitCode": code, "message": word}}}]


def ready(node: int = 0, word: str = "data 8.5.8 0\nformer none\n", wish: DesiredCluster = WISH) -> dict[str, Any]:
    return pod(
        node,
        wish,
        conditions=[{"type": "Ready", "status": "True"}],
        initContainerStatuses=said(word),
        containerStatuses=[{"name": "broker", "state": {"running": {}}, "restartCount": 0}],
    )


def claim(node: int = 0, contents: Contents | None = None) -> dict[str, Any]:
    notes = {name: value for name, value in note_of(contents).items() if value is not None} if contents else {}
    return {"metadata": {"name": f"data-broker-{node}", "labels": LABELS, "annotations": notes}}


def seen(wish: DesiredCluster = WISH, **parts: Any) -> ObservedCluster:
    whole = {"namespace": namespace(), "stateful_set": workload(), "claims": (claim(),), "now": NOW, **parts}
    return Observation(wish, Scene(**whole), SETTINGS).report()


def test_nothing_is_there() -> None:
    sight = Observation(WISH, Scene(now=NOW), SETTINGS).report()

    assert not sight.exists
    assert sight.endpoint is None
    assert plan(WISH, sight) == StartEngine((0,))
    assert Observation(RESTORED, Scene(now=NOW), SETTINGS).report().data is Work.ABSENT


def test_all_is_well() -> None:
    sight = seen(pods=(ready(),))

    assert sight.available
    assert sight.healthy_partitions == 1
    assert sight.waits_for == ""
    assert sight.entrance is None
    assert sight.restarts == 1
    assert sight.endpoint is not None
    assert sight.endpoint.grpc == f"{CLUSTER_ID}.region.example:443"
    assert sight.endpoint.rest == ""
    assert plan(WISH, sight) is None


def test_a_single_broker_that_has_just_become_ready_is_asked_whether_it_leads() -> None:
    fresh, old = ready(), ready()
    for one, seconds in ((fresh, 2), (old, 300)):
        one["status"]["conditions"][0]["lastTransitionTime"] = stamp(seconds)

    def asked(one: dict[str, Any]) -> tuple[int, ...]:
        return Observation(WISH, Scene(namespace(), workload(), (one,), now=NOW), SETTINGS).asked

    assert asked(fresh) == (0,)
    assert asked(old) == ()
    unled = seen(pods=(fresh,), looks={0: Look(True, True, ())})
    assert not unled.available
    assert unled.waits_for == "The engine's partition 1 has no healthy leader yet."
    unwell = seen(pods=(fresh,), looks={0: Look(True, False, (1,))})
    assert not unwell.available
    assert unwell.waits_for == "The engine does not call itself healthy yet."
    assert seen(pods=(fresh,), looks={0: Look(True, True, (1,))}).available


def test_where_an_edge_leads_to_rest_it_is_told() -> None:
    wish = replace(WISH, release=desired_release("8.6.0"))
    scene = Scene(namespace(), workload(), (ready(wish=wish),), (claim(),), now=NOW)
    endpoint = Observation(wish, scene, replace(SETTINGS, rest_port=8443)).report().endpoint

    assert endpoint is not None
    assert endpoint.rest == f"https://{CLUSTER_ID}.region.example:8443"
    unguarded = replace(wish, gateway=Gateway.STANDALONE)
    endpoint = Observation(unguarded, scene, replace(SETTINGS, rest_port=8443)).report().endpoint
    assert endpoint is not None
    assert endpoint.rest == "", "gateways of their own answer REST to anybody"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes fit"}],
            },
            "The engine finds no node with room for it: 0/1 nodes fit.",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "unbound PersistentVolumeClaims"},
                ],
            },
            "The engine waits for its volume: unbound PersistentVolumeClaims.",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": 'storageclass "a" not found'}],
            },
            'The engine waits for its volume: storageclass "a" not found.',
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "prepare-data", "image": "a/b:c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
                ]
            },
            "The engine waits for the engine's image, which the region cannot fetch: a/b:c.",
        ),
        (
            {
                "initContainerStatuses": [
                    {
                        "name": "prepare-data",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 65, "message": "The note cannot be read."}},
                    }
                ]
            },
            "The note cannot be read.",
        ),
        (
            {"initContainerStatuses": [{"name": "prepare-data", "state": {"running": {}}}]},
            "The engine's data is being put in its place.",
        ),
        (
            {
                "initContainerStatuses": said("data 8.5.8 0\nformer none"),
                "containerStatuses": [{"name": "broker", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
            },
            "The engine keeps ending; the region starts it again after a while.",
        ),
        (
            {
                "initContainerStatuses": said("data 8.5.8 0\nformer none"),
                "containerStatuses": [{"name": "broker", "state": {"running": {}}}],
            },
            "The engine's process runs and does not answer yet.",
        ),
        (
            {"containerStatuses": [{"name": "broker", "state": {"waiting": {"reason": "ContainerCreating"}}}]},
            "The engine is being started.",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "broker",
                        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}},
                    }
                ]
            },
            "The engine cannot be started: no secret.",
        ),
    ],
)
def test_what_a_pod_waits_for(status: dict[str, Any], words: str) -> None:
    sight = seen(pods=(pod(**status),))

    assert sight.waits_for == words
    assert sight.running
    assert not sight.available
    assert plan(WISH, sight) == Wait(plan(WISH, sight).step)  # type: ignore[union-attr]


def test_pods_that_a_quota_refuses_are_told_from_the_warning() -> None:
    warnings = (
        {"lastTimestamp": stamp(20), "message": "older"},
        {"lastTimestamp": stamp(5), "message": 'pods "broker-0" is forbidden: exceeded quota: engine'},
    )
    scene = Scene(namespace(), workload(made_ago=20), now=NOW)
    assert Observation(WISH, scene, SETTINGS).needs_warnings
    sight = Observation(WISH, replace(scene, warnings=warnings), SETTINGS).report()

    assert sight.waits_for.startswith("The region's quota does not allow the engine's pods")
    assert not sight.running
    assert not Observation(WISH, replace(scene, stateful_set=workload(made_ago=1)), SETTINGS).needs_warnings


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"exitCode": 137, "reason": "Error"}, "The engine ended without being told to: its process was killed."),
        ({"exitCode": 137, "reason": "OOMKilled"}, "The engine ended without being told to: it ran out of memory."),
        ({"exitCode": 3, "reason": "Error"}, "The engine ended without being told to: it ran out of memory."),
        ({"exitCode": 1, "reason": "Error"}, "The engine ended without being told to: it gave up (exit code 1)."),
    ],
)
def test_how_an_engine_ended(end: dict[str, Any], words: str) -> None:
    container = {"name": "broker", "state": {"running": {}}, "lastState": {"terminated": end}, "restartCount": 1}
    sight = seen(pods=(pod(containerStatuses=[container]),))

    assert sight.last_exit == words
    assert sight.restarts == 2


def test_what_a_container_writes_into_its_log_is_never_looked_at() -> None:
    """Only the last word of our own scripts and the kubelet's own reasons become sentences."""
    secret = "customer=4711"
    end = {"exitCode": 1, "reason": "Error", "message": secret}
    container = {"name": "broker", "state": {"terminated": end}, "lastState": {"terminated": end}, "restartCount": 1}
    sight = seen(pods=(pod(containerStatuses=[container]),))

    assert secret not in repr(sight)


def test_a_pod_that_was_told_to_stop() -> None:
    going = ready()
    going["metadata"] |= {"deletionTimestamp": stamp(-20), "deletionGracePeriodSeconds": 30}
    sight = seen(replace(WISH, lifecycle=Lifecycle.SUSPENDED), pods=(going,))

    assert sight.broker(0).stopping
    assert sight.broker(0).stopping_seconds == 10
    assert not sight.available
    assert sight.waits_for == "The engine is stopping."


def test_drift_reads_as_a_closed_entrance_for_which_everything_is_applied_again() -> None:
    sight = seen(pods=(ready(),), drift="Service gateway is missing")

    assert sight.entrance is False
    assert plan(WISH, sight) == StartEngine(())


def test_drift_is_looked_for_only_where_all_brokers_were_started_as_wished() -> None:
    def is_worth_a_look(wish: DesiredCluster, *pods: dict[str, Any]) -> bool:
        return Observation(wish, Scene(namespace(), workload(), pods, now=NOW), SETTINGS).is_as_wished

    assert is_worth_a_look(WISH, ready())
    assert not is_worth_a_look(WISH, pod())
    assert not is_worth_a_look(replace(WISH, license_key="other"), ready())
    # What is not restored yet must not become the template that a pod comes back with.
    assert not is_worth_a_look(RESTORED, ready())
    assert not is_worth_a_look(THREE, ready(0, wish=THREE), ready(1, wish=THREE))


def test_what_does_not_come_up_is_compared_after_a_while_once_it_was_started_as_wished() -> None:
    def is_late(wish: DesiredCluster, *pods: dict[str, Any]) -> bool:
        return Observation(wish, Scene(namespace(), workload(), pods, now=NOW), SETTINGS).is_late

    assert is_late(WISH, pod(made_ago=60))
    assert not is_late(WISH, pod(made_ago=10)), "a start takes as long"
    assert not is_late(WISH, ready())
    assert not is_late(replace(WISH, license_key="other"), pod(made_ago=60))
    assert not is_late(RESTORED, pod(made_ago=60))
    assert not is_late(THREE, pod(0, THREE), pod(1, THREE)), "the third is to be started first, which applies all"
    assert is_late(THREE, ready(0, wish=THREE), pod(1, THREE), ready(2, wish=THREE))


def test_a_service_that_is_the_edge_itself_has_ports_of_its_own() -> None:
    wish = replace(WISH, release=desired_release("8.6.0"))
    ports = [{"name": "grpc", "port": 26500, "nodePort": 30111}, {"name": "rest", "port": 8080, "nodePort": 30222}]
    scene = Scene(namespace(), workload(), (ready(wish=wish),), (claim(),), service={"spec": {"ports": ports}}, now=NOW)

    def told(edge: str, scene: Scene = scene) -> tuple[str, str] | None:
        settings = replace(SETTINGS, rest_port=8443, values={"edge": {"kind": edge}})
        endpoint = Observation(wish, scene, settings).report().endpoint
        return None if endpoint is None else (endpoint.grpc, endpoint.rest)

    host = wish.host_name
    assert told("none") == (f"{host}:443", f"https://{host}:8443")
    assert told("nodePort") == (f"{host}:30111", f"https://{host}:30222")
    assert told("loadBalancer") == (f"{host}:26500", f"https://{host}:8080")
    assert told("ingress") == (f"{host}:443", ""), "it knows one port for a name"
    assert told("tlsRoute") == (f"{host}:443", ""), "it has no listener for REST"
    assert told("nodePort", replace(scene, service=None)) is None


def test_looks_at_several_brokers_are_counted_as_what_they_cost() -> None:
    three = tuple(ready(node, wish=THREE) for node in range(3))

    assert seen(pods=(ready(),)).look_requests == 14
    assert seen(THREE, pods=three, claims=tuple(map(claim, range(3)))).look_requests == 14 + 2 * 3 + 1


@pytest.mark.parametrize(
    ("contents", "word", "keeps"),
    [
        (None, "data 8.6.0 0\nformer 8.5.8 0\n", True),
        (None, "data 8.6.0 0\nformer \n", False),
        (None, "data 8.6.0 0\nformer none\n", False),
    ],
)
def test_what_the_datas_keeper_says_of_the_volume(contents: Contents | None, word: str, keeps: bool) -> None:
    wish = replace(WISH, release=desired_release("8.6.0"))
    sight = seen(wish, pods=(ready(word=word, wish=wish),), claims=(claim(0, contents),))

    assert sight.keeps_former is keeps
    assert plan(wish, sight) == (LetGo() if keeps else None)


def test_a_note_of_this_pods_time_is_newer_than_what_was_said_at_its_start() -> None:
    running = ready(word="data 8.5.8 0\nformer 8.5.7 0")
    noted = claim()
    noted["metadata"]["annotations"] = {
        name: value for name, value in note_of(Contents(Origin(0, None, "8.5.8")), "u0").items() if value is not None
    }
    assert not seen(pods=(running,), claims=(noted,)).keeps_former


def test_a_suspended_cluster_keeps_what_was_noted_at_its_stop() -> None:
    contents = Contents(Origin(0, None, "8.6.0"), Origin(0, None, "8.5.8"))
    sight = seen(stateful_set=workload(0, "8.6.0"), claims=(claim(0, contents),))

    assert not sight.running
    assert sight.keeps_former
    assert sight.broker(0).release == "8.6.0"
    assert sight.waits_for == ""


def job(state: str = "", wish: DesiredCluster = RESTORED) -> dict[str, Any]:
    conditions = [{"type": state, "status": "True"}] if state else []
    notes = {"flowplane.dev/restore": restore_wish(wish)}
    return {"metadata": {"name": "restore-1-0", "annotations": notes}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("jobs", "work"),
    [
        ((), Work.ABSENT),
        ((job(),), Work.RUNNING),
        ((job("Complete"),), Work.DONE),
        ((job("Failed"),), Work.FAILED),
        ((job("Complete", replace(WISH, data=DesiredData(1, BackupRef(CLUSTER_ID, 8)))),), Work.ABSENT),
    ],
)
def test_how_far_a_restore_is(jobs: tuple[Any, ...], work: Work) -> None:
    worker = {
        "metadata": {"name": "x", "labels": {"batch.kubernetes.io/job-name": "restore-1-0"}},
        "status": {
            "containerStatuses": [{"name": "restore-data", "state": {"terminated": {"message": "Disk is short"}}}]
        },
    }
    sight = seen(RESTORED, pods=(ready(), worker), jobs=jobs)

    assert sight.data is work
    assert not sight.broker(0).has_wished_data
    assert sight.available
    if work is Work.FAILED:
        assert sight.data_detail == "Disk is short."
    expected = {Work.DONE: StopEngine((0,)), Work.ABSENT: RestoreData(), Work.FAILED: RestoreData()}
    if work in expected:
        assert plan(RESTORED, sight) == expected[work]


def test_a_restored_volume_is_not_taken_for_what_the_template_says() -> None:
    noted = claim(0, Contents())
    sight = seen(RESTORED, stateful_set=None, claims=(noted,), jobs=(job(),))

    assert sight.data is Work.RUNNING


def looks(**changes: Any) -> dict[int, Look]:
    topology = Topology(1, (0, 1, 2))
    return {
        node: Look(True, True, (node + 1,), {node + 1: 1}, replace(topology, **changes) if node == 0 else None)
        for node in range(3)
    }


def three(count: int = 3) -> tuple[dict[str, Any], ...]:
    return tuple(ready(node, wish=THREE) for node in range(count))


def test_several_brokers_are_asked_once_enough_of_them_are_ready() -> None:
    def asked(*pods: dict[str, Any]) -> tuple[int, ...]:
        return Observation(THREE, Scene(namespace(), workload(3), pods, now=NOW), SETTINGS).asked

    starting = pod(2, THREE, containerStatuses=[{"name": "broker", "state": {"running": {}}}])
    assert asked() == ()
    assert asked(*three(1), starting) == ()
    assert asked(*three(2)) == (0, 1)
    assert asked(*three(2), starting) == (0, 1, 2)


def test_several_brokers_that_are_well() -> None:
    claims = tuple(claim(node) for node in range(3))
    sight = seen(THREE, stateful_set=workload(3), pods=three(), claims=claims, looks=looks())

    assert sight.available
    assert sight.members == (0, 1, 2)
    assert sight.is_balanced
    assert sight.waits_for == ""
    assert plan(THREE, sight) is None
    changing = seen(THREE, stateful_set=workload(3), pods=three(), claims=claims, looks=looks(is_changing=True))
    assert changing.is_rescaling


def gateway(number: int, wish: DesiredCluster = WISH, *, is_ready: bool = True, **about: Any) -> dict[str, Any]:
    made = pod(0, wish, conditions=[{"type": "Ready", "status": "True" if is_ready else "False"}])
    name = {"name": f"gateway-7f-{number}", "uid": f"g{number}"}
    labels = {**LABELS, "app.kubernetes.io/component": "gateway"}
    return {**made, "metadata": {**made["metadata"], **name, "labels": labels, **about}}


BEFORE = replace(WISH, audience=f"{CLUSTER_ID}/0")


@pytest.mark.parametrize(
    ("gateways", "answers", "is_current", "words"),
    [
        ((gateway(1), gateway(2)), True, True, ""),
        ((gateway(1),), True, False, "The gateways are being started."),
        ((gateway(1), gateway(2, is_ready=False)), True, False, "A gateway is being started."),
        ((), False, False, "The gateways are being started."),
        ((gateway(1), gateway(2), gateway(3, BEFORE)), True, False, "A gateway from before is ending."),
        (
            (gateway(1), gateway(2), gateway(3, BEFORE, deletionTimestamp=stamp(1))),
            True, False, "A gateway from before is ending.",
        ),
        ((gateway(1, BEFORE), gateway(2, BEFORE)), True, False, "A gateway from before is ending."),
    ],
)  # fmt: skip
def test_gateways_of_their_own_are_waited_for_and_so_is_the_end_of_those_from_before(
    gateways: tuple[dict[str, Any], ...], answers: bool, is_current: bool, words: str
) -> None:
    """One that was started before a revocation takes revoked tokens until its very end."""
    sight = seen(pods=(ready(), *gateways), gateways=2)

    assert (sight.available, sight.answers_clients, sight.is_entrance_current) == (True, answers, is_current)
    assert sight.waits_for == words
    assert plan(WISH, sight) == (None if is_current else Wait(StepKind.AWAIT_HEALTHY))


def test_gateways_that_a_stop_has_left_are_ended_by_the_next_turn() -> None:
    suspended = replace(WISH, lifecycle=Lifecycle.SUSPENDED)

    assert plan(suspended, seen(suspended, pods=(gateway(1),))) == StopEngine(())
    assert plan(suspended, seen(suspended, pods=(gateway(1, deletionTimestamp=stamp(1)),))) is None


def test_one_of_three_is_down_and_the_others_serve() -> None:
    down = pod(2, THREE, containerStatuses=[{"name": "broker", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])
    views = {node: replace(look, healthy=(1, 2, 3) if node == 0 else ()) for node, look in looks().items() if node < 2}
    sight = seen(THREE, stateful_set=workload(3), pods=(*three(2), down), looks=views)

    assert sight.available
    assert not sight.broker(2).healthy
    assert sight.waits_for == "Broker 3 of 3 keeps ending; the region starts it again after a while."


def test_leaders_that_were_asked_to_spread_count_as_spread_until_a_broker_starts() -> None:
    uneven = {node: replace(look, healthy=(1, 2, 3) if node == 0 else ()) for node, look in looks().items()}
    parts = {"stateful_set": workload(3), "pods": three(), "looks": uneven}
    asked = namespace(annotations={"flowplane.dev/rebalanced": starts_of(three())})

    assert not seen(THREE, **parts).is_balanced
    assert seen(THREE, **parts, namespace=asked).is_balanced


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([], "The cluster's namespace is being removed."),
        (
            [{"type": "NamespaceFinalizersRemaining", "status": "True", "message": "somebody.example/x in 1 instance"}],
            "The cluster's namespace cannot be removed yet: somebody.example/x in 1 instance.",
        ),
        (
            [
                {"type": "NamespaceContentRemaining", "status": "True", "message": "pods."},
                {"type": "NamespaceDeletionDiscoveryFailure", "status": "True", "message": "metrics is dead"},
            ],
            "The cluster's namespace cannot be removed yet: metrics is dead.",
        ),
        (
            [{"type": "NamespaceContentRemaining", "status": "False", "message": "all gone"}],
            "The cluster's namespace is being removed.",
        ),
    ],
)
def test_a_namespace_that_stays_says_why(conditions: list[dict[str, Any]], words: str) -> None:
    going = {**namespace(deletionTimestamp=stamp(5)), "status": {"conditions": conditions}}
    wish = replace(WISH, lifecycle=Lifecycle.DELETED)
    sight = seen(wish, namespace=going, stateful_set=None, claims=())

    assert sight.exists
    assert sight.waits_for == words
    assert plan(wish, sight) == RemoveCluster()


def test_small_things() -> None:
    assert sentence("a\n  b") == "a b."
    assert len(sentence("x" * 1000)) == 301
    assert job_state({}) is Work.RUNNING
    assert Pod(pod()).contents is None
    assert json.loads(note_of(Contents())["flowplane.dev/data"] or "") is None
