"""Two tenants on one node: what a pod of one may reach and do, and that the policies are what holds it back.

Everything that must not be reached is asked for by the same probe, in the same pod, once with the policies and once
without them: without them all of it must be reached, or what is "not reached" would prove nothing. Who takes policies
away waits until they hold again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.charts.cases import EDGE
from tests.charts.installations import NEW, Installation, prepared
from tests.kubernetes import Kubernetes, Namespace, Refused, eventually
from tests.provisioning.backends.tokens import EngineClient, Issuer

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

PORTS = (26500, 26501, 26502, 8080, 9600)
METADATA = "169.254.169.254"
# Says which of the addresses it is given take a connection; all are tried at once.
PROBE = """
for target; do
  (timeout 4 bash -c "exec 3<>/dev/tcp/${target/:/\\/}" 2>/dev/null && echo "$target") &
done
wait
"""
# On a node that has no metadata service, one is made up, so that there is something to be kept from.
METADATA_SERVICE = f"""
(timeout 2 bash -c '</dev/tcp/{METADATA}/80' 2>/dev/null && exec sleep infinity)
ip address add {METADATA}/32 dev lo
exec nc -lk {METADATA} 80
"""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 1001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
BOX: dict[str, Any] = {
    "name": "box",
    "image": "localhost/tools:testbed",
    "imagePullPolicy": "Never",
    "command": ["sleep", "infinity"],
    "securityContext": RESTRICTED,
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "more"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
}
UNREADY = {"exec": {"command": ["false"]}}


@dataclass(frozen=True)
class Tenants:
    """Two clusters whose tokens are signed by the same keys, as all of one Flowplane are."""

    one: Installation
    other: Installation


@contextmanager
def without_policies(installation: Installation) -> Iterator[None]:
    """Take a tenant's policies away for a while: what is left is what a network that knows none does."""
    installation.set(networkPolicy={"enabled": False})
    assert installation.namespace.get("networkpolicy")["items"] == []
    try:
        yield
    finally:
        installation.set()


@pytest.fixture(scope="module")
def tenants(kubernetes: Kubernetes, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    """Two tenants, one broker each, that serve."""
    issuer = Issuer()
    with ExitStack() as stack:

        def tenant(name: str) -> Installation:
            folder = tmp_path_factory.mktemp(name)
            return stack.enter_context(prepared(kubernetes, helm, folder, issuer, NEW))

        both = Tenants(tenant("one"), tenant("other"))
        both.one.set("install")
        both.other.set("install")
        both.one.wait()
        both.other.wait()
        yield both


@pytest.fixture(scope="module")
def metadata(tenants: Tenants) -> Iterator[str]:
    """The address at which clouds hand out a node's credentials, with something behind it."""
    default = tenants.one.namespace.cluster.inside("default")
    node = tenants.one.namespace.get("pod/broker-0")["spec"]["nodeName"]
    box = BOX | {
        "command": ["bash", "-c", METADATA_SERVICE],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }
    box |= {"lifecycle": {"preStop": {"exec": {"command": ["ip", "address", "del", f"{METADATA}/32", "dev", "lo"]}}}}
    default.kubectl("apply", "-f", "-", objects=pod("metadata", box, hostNetwork=True, nodeName=node))
    default.kubectl("wait", "--for=condition=Ready", "pod/metadata", "--timeout=240s")
    yield f"{METADATA}:80"
    default.kubectl("delete", "pod", "metadata", "--wait=true")


@pytest.fixture
def neighbour(tenants: Tenants) -> Iterator[Namespace]:
    """The first tenant's namespace, with a pod beside the broker that has no labels.

    It is never ready: with the broker's labels the gateway's Service would send clients to it.
    """
    namespace = tenants.one.namespace
    namespace.kubectl("apply", "-f", "-", objects=pod("neighbour", BOX | {"readinessProbe": UNREADY}))
    try:
        namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/neighbour", "--timeout=240s")
        yield namespace
    finally:
        namespace.kubectl("delete", "pod", "neighbour", "--wait=true")


def pod(name: str, *boxes: dict[str, Any], **spec: Any) -> str:
    """A pod that waits; without more said, one that Pod Security "restricted" lets in."""
    whole = {"terminationGracePeriodSeconds": 1, "containers": list(boxes) or [BOX], **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})


