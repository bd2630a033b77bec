"""The Kubernetes backend: the contract on real pods, and what only a region of many hands can get wrong."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import pytest
import yaml

from common.errors import Permanent, Temporary
from provisioning.backends.engine.tls import KeyPair
from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.charts import Charts, Identity, Wish
from provisioning.backends.kubernetes.kinds import INGRESS
from provisioning.backends.kubernetes.watch import Watch
from provisioning.errors import Fenced
from provisioning.executor import execute
from provisioning.planner import StartEngine, Wait, plan
from provisioning.spec import DesiredCluster, Gateway, Lifecycle
from provisioning.states import StepKind
from tests.kubernetes import Kubernetes, Namespace, eventually
from tests.provisioning.backends.contract import (
    NOTICE_SECONDS,
    PATIENCE_SECONDS,
    BackendContract,
    await_answer,
    await_change,
    await_sight,
    client,
    follow,
    is_well,
    persist,
    start,
)
from tests.provisioning.backends.kubernetes_stage import (
    CHART,
    KubernetesStage,
    make_settings,
    node_address,
    served_store,
)
from tests.provisioning.backends.tokens import EngineClient

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def kubernetes_stage(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesStage]:
    folder = tmp_path_factory.mktemp("region")
    with served_store(kubernetes, folder) as store:
        yield KubernetesStage(make_settings(kubernetes, folder, store), kubernetes)


def under(mark: pytest.MarkDecorator, test: Callable[..., None]) -> Callable[..., None]:
    """The same test under a mark of its own, which other backends' runs of it do not get."""

    @wraps(test)
    def again(*arguments: Any, **named: Any) -> None:
        test(*arguments, **named)

    marked: Callable[..., None] = mark(again)
    return marked


# Takes minutes here, and is run by `make test-kubernetes-long`.
lengthy = partial(under, pytest.mark.chaos)


class TestKubernetesBackend(BackendContract):
    """The contract."""

    # Five engines one after the other, three restores and two backups: each of them has our patience.
    test_a_backup_is_restored_in_place_and_into_another_cluster = under(
        pytest.mark.timeout(1800), BackendContract.test_a_backup_is_restored_in_place_and_into_another_cluster
    )
    test_several_brokers_have_one_address_and_tell_what_they_wait_for = lengthy(
        BackendContract.test_several_brokers_have_one_address_and_tell_what_they_wait_for
    )
    test_nothing_is_lost_when_a_leader_is_killed_under_load = lengthy(
        BackendContract.test_nothing_is_lost_when_a_leader_is_killed_under_load
    )
    test_brokers_are_replaced_one_by_one_while_the_others_serve = lengthy(
        BackendContract.test_brokers_are_replaced_one_by_one_while_the_others_serve
    )
    test_a_fourth_broker_is_taken_in_and_let_go = lengthy(BackendContract.test_a_fourth_broker_is_taken_in_and_let_go)
    test_the_backup_of_several_brokers_is_restored_into_another_cluster = lengthy(
        BackendContract.test_the_backup_of_several_brokers_is_restored_into_another_cluster
    )
    test_one_broker_goes_to_a_release_and_back_while_the_others_serve = lengthy(
        BackendContract.test_one_broker_goes_to_a_release_and_back_while_the_others_serve
    )
    test_several_brokers_go_to_a_release_one_by_one_and_back_together = lengthy(
        BackendContract.test_several_brokers_go_to_a_release_one_by_one_and_back_together
    )

    @pytest.fixture(scope="class")
    @classmethod
    def stage(cls, kubernetes_stage: KubernetesStage) -> KubernetesStage:
        return kubernetes_stage


# --- one cluster that these share -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(kubernetes_stage: KubernetesStage) -> Iterator[DesiredCluster]:
    """A cluster of one broker that is well; each test leaves it so."""
    desired = kubernetes_stage.desired()
    start(kubernetes_stage, desired)
    yield desired
    persist(kubernetes_stage.backend.delete, desired.cluster_id, epoch=kubernetes_stage.next_epoch())


