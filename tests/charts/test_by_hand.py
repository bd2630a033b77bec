"""What a person does with the chart: install it, use it, upgrade it and go back, on a real node with a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.charts.installations import NEW, OLD, Installation, prepared
from tests.kubernetes import Kubernetes, eventually
from tests.provisioning.backends.tokens import PATIENCE_SECONDS, Issuer, insist

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]

STRANGER = """
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: stranger, image: "localhost/tools:testbed", imagePullPolicy: Never, command: [sleep, infinity]}
"""


@pytest.fixture
def installation(kubernetes: Kubernetes, helm: str, tmp_path: Path) -> Iterator[Installation]:
    """A namespace and the values for one cluster; nothing is installed yet."""
    kubernetes.apply(STRANGER)
    kubernetes.kubectl("wait", "--for=condition=Ready", "pod/stranger", "-n", "default", "--timeout=240s")
    with prepared(kubernetes, helm, tmp_path, Issuer(), OLD) as made:
        yield made


def test_one_broker_serves_is_guarded_upgraded_and_taken_back(installation: Installation) -> None:
    installation.set("install")
    installation.wait()
    assert installation.last_word("broker-0") == f"data {OLD} 0\nformer none\n"
    with installation.client() as client:
        assert eventually(lambda: client.ask(installation.token) == "OK", seconds=PATIENCE_SECONDS), installation.logs()
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
        assert eventually(lambda: client.ask(installation.token) == "OK", seconds=PATIENCE_SECONDS), installation.logs()
        assert eventually(lambda: set(client.leaders(installation.token)) == {1, 2, 3}, seconds=PATIENCE_SECONDS)
        insist(lambda: client.deploy(installation.token))
        insist(lambda: client.run_deployed(installation.token))
    quota = installation.namespace.get("resourcequota", "engine")["status"]
    assert quota["used"]["persistentvolumeclaims"] == quota["hard"]["persistentvolumeclaims"] == "3"