def reached(namespace: Namespace, source: str, targets: dict[str, str]) -> set[str]:
    """Tell which of the targets take a connection from inside this pod."""
    found = namespace.in_pod(source, "bash", "-c", PROBE, "probe", *targets.values()).split()
    return {name for name, address in targets.items() if address in found}


def doors(installation: Installation, whose: str) -> dict[str, str]:
    """Every port of the broker's pod."""
    address = installation.namespace.get("pod/broker-0")["status"]["podIP"]
    return {f"{whose} {port}": f"{address}:{port}" for port in PORTS}


def name_server(kubernetes: Kubernetes) -> dict[str, str]:
    """What every pod is allowed to reach."""
    address = kubernetes.get("-n", "kube-system", "service/kube-dns")["spec"]["clusterIP"]
    return {"names": f"{address}:53"}


def surroundings(tenants: Tenants, metadata: str) -> dict[str, str]:
    """What is nobody's business in a tenant's namespace: the other tenant, the control plane, the node, the edge."""
    kubernetes = tenants.one.namespace.cluster
    service = kubernetes.get("-n", "default", "service/kubernetes")["spec"]["clusterIP"]
    (slice_,) = kubernetes.get("-n", "default", "endpointslice", "-l", "kubernetes.io/service-name=kubernetes")["items"]
    server = f"{slice_['endpoints'][0]['addresses'][0]}:{slice_['ports'][0]['port']}"
    node = tenants.one.namespace.get("pod/broker-0")["status"]["hostIP"]
    gateway = tenants.other.namespace.get("service/gateway")["spec"]["clusterIP"]
    edge = kubernetes.get("-n", "flowplane-edge", "service/edge")["spec"]["clusterIP"]
    return {
        **doors(tenants.other, "the other's"),
        "the other's gateway": f"{gateway}:26500",
        "API server by its Service": f"{service}:443",
        "API server by its node": server,
        "kubelet": f"{node}:10250",
        "metadata": metadata,
        "edge": f"{edge}:443",
    }


def reaches(namespace: Namespace, source: str, targets: dict[str, str], wanted: Set[str]) -> bool:
    """Tell whether soon exactly these of the targets are reached: a policy takes hold a moment after it is made."""
    return eventually(lambda: reached(namespace, source, targets) == wanted, seconds=60)


def require_held(namespace: Namespace, source: str, targets: dict[str, str], allowed: Set[str]) -> None:
    """See that policies which have held for long let nothing else through, not even once, and let these through.

    Only the second may take several probes: on a busy node a connection does not always come about in time.
    """
    assert reached(namespace, source, targets) <= allowed
    assert reaches(namespace, source, targets, allowed)


def test_a_broker_reaches_names_and_nothing_else(tenants: Tenants, metadata: str) -> None:
    namespace, other = tenants.one.namespace, tenants.other.namespace
    allowed, forbidden = name_server(namespace.cluster), surroundings(tenants, metadata)
    everything = allowed | forbidden
    require_held(namespace, "broker-0", everything, allowed.keys())
    resolved = namespace.in_pod("broker-0", "getent", "hosts", f"broker-0.brokers.{other.name}.svc")
    assert other.get("pod/broker-0")["status"]["podIP"] in resolved
    with without_policies(tenants.one):
        theirs = {name for name in everything if name.startswith("the other's")}
        assert reaches(namespace, "broker-0", everything, everything.keys() - theirs), "the other guards itself"
        with without_policies(tenants.other):
            assert reaches(namespace, "broker-0", everything, everything.keys()), "the probe is blind"
    assert reaches(namespace, "broker-0", everything, allowed.keys())


