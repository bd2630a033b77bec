"""What a person does with the chart: install it, use it, upgrade it and go back, on a real node with a real engine."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.charts.cases import Values, merged
from tests.charts.volumes import CHART
from tests.kubernetes import Kubernetes, Namespace, eventually
from tests.provisioning.backends.tokens import EngineClient, Issuer, insist
from tests.testbed.test_engines import make_certificate

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

OLD, NEW = "8.5.8", "8.6.0"
IMAGE = {"repository": "localhost/zeebe", "pullPolicy": "Never"}
EDGE = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flowplane-edge"}}}]
STRANGER = """
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: stranger, image: "localhost/tools:testbed", imagePullPolicy: Never, command: [sleep, infinity]}
"""


@dataclass(frozen=True)
class Installation:
    """One engine cluster that Helm installed."""

    helm: str
    namespace: Namespace
    values: Values
    issuer: Issuer
    certificate: Path

    @property
    def token(self) -> str:
        return self.issuer.token(self.values["cluster"]["audience"])

    def set(self, verb: str = "upgrade", **values: object) -> None:
        """Install or upgrade it, with other values."""
        cluster = self.namespace.cluster
        command = [self.helm, "--kubeconfig", str(cluster.kubeconfig), "-n", self.namespace.name, verb, "engine"]
        done = subprocess.run(
            [*command, str(CHART), "--values", "-"],
            input=json.dumps(merged(self.values, values)),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def wait(self) -> None:
        """Wait until every broker serves."""
        self.namespace.kubectl("rollout", "status", "statefulset/broker", "--timeout=300s")

    def client(self) -> EngineClient:
        """A client that comes through the edge."""
        return EngineClient(f"{self.values['cluster']['hostName']}:443", self.certificate)

    def last_word(self, pod: str) -> str:
        """What the init container of a pod said last, "" when nothing yet."""
        for found in self.namespace.get("pods", f"--field-selector=metadata.name={pod}")["items"]:
            for init in found["status"].get("initContainerStatuses", []):
                state = init["state"].get("terminated") or init["lastState"].get("terminated") or {}
                return str(state.get("message", ""))
        return ""


@pytest.fixture
def installation(kubernetes: Kubernetes, helm: str, tmp_path: Path) -> Iterator[Installation]:
    """A namespace and the values for one cluster; nothing is installed yet."""
    cluster_id = str(uuid.uuid4())
    host = f"{cluster_id}.{kubernetes.domain}"
    issuer = Issuer()
    certificate, key = make_certificate(tmp_path, host)
    values: Values = {
        "cluster": {"id": cluster_id, "hostName": host, "audience": f"{cluster_id}/1"},
        "release": {"version": OLD, "servesRest": False},
        "image": IMAGE,
        "tls": {"certificate": certificate.read_text(), "key": key.read_text()},
        "tokenKeys": {"jwks": json.dumps(issuer.jwks())},
        "networkPolicy": {"clientsFrom": EDGE},
    }
    namespace = kubernetes.inside(f"fp-{cluster_id}")
    kubernetes.kubectl("create", "namespace", namespace.name)
    kubernetes.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce=restricted")
    kubernetes.apply(STRANGER)
    kubernetes.kubectl("wait", "--for=condition=Ready", "pod/stranger", "-n", "default", "--timeout=60s")
    yield Installation(helm, namespace, values, issuer, certificate)
    kubernetes.kubectl("delete", "namespace", namespace.name, "--wait=false")


def test_one_broker_serves_is_guarded_upgraded_and_taken_back(installation: Installation) -> None:
    installation.set("install")
    installation.wait()
    assert installation.last_word("broker-0") == f"data {OLD} 0\nformer none\n"
    with installation.client() as client:
        assert eventually(lambda: client.ask(installation.token) == "OK"), logs(installation)
        for name, token in installation.issuer.bad_tokens(installation.values["cluster"]["audience"]).items():
            assert client.ask(token) == "UNAUTHENTICATED", name
        insist(lambda: client.deploy(installation.token))
    broker = f"broker-0.brokers.{installation.namespace.name}.svc"
    default = installation.namespace.cluster.inside("default")
    assert default.can("stranger", "getent", "hosts", broker), "the name is known"
    for port in (9600, 26500, 26501, 26502, 8080):
        assert not default.can("stranger", "nc", "-z", "-w", "2", broker, str(port)), port
    health = f"/api/v1/namespaces/{installation.namespace.name}/pods/broker-0:9600/proxy/actuator/health/readiness"
    assert "UP" in installation.namespace.cluster.kubectl("get", "--raw", health)

    installation.set(release={"version": NEW, "servesRest": True})
    installation.wait()
    assert installation.last_word("broker-0") == f"data {NEW} 0\nformer {OLD} 0\n"
    with installation.client() as client:
        insist(lambda: client.run_deployed(installation.token))

    installation.set(release={"version": OLD, "servesRest": False}, letGo={"enabled": False})
    installation.wait()
    assert installation.last_word("broker-0") == f"data {OLD} 0\nformer none\n"
    with installation.client() as client:
        insist(lambda: client.run_deployed(installation.token))


def test_what_cannot_start_says_why_in_its_pods_status(installation: Installation) -> None:
    installation.set("install", dataEpoch="1")
    sentence = "The data of the wished backup (epoch 1) is not on the volume yet."
    assert eventually(lambda: installation.last_word("broker-0") == sentence, seconds=90)


@pytest.mark.parametrize("mode", ["embedded", "standalone"])
def test_three_brokers_serve(installation: Installation, mode: str) -> None:
    size = {"brokers": 3, "partitions": 3, "replicationFactor": 3}
    installation.set(
        "install",
        size=size,
        gateway={"mode": mode, "replicas": 1},
        release={"version": NEW, "servesRest": True, "mainClass": "io.camunda.application.StandaloneBroker"},
    )
    installation.wait()
    if mode == "standalone":
        installation.namespace.kubectl("rollout", "status", "deployment/gateway", "--timeout=200s")
    with installation.client() as client:
        assert eventually(lambda: client.ask(installation.token) == "OK"), logs(installation)
        assert eventually(lambda: set(client.leaders(installation.token)) == {1, 2, 3}, seconds=60)
        insist(lambda: client.deploy(installation.token))
        insist(lambda: client.run_deployed(installation.token))
    quota = installation.namespace.get("resourcequota", "engine")["status"]
    assert quota["used"]["persistentvolumeclaims"] == quota["hard"]["persistentvolumeclaims"] == "3"


def logs(installation: Installation) -> str:
    return installation.namespace.kubectl("logs", "broker-0", "--tail=40")