def namespace(stage: KubernetesStage, desired: DesiredCluster) -> Namespace:
    return stage.cluster.inside(f"fp-{desired.cluster_id}")


def test_a_first_start_costs_about_one_request_for_each_object(kubernetes_stage: KubernetesStage) -> None:
    desired = kubernetes_stage.desired()
    backend = kubernetes_stage.another_backend()
    backend.observe(desired)
    began = time.monotonic()
    backend.start(desired, desired.nodes, epoch=kubernetes_stage.next_epoch())
    applied_seconds = time.monotonic() - began
    requests = backend.requests
    await_sight(kubernetes_stage.backend, desired, is_well(desired))
    ready_seconds = time.monotonic() - began
    wished = Charts(kubernetes_stage.settings).kinds(Wish(desired, 1))
    objects = len(wished) + 1

    def look() -> int:
        """The requests of a look that finds all well; one that misses an answer asks more."""
        before = backend.requests
        if not is_well(desired)(backend.observe(desired)):
            raise Temporary("not well")
        return backend.requests - before

    look_requests = persist(look)
    print(f"\n{requests} requests for {objects} objects in {applied_seconds:.2f} s; ready after {ready_seconds:.1f} s")
    print(f"a look at a steady cluster: {look_requests} requests")
    persist(kubernetes_stage.backend.delete, desired.cluster_id, epoch=kubernetes_stage.next_epoch())

    assert requests / objects <= 1.5
    assert look_requests <= 14


def test_a_steady_cluster_stands_as_wished(kubernetes_stage: KubernetesStage, cluster: DesiredCluster) -> None:
    sight = await_sight(kubernetes_stage.backend, cluster, lambda sight: plan(cluster, sight) is None)

    assert sight.entrance is None