def test_a_pod_beside_the_broker_reaches_no_more(tenants: Tenants, metadata: str, neighbour: Namespace) -> None:
    own = doors(tenants.one, "own")
    allowed, forbidden = name_server(neighbour.cluster), own | surroundings(tenants, metadata)
    everything = allowed | forbidden
    assert reaches(neighbour, "neighbour", everything, allowed.keys())

    # Nothing stops whoever may make pods here from calling one a broker; then it is a member, and no more than that.
    labels = neighbour.get("pod/broker-0")["metadata"]["labels"]
    chosen = ("app.kubernetes.io/name", "app.kubernetes.io/component", "flowplane.dev/cluster")
    neighbour.kubectl("label", "pod", "neighbour", *(f"{name}={labels[name]}" for name in chosen))
    assert reaches(neighbour, "neighbour", everything, allowed.keys() | {"own 26501", "own 26502"})

    with without_policies(tenants.one), without_policies(tenants.other):
        assert reaches(neighbour, "neighbour", everything, everything.keys()), "the probe is blind"
    assert reaches(neighbour, "neighbour", everything, allowed.keys() | {"own 26501", "own 26502"})
    # One's own policies hold the neighbour back already: whether the other's hold again is seen from elsewhere.
    edge = neighbour.cluster.inside("flowplane-edge")
    assert reaches(edge, "deployment/edge", doors(tenants.other, "other's"), {"other's 26500", "other's 8080"})


def test_the_edge_reaches_the_clients_ports_and_no_other(tenants: Tenants) -> None:
    edge = tenants.one.namespace.cluster.inside("flowplane-edge")
    targets = doors(tenants.one, "one's") | doors(tenants.other, "other's")
    allowed = {f"{whose} {port}" for whose in ("one's", "other's") for port in (26500, 8080)}
    require_held(edge, "deployment/edge", targets, allowed)


@pytest.fixture
def workers(tenants: Tenants) -> Iterator[Namespace]:
    """A namespace that the first tenant has for its workers, and has named to its engine."""
    kubernetes, name = tenants.one.namespace.cluster, f"workers-{tenants.one.namespace.name}"
    kubernetes.kubectl("create", "namespace", name)
    place = kubernetes.inside(name)
    own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    tenants.one.set(networkPolicy={"clientsFrom": [*EDGE, own]})
    try:
        place.kubectl("apply", "-f", "-", objects=pod("worker"))
        place.kubectl("wait", "--for=condition=Ready", "pod/worker", "--timeout=240s")
        yield place
    finally:
        tenants.one.set()
        kubernetes.kubectl("delete", "namespace", name, "--wait=false")


def test_a_tenants_own_pod_uses_its_own_gateway_and_nothing_beside_it(tenants: Tenants, workers: Namespace) -> None:
    one, other = tenants.one, tenants.other
    targets = doors(one, "own") | doors(other, "the other's")
    assert reaches(workers, "worker", targets, {"own 26500", "own 8080"})

    def status(token: str) -> str:
        url = f"https://gateway.{one.namespace.name}.svc:8080/v2/topology"
        words = ("curl", "--silent", "--insecure", "--max-time", "60", "--output", "/dev/null", "--write-out")
        return workers.in_pod("worker", *words, "%{http_code}", "--header", f"Authorization: Bearer {token}", url)

    assert eventually(lambda: status(one.token) == "200", seconds=60)
    assert status(other.token) == "401"


def test_the_node_itself_is_kept_from_nothing(tenants: Tenants, metadata: str) -> None:
    """It has to be: the kubelet asks 9600 whether an engine is ready. So no pod may have the node's network."""
    kubernetes = tenants.one.namespace.cluster
    own = doors(tenants.one, "own")
    assert reaches(kubernetes.inside("default"), "metadata", own, own.keys())
    health = f"/api/v1/namespaces/{tenants.one.namespace.name}/pods/broker-0:9600/proxy/actuator/health/readiness"
    assert "UP" in kubernetes.kubectl("get", "--raw", health)


def answers(client: EngineClient, token: str) -> bool:
    return client.ask(token) == "OK"


def test_a_token_opens_its_own_cluster_only(tenants: Tenants) -> None:
    one, other = tenants.one, tenants.other
    assert one.issuer is other.issuer, "the audience alone must tell them apart"
    for mine, theirs in ((one, other), (other, one)):
        with mine.client() as client:
            assert eventually(partial(answers, client, mine.token)), mine.logs()
            assert client.ask(theirs.token) == "UNAUTHENTICATED"
            assert client.ask(mine.token) == "OK"


