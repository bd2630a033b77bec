"""A real API server takes Flowplane's chart, lets our accounts do what engines need, and nothing anywhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.charts import cases
from tests.charts.cases import Object, run_helm
from tests.charts.product_cases import ALL, CHART, EXTERNAL, NAMESPACE, RELEASE, render
from tests.charts.test_product import READ_BY_WATCH, USED
from tests.charts.test_server import require_kept_by_server
from tests.kubernetes import Kubernetes, Refused, eventually

pytestmark = pytest.mark.kubernetes

ENGINE = cases.NAMESPACE
FOREIGN_NAMESPACE = "somebody-elses"
MEMORY = "flowplane-system"
OURS = {"app.kubernetes.io/managed-by": "flowplane", "flowplane.dev/cluster": cases.CLUSTER_ID}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
KINDS = (
    *(
        ("", one)
        for one in ("namespaces", "pods", "pods/proxy", "pods/exec", "secrets", "configmaps", "events", "nodes")
    ),
    *(("", one) for one in ("persistentvolumeclaims", "services", "serviceaccounts", "serviceaccounts/token")),
    *(("apps", one) for one in ("statefulsets", "deployments", "daemonsets")),
    ("batch", "jobs"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
    ("networking.k8s.io", "ingresses"),
    ("rbac.authorization.k8s.io", "clusterroles"),
)
VERBS = ("get", "list", "watch", "create", "patch", "update", "delete", "deletecollection", "escalate", "bind")
POLICY = "namespaces of engine clusters only"
SERVER_SIDE = ("--server-side", "--field-manager=flowplane", "--force-conflicts", "-f", "-")


@dataclass(frozen=True)
class Account:
    """One of our accounts, at the API server's door."""

    cluster: Kubernetes
    name: str

    def kubectl(self, *arguments: str, objects: str = "") -> str:
        who = f"--as=system:serviceaccount:{NAMESPACE}:{self.name}"
        return self.cluster.kubectl(who, *arguments, objects=objects)

    def apply(self, namespace: str, *objects: Object) -> str:
        """Apply as the product does."""
        return self.kubectl("apply", "-n", namespace, *SERVER_SIDE, objects=yaml.safe_dump_all(objects))

    def allowed(self, kinds: Iterable[tuple[str, str]], verbs: Iterable[str]) -> dict[tuple[str, str], bool]:
        """Tell for each (resource, verb) whether roles allow it; what the policy says of it is another question."""
        asked = [(group, resource, verb) for group, resource in kinds for verb in verbs]
        reviews = yaml.safe_dump_all(map(_ask, asked))
        shown = ("--validate=false", "-o", r"jsonpath={.status.allowed}{'\n'}")
        answers = self.kubectl("create", *shown, "-f", "-", objects=reviews).split()
        return {(resource, verb): answer == "true" for (_, resource, verb), answer in zip(asked, answers, strict=True)}

    def refusal(self, *arguments: str, objects: str = "") -> str:
        """Return why something is refused."""
        with pytest.raises(Refused) as caught:
            self.kubectl(*arguments, objects=objects)
        return str(caught.value)


def _ask(asked: tuple[str, str, str]) -> Object:
    group, resource, verb = asked
    kind, _, part = resource.partition("/")
    about = {"group": group, "resource": kind, "subresource": part, "verb": verb, "namespace": "default"}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": about},
    }


def namespace_named(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def config_map(name: str, value: str = "1") -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}


def remove(cluster: Kubernetes, *namespaces: str) -> None:
    cluster.kubectl("delete", "namespace", "--ignore-not-found", "--wait=true", "--timeout=240s", *namespaces)