EDITS: dict[str, Callable[[Any], None]] = {
    "serviceaccount/engine": lambda one: one.__setitem__("automountServiceAccountToken", True),
    "resourcequota/engine": lambda one: one["spec"]["hard"].__setitem__("pods", "99"),
    "limitrange/engine": lambda one: one["spec"]["limits"][0]["default"].__setitem__("memory", "65Mi"),
    "networkpolicy/default-deny": lambda one: one["spec"].__setitem__("podSelector", {"matchLabels": {"a": "b"}}),
    "secret/engine-tls": lambda one: one["data"].__setitem__("tls.crt", "bm90aGluZw=="),
    "configmap/engine-files": lambda one: one["data"].__setitem__("volume.sh", "exit 1"),
    "configmap/token-keys": lambda one: one["data"].__setitem__("certs", '{"keys": []}'),
    # Whatever is added to a rule changes what it says: this one lets everybody in.
    "networkpolicy/members": lambda one: one["spec"]["ingress"].append({}),
    "service/gateway": lambda one: one["spec"]["selector"].__setitem__("nobody", "here"),
    "service/brokers": lambda one: one["spec"].__setitem__("publishNotReadyAddresses", False),
    "statefulset/broker": lambda one: one["spec"]["template"]["spec"].__setitem__("terminationGracePeriodSeconds", 1),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("deed", ["edited", "deleted"])
def test_whatever_somebody_does_to_an_object_is_undone(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster, name: str, deed: str
) -> None:
    stage, place = kubernetes_stage, namespace(kubernetes_stage, cluster)
    before = place.get(name)
    uids = pod_uids(place)
    if deed == "edited":
        place.edit(name, EDITS[name])
    elif name == "statefulset/broker":
        place.kubectl("delete", name, "--cascade=orphan", "--wait=true")
    else:
        place.kubectl("delete", name, "--wait=true")
    sight = await_sight(stage.backend, cluster, lambda sight: plan(cluster, sight) == StartEngine(()))

    assert sight.entrance is False
    # A process puts things right only so often; this is another one.
    persist(stage.another_backend().start, cluster, (), epoch=stage.next_epoch())
    await_sight(stage.backend, cluster, lambda sight: is_well(cluster)(sight) and plan(cluster, sight) is None)
    if name != "secret/engine-tls":
        assert place.get(name).get("spec") == before.get("spec") or deed == "deleted"
        assert place.get(name).get("data") == before.get("data")
    assert pod_uids(place) == uids


def test_what_others_add_is_theirs_and_what_is_not_wished_goes(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster
) -> None:
    stage, place = kubernetes_stage, namespace(kubernetes_stage, cluster)
    place.kubectl("annotate", "service/gateway", "somebody.example/note=kept")
    assert persist(stage.backend.observe, cluster).entrance is None
    labels = ("app.kubernetes.io/managed-by=flowplane", f"flowplane.dev/cluster={cluster.cluster_id}")
    place.kubectl("create", "configmap", "left-over")
    place.kubectl("label", "configmap/left-over", *labels)
    place.kubectl("create", "configmap", "foreign")
    await_sight(stage.backend, cluster, lambda sight: sight.entrance is False)

    persist(stage.backend.start, cluster, (), epoch=stage.next_epoch())

    names = {one["metadata"]["name"] for one in place.get("configmap")["items"]}
    assert "left-over" not in names
    assert "foreign" in names
    assert "somebody.example/note" in place.get("service/gateway")["metadata"]["annotations"]
    assert persist(stage.backend.observe, cluster).entrance is None


def pod_uids(place: Namespace) -> list[str]:
    return sorted(
        one["metadata"]["uid"] for one in place.get("pod", "-l", "app.kubernetes.io/component=broker")["items"]
    )


def test_the_watch_tells_when_a_pod_or_an_object_changes(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster
) -> None:
    stage, place = kubernetes_stage, namespace(kubernetes_stage, cluster)
    labelled_at: list[float] = []

    def label() -> None:
        place.kubectl("label", "pod/broker-0", f"a.example/b=v{time.time():.0f}", "--overwrite")
        labelled_at.append(time.monotonic())

    with follow(stage.another_backend(), cluster.cluster_id, label) as changes:
        told_at = await_change(changes, cluster.cluster_id, lambda: bool(labelled_at))
    assert told_at - labelled_at[0] < NOTICE_SECONDS


def test_what_others_note_on_a_rule_stays_when_it_is_put_right(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster
) -> None:
    stage, place = kubernetes_stage, namespace(kubernetes_stage, cluster)
    before = place.get("networkpolicy/default-deny")
    place.kubectl("annotate", "networkpolicy/default-deny", "somebody.example/note=kept")
    open_it = {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}
    place.kubectl("patch", "networkpolicy/default-deny", "--type=merge", "-p", json.dumps(open_it))

    persist(stage.another_backend().start, cluster, (), epoch=stage.next_epoch())

    after = place.get("networkpolicy/default-deny")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["annotations"]["somebody.example/note"] == "kept"
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_what_the_regions_edge_needs_is_made_watched_and_pruned(kubernetes_stage: KubernetesStage) -> None:
    stage = kubernetes_stage
    backend = behind(stage, "ingress")
    desired = without_room(stage)
    place = namespace(stage, desired)
    labels = {"app.kubernetes.io/managed-by": "flowplane", "flowplane.dev/cluster": str(desired.cluster_id)}
    persist(backend.start, desired, (), epoch=stage.next_epoch())
    try:
        made = place.get("ingress/grpc")
        left_over = {**made, "metadata": {"name": "left-over", "labels": labels}}
        changes = Watch(backend._api, (INGRESS,), lambda _: None).run()
        assert next(changes) == desired.cluster_id
        place.kubectl("create", "-f", "-", objects=json.dumps(left_over))
        assert next(changes) == desired.cluster_id
        changes.close()
        persist(backend.start, desired, (), epoch=stage.next_epoch())

        assert made["spec"]["rules"][0]["host"] == desired.host_name
        assert [one["metadata"]["name"] for one in place.get("ingress")["items"]] == ["grpc"]
        # Another edge is chosen for the region; what the former one needed must not lead clients here any more. It is
        # found by the loop, which lists no kind that nobody asks for.
        after = behind(stage, "none")
        await_sight(after, desired, lambda sight: plan(desired, sight) == StartEngine(()))
        persist(after.start, desired, (), epoch=stage.next_epoch())
        assert place.get("ingress")["items"] == []
    finally:
        persist(backend.delete, desired.cluster_id, epoch=stage.next_epoch())


def behind(stage: KubernetesStage, edge: str) -> KubernetesBackend:
    """The same region with another edge."""
    return KubernetesBackend(replace(stage.settings, values={**stage.settings.values, "edge": {"kind": edge}}))


def without_room(stage: KubernetesStage) -> DesiredCluster:
    """A cluster that no node has room for, so that nothing of it runs."""
    return stage.desired(size=replace(stage.desired().size, memory_mib=900_000))


def test_behind_ports_of_the_node_each_cluster_is_reached_under_its_own(kubernetes_stage: KubernetesStage) -> None:
    stage, desired = kubernetes_stage, kubernetes_stage.desired()
    backend = behind(stage, "nodePort")
    persist(backend.start, desired, desired.nodes, epoch=stage.next_epoch())
    try:
        sight = await_sight(backend, desired, is_well(desired))
        assert sight.endpoint is not None
        host, _, port = sight.endpoint.grpc.partition(":")
        address = f"{node_address(stage.cluster)}:{port}"
        with EngineClient(address, stage.authority, name=host) as engine:
            await_answer(engine, stage.issuer.token(desired.audience))
        ports = namespace(stage, desired).get("service/gateway")["spec"]["ports"]
    finally:
        persist(backend.delete, desired.cluster_id, epoch=stage.next_epoch())

    assert host == desired.host_name
    assert int(port) in {one["nodePort"] for one in ports}


def test_what_an_engine_that_does_not_come_up_lacks_is_made_again(
    kubernetes_stage: KubernetesStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the brokers' Service several would never find each other; without the policy anybody may call."""
    monkeypatch.setattr("provisioning.backends.kubernetes.look.random.uniform", lambda *_: 0.0)
    stage, desired = kubernetes_stage, without_room(kubernetes_stage)
    place = namespace(stage, desired)
    persist(stage.backend.start, desired, desired.nodes, epoch=stage.next_epoch())
    try:
        await_sight(stage.backend, desired, lambda sight: plan(desired, sight) == Wait(StepKind.AWAIT_HEALTHY))
        place.kubectl("delete", "networkpolicy/default-deny", "service/brokers", "--wait=true")
        await_sight(stage.backend, desired, lambda sight: plan(desired, sight) == StartEngine(()))
        mender = stage.another_backend()
        persist(mender.start, desired, (), epoch=stage.next_epoch())
        # Its first look compares all: nothing differs for the sole reason that no pod is ready.
        assert persist(mender.observe, desired).entrance is None
        assert place.get("networkpolicy/default-deny")["spec"]["podSelector"] == {}
        assert place.get("service/brokers")["spec"]["clusterIP"] == "None"
    finally:
        persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_a_foreign_namespace_is_neither_used_nor_removed(kubernetes_stage: KubernetesStage) -> None:
    stage, desired = kubernetes_stage, kubernetes_stage.desired()
    name = f"fp-{desired.cluster_id}"
    stage.cluster.kubectl("create", "namespace", name)
    try:
        for call in (
            lambda: stage.backend.observe(desired),
            lambda: stage.backend.start(desired, desired.nodes, epoch=stage.next_epoch()),
            lambda: stage.backend.stop(desired, desired.nodes, epoch=stage.next_epoch()),
            lambda: stage.backend.delete(desired.cluster_id, epoch=stage.next_epoch()),
        ):
            with pytest.raises(Permanent, match="not this cluster's"):
                call()
        left = stage.cluster.get("namespace", name)
        assert "deletionTimestamp" not in left["metadata"]
        assert stage.cluster.inside(name).get("statefulset")["items"] == []
    finally:
        stage.cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_whoever_overslept_comes_too_late_even_between_two_requests(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster
) -> None:
    """The older turn has looked at the fence and read the StatefulSet; a newer one acts; then the older goes on."""
    stage = kubernetes_stage
    old, new = stage.next_epoch(), stage.next_epoch()
    sleeper = KubernetesBackend(stage.settings)
    lay_down = sleeper._lay_down

    def overslept(*args: Any, **options: Any) -> Any:
        persist(stage.backend.start, replace(cluster, license_key="newer"), cluster.nodes, epoch=new)
        return lay_down(*args, **options)

    sleeper._lay_down = overslept  # type: ignore[method-assign]
    with pytest.raises((Temporary, Fenced)):
        sleeper.start(replace(cluster, license_key="older"), cluster.nodes, epoch=old)
    annotations = namespace(stage, cluster).get("statefulset/broker")["spec"]["template"]["metadata"]["annotations"]
    persist(stage.backend.start, cluster, (), epoch=stage.next_epoch())

    assert annotations["flowplane.dev/digest"] == replace(cluster, license_key="newer").digest


# --- static stability -------------------------------------------------------------------------------------------------


def test_a_broker_comes_back_and_a_held_token_goes_on_with_nothing_of_ours_at_work(
    kubernetes_stage: KubernetesStage, cluster: DesiredCluster
) -> None:
    """Guarantee: the region itself starts it again, and it has the signing keys from its region's own copy."""
    stage, place = kubernetes_stage, namespace(kubernetes_stage, cluster)
    sight = await_sight(stage.backend, cluster, is_well(cluster))
    token = stage.issuer.token(cluster.audience)
    with client(stage, sight) as engine:
        await_answer(engine, token)
        before, requests = pod_uids(place), stage.backend.requests
        place.kubectl("delete", "pod/broker-0", "--wait=true")
        assert eventually(lambda: engine.ask(token) == "OK", seconds=PATIENCE_SECONDS)
        bad = {name: engine.ask(one) for name, one in stage.issuer.bad_tokens(cluster.audience).items()}

    assert pod_uids(place) != before
    assert set(bad.values()) == {"UNAUTHENTICATED"}
    assert stage.backend.requests == requests


# --- gateways of their own --------------------------------------------------------------------------------------------


def fulfil(stage: KubernetesStage, desired: DesiredCluster) -> None:
    """Do what the planner says until it says that nothing is left to do; each step may take as long as a start."""
    before, deadline = None, 0.0
    while (action := plan(desired, persist(stage.backend.observe, desired))) is not None:
        if action != before:
            before, deadline = action, time.monotonic() + PATIENCE_SECONDS
        assert time.monotonic() < deadline, action
        with suppress(Temporary):
            execute(action, stage.backend, desired, epoch=stage.next_epoch())
        time.sleep(0.2)


def test_gateways_of_their_own_take_no_revoked_token_once_the_cluster_is_as_wished(
    kubernetes_stage: KubernetesStage,
) -> None:
    """Guarantee: a revocation is over when no gateway from before is left, not when the brokers have changed."""
    stage = kubernetes_stage
    before = stage.desired(gateway=Gateway.STANDALONE)
    after = replace(before, audience=f"{before.cluster_id}/2")
    old, new = stage.issuer.token(before.audience), stage.issuer.token(after.audience)
    try:
        fulfil(stage, before)
        with client(stage, persist(stage.backend.observe, before)) as engine:
            await_answer(engine, old)
        fulfil(stage, after)
        said = [ask_anew(stage, after, old) for _ in range(10)]
        with client(stage, persist(stage.backend.observe, after)) as engine:
            await_answer(engine, new)
        # Whoever comes at once may be led nowhere yet; by now there is somebody to refuse.
        said += [ask_anew(stage, after, old) for _ in range(10)]
        fulfil(stage, replace(after, lifecycle=Lifecycle.SUSPENDED))
        pods = namespace(stage, before).get("pods", "-l", "app.kubernetes.io/component=gateway")["items"]
        left = [one for one in pods if "deletionTimestamp" not in one["metadata"]]
    finally:
        persist(stage.backend.delete, before.cluster_id, epoch=stage.next_epoch())

    assert "UNAUTHENTICATED" in said
    assert "OK" not in said
    assert left == []


def ask_anew(stage: KubernetesStage, desired: DesiredCluster, token: str) -> str:
    """Ask on a connection of its own: each may lead to another gateway."""
    with client(stage, persist(stage.backend.observe, desired)) as engine:
        return engine.ask(token)


# --- what is waited for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda wish: replace(wish, size=replace(wish.size, memory_mib=900_000)), "finds no node with room for it"),
        (lambda wish: replace(wish, release=replace(wish.release, version="8.5.99")), "waits for the engine's image"),
    ],
    ids=["unschedulable", "image"],
)
def test_what_keeps_an_engine_from_starting_is_said(
    kubernetes_stage: KubernetesStage, change: Callable[[DesiredCluster], DesiredCluster], words: str
) -> None:
    stage, desired = kubernetes_stage, change(kubernetes_stage.desired())
    persist(stage.backend.start, desired, desired.nodes, epoch=stage.next_epoch())
    try:
        sight = await_sight(stage.backend, desired, lambda sight: words in sight.waits_for)
    finally:
        persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())

    assert sight.waits_for.endswith(".")
    assert not sight.available