@pytest.mark.parametrize(
    ("wish", "box", "spec"),
    [
        ("privileged", {"securityContext": RESTRICTED | {"privileged": True, "allowPrivilegeEscalation": True}}, {}),
        ("hostPath", {}, {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]}),
        ("host namespaces", {}, {"hostNetwork": True}),
        ("host namespaces", {}, {"hostPID": True}),
        ("runAsUser=0", {"securityContext": RESTRICTED | {"runAsUser": 0}}, {}),
        ("runAsNonRoot", {"securityContext": RESTRICTED | {"runAsNonRoot": False}}, {}),
        ("unrestricted capabilities", {"securityContext": RESTRICTED | {"capabilities": {"drop": []}}}, {}),
    ],
)
def test_a_pod_that_wants_more_than_an_engine_is_refused(
    tenants: Tenants, wish: str, box: dict[str, Any], spec: dict[str, Any]
) -> None:
    namespace = tenants.one.namespace
    create(namespace, pod("harmless"))
    with pytest.raises(Refused, match=f'violates PodSecurity "restricted.*{wish}'):
        create(namespace, pod("harmful", BOX | box, **spec))


def test_the_plan_is_all_there_is(tenants: Tenants, neighbour: Namespace) -> None:
    neighbour.kubectl("delete", "pod", "neighbour", "--wait=true")
    large = {"resources": {"requests": {"memory": "512Mi"}, "limits": {"memory": "512Mi"}}}
    larger = {"resources": {"requests": {"memory": "520Mi"}, "limits": {"memory": "520Mi"}}}
    assert eventually(lambda: used(neighbour, "pods") == "1")
    create(neighbour, pod("fits", BOX | large))
    with pytest.raises(Refused, match=r"exceeded quota: engine.*requests\.memory"):
        create(neighbour, pod("hungry", BOX | larger))
    with pytest.raises(Refused, match="maximum memory usage per Container is 640Mi"):
        create(neighbour, pod("huge", BOX | {"resources": {"limits": {"memory": "1Gi"}}}))
    with pytest.raises(Refused, match=r"exceeded quota: engine.*persistentvolumeclaims"):
        create(neighbour, json.dumps(CLAIM))
    neighbour.kubectl("apply", "-f", "-", objects=pod("neighbour"))
    with pytest.raises(Refused, match=r"exceeded quota: engine.*pods"):
        create(neighbour, pod("third"))


def create(namespace: Namespace, objects: str) -> None:
    """Let the API server judge it as if it were made.

    Raises:
        Refused: it would not be.
    """
    namespace.kubectl("create", "--dry-run=server", "-f", "-", objects=objects)


def used(namespace: Namespace, resource: str) -> str:
    """How much of it the quota counts."""
    return str(namespace.get("resourcequota/engine")["status"]["used"][resource])


def test_an_engine_holds_no_key_to_the_api(tenants: Tenants) -> None:
    namespace = tenants.one.namespace
    default = namespace.cluster.inside("default")
    keys = "/var/run/secrets/kubernetes.io"
    look = ("bash", "-c", f"test -e {keys} || grep -q {keys} /proc/mounts")
    default.kubectl("apply", "-f", "-", objects=pod("careless"))
    try:
        default.kubectl("wait", "--for=condition=Ready", "pod/careless", "--timeout=240s")
        assert default.can("careless", *look), "a pod that does not say no has one"
    finally:
        default.kubectl("delete", "pod", "careless", "--wait=false")
    assert namespace.can("broker-0", "true")
    assert not namespace.can("broker-0", *look)

    account = f"--as=system:serviceaccount:{namespace.name}:engine"
    for right in (("get", "secrets"), ("list", "pods"), ("create", "pods", "--subresource=exec")):
        ask = ("-n", namespace.name, "auth", "can-i", *right)
        assert namespace.cluster.succeeds(*ask)
        assert not namespace.cluster.succeeds(*ask, account)