@pytest.fixture(scope="module")
def installed(kubernetes: Kubernetes, helm: str) -> Iterator[Kubernetes]:
    """Our release and its rights. Whether its pods ever run does not matter here."""
    place = ("--kubeconfig", str(kubernetes.kubeconfig), "--namespace", NAMESPACE)
    run_helm(helm, "uninstall", RELEASE, *place)
    remove(kubernetes, NAMESPACE, FOREIGN_NAMESPACE, MEMORY, ENGINE)
    kubernetes.apply(json.dumps(namespace_named(NAMESPACE, **RESTRICTED)))
    kubernetes.apply(json.dumps(namespace_named(FOREIGN_NAMESPACE)))
    done = run_helm(helm, "install", RELEASE, str(CHART), *place, values=EXTERNAL)
    assert done.returncode == 0, done.stderr
    worker = Account(kubernetes, "worker")
    probe = json.dumps(config_map("probe"))
    # A policy takes hold a moment after it is made, and so do roles: until then these refuse.
    assert eventually(
        lambda: POLICY in said_to(worker, "create", "--dry-run=server", "-n", "default", "-f", "-", objects=probe)
    )
    yield kubernetes
    run_helm(helm, "uninstall", RELEASE, *place)
    remove(kubernetes, NAMESPACE, FOREIGN_NAMESPACE, MEMORY, ENGINE)


def said_to(account: Account, *arguments: str, objects: str = "") -> str:
    """What kubectl says, or why it is refused."""
    try:
        return account.kubectl(*arguments, objects=objects)
    except Refused as refused:
        return str(refused)


@pytest.fixture(scope="module")
def worker(installed: Kubernetes) -> Account:
    return Account(installed, "worker")


@pytest.fixture(scope="module")
def engine(worker: Account) -> Account:
    """The worker, once it has made a cluster's namespace."""
    made = json.dumps(namespace_named(ENGINE, **OURS, **RESTRICTED))
    worker.kubectl("create", "-f", "-", objects=made)
    return worker


@pytest.mark.parametrize("name", ALL)
def test_the_server_keeps_what_it_is_given(installed: Kubernetes, helm: str, name: str) -> None:
    require_kept_by_server(installed, render(helm, ALL[name]), "helm")


def test_the_policy_is_one_that_the_server_understands(installed: Kubernetes) -> None:
    policy = installed.get("validatingadmissionpolicy", f"flowplane-{NAMESPACE}-confined")
    assert eventually(
        lambda: "typeChecking" in installed.get("validatingadmissionpolicy", policy["metadata"]["name"])["status"]
    )
    checked = installed.get("validatingadmissionpolicy", policy["metadata"]["name"])["status"]["typeChecking"]
    assert not checked.get("expressionWarnings"), checked


def test_accounts_may_what_they_use(installed: Kubernetes, worker: Account) -> None:
    for account, rights in (
        (worker, USED),
        (Account(installed, "clock"), USED),
        (Account(installed, "watch"), {kind: {"list", "watch"} for kind in READ_BY_WATCH}),
    ):
        for (resource, verb), is_allowed in account.allowed(KINDS, VERBS).items():
            assert is_allowed is (verb in rights.get(resource, ())), (account.name, verb, resource)


@pytest.mark.parametrize("name", ["web", "migration"])
def test_others_may_nothing(installed: Kubernetes, name: str) -> None:
    account = Account(installed, name)
    assert not any(account.allowed(KINDS, VERBS).values())


def test_an_engine_is_applied_changed_and_removed(engine: Account, helm: str) -> None:
    objects = [found for found in cases.render(helm, cases.TRIO) if found["kind"] != "Namespace"]
    for _ in range(2):
        engine.apply(ENGINE, *objects)
    engine.kubectl("patch", "statefulset", "broker", "-n", ENGINE, "--type=merge", "-p", '{"spec":{"replicas":0}}')
    raised = '{"metadata":{"annotations":{"flowplane.dev/epoch":"7"}}}'
    engine.kubectl("patch", "namespace", ENGINE, "--type=merge", "-p", raised)
    for kind in ("pods", "persistentvolumeclaims", "jobs", "events", "secrets"):
        engine.kubectl("get", kind, "-n", ENGINE)
        engine.kubectl("get", kind, "-A")
    engine.kubectl("delete", "service", "gateway", "-n", ENGINE)