def test_a_namespace_that_does_not_go_says_why(kubernetes_stage: KubernetesStage) -> None:
    stage, desired = kubernetes_stage, kubernetes_stage.desired()
    persist(stage.backend.start, replace(desired), (), epoch=stage.next_epoch())
    place = namespace(stage, desired)
    place.kubectl("create", "configmap", "stuck")
    place.kubectl(
        "patch", "configmap/stuck", "--type=merge", "-p", '{"metadata":{"finalizers":["somebody.example/x"]}}'
    )
    try:
        assert not persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())
        sight = await_sight(stage.backend, desired, lambda sight: "somebody.example/x" in sight.waits_for)
    finally:
        place.kubectl("patch", "configmap/stuck", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    assert "cannot be removed yet" in sight.waits_for
    assert eventually(
        lambda: persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch()), seconds=PATIENCE_SECONDS
    )


# --- the chart --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brokers", [1, 3])
@pytest.mark.parametrize("license_key", ["", "licence-of-this-cluster"])
def test_what_is_stamped_is_what_helm_makes_by_itself(
    kubernetes_stage: KubernetesStage, brokers: int, license_key: str
) -> None:
    stage = kubernetes_stage
    desired = replace(stage.desired() if brokers == 1 else stage.resilient(), license_key=license_key)
    pair = KeyPair(b"-----BEGIN CERTIFICATE-----\nx\n", b"-----BEGIN PRIVATE KEY-----\ny\n")
    identity = Identity(pair, '{"keys": [{"kid": "\\"quoted\\""}]}')
    charts, wish = Charts(stage.settings), Wish(desired, brokers)
    stamped = charts.render(wish, identity)
    store = stage.settings.store
    assert store is not None
    values = charts.values(wish) | {
        "cluster": {
            "id": str(desired.cluster_id),
            "hostName": desired.host_name,
            "audience": desired.audience,
        },
        "digest": desired.digest,
        "tls": {"certificate": pair.chain.decode(), "key": pair.key.decode()},
        "tokenKeys": {"jwks": identity.jwks},
        "license": {"key": license_key},
    }
    values["backupStore"] |= {"accessKey": store.access_key, "secretKey": store.secret_key}

    plain = helm_template(stage.settings.helm, str(desired.cluster_id), values)

    assert sorted(map(canonical, stamped)) == sorted(map(canonical, plain))


def helm_template(helm: str, cluster_id: str, values: dict[str, Any]) -> list[Any]:
    command = [helm, "template", cluster_id, str(CHART), "--namespace", f"fp-{cluster_id}", "--values", "-"]
    ran = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True)
    return [one for one in yaml.safe_load_all(ran.stdout) if one]


def canonical(one: Any) -> str:
    return json.dumps(one, sort_keys=True)