def test_a_regions_memory_is_written(worker: Account) -> None:
    worker.kubectl("create", "-f", "-", objects=json.dumps(namespace_named(MEMORY, app="memory")))
    worker.apply(MEMORY, config_map("register"))
    worker.apply(MEMORY, config_map("register", "2"))
    worker.kubectl("delete", "configmap", "register", "-n", MEMORY)
    worker.apply(MEMORY, config_map("fences"))
    secret = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken"}})
    assert "ConfigMaps to flowplane-system" in worker.refusal("create", "-n", MEMORY, "-f", "-", objects=secret)


@pytest.mark.parametrize("place", ["default", "kube-system", FOREIGN_NAMESPACE, NAMESPACE])
def test_nothing_is_written_elsewhere(worker: Account, place: str) -> None:
    new = json.dumps(config_map("ours"))
    assert POLICY in worker.refusal("create", "-n", place, "-f", "-", objects=new)
    assert POLICY in worker.refusal("delete", "configmap", "kube-root-ca.crt", "-n", place, "--wait=false")
    assert POLICY in worker.refusal(
        "patch", "configmap", "kube-root-ca.crt", "-n", place, "--type=merge", "-p", '{"data":{"a":"b"}}'
    )


def test_nobody_elses_namespace_is_touched(worker: Account, installed: Kubernetes) -> None:
    mine = json.dumps(namespace_named("mine", **OURS, **RESTRICTED))
    assert POLICY in worker.refusal("create", "-f", "-", objects=mine)
    assert POLICY in worker.refusal("delete", "namespace", FOREIGN_NAMESPACE, "--wait=false")
    foreign = "fp-of-somebody-else"
    installed.apply(json.dumps(namespace_named(foreign, **RESTRICTED)))
    try:
        assert "managed by flowplane" in worker.refusal("delete", "namespace", foreign, "--wait=false")
        claim = json.dumps({"metadata": {"labels": OURS}})
        assert "managed by flowplane" in worker.refusal("patch", "namespace", foreign, "--type=merge", "-p", claim)
    finally:
        remove(installed, foreign)


def test_an_engines_namespace_stays_restricted(engine: Account) -> None:
    for level in ('"privileged"', "null"):
        change = f'{{"metadata":{{"labels":{{"pod-security.kubernetes.io/enforce":{level}}}}}}}'
        assert "restricted" in engine.refusal("patch", "namespace", ENGINE, "--type=merge", "-p", change)
    open_one = json.dumps(namespace_named("fp-open", **OURS))
    assert "restricted" in engine.refusal("create", "-f", "-", objects=open_one)


def test_uninstalling_leaves_engines_and_a_regions_memory(installed: Kubernetes, engine: Account, helm: str) -> None:
    """Last of all: it ends the release that the others use."""
    engine.apply(ENGINE, config_map("mark"))
    place = ("--kubeconfig", str(installed.kubeconfig), "--namespace", NAMESPACE)
    before = {name: {one["kind"] for one in everything(installed, name)} for name in (ENGINE, MEMORY)}

    done = run_helm(helm, "uninstall", RELEASE, *place)
    assert done.returncode == 0, done.stderr
    remove(installed, NAMESPACE)

    assert {name: {one["kind"] for one in everything(installed, name)} for name in (ENGINE, MEMORY)} == before
    assert "StatefulSet" in before[ENGINE]
    assert "ConfigMap" in before[MEMORY]
    assert not any(
        one["metadata"]["name"].startswith(f"flowplane-{NAMESPACE}-")
        for kind in ("clusterroles", "clusterrolebindings", "validatingadmissionpolicies")
        for one in installed.get(kind)["items"]
    )


def everything(cluster: Kubernetes, namespace: str) -> list[Object]:
    kinds = "statefulsets,services,secrets,configmaps,networkpolicies,serviceaccounts,resourcequotas"
    found: list[Object] = cluster.get(kinds, "-n", namespace)["items"]
    return found
