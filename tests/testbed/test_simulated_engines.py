"""A simulated pod answers as a broker that is well, and only where it was asked as one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from provisioning.backends.engine.door import Answer, Limits
from provisioning.backends.engine.health import Look, Topology, look_at
from tests.kubernetes import Kubernetes, Namespace, Refused, eventually
from tests.testbed import objects

pytestmark = [pytest.mark.kubernetes]
NAME = "simulated-engines"
PROXY = f"/api/v1/namespaces/{NAME}/pods/simulated:9600/proxy"


@dataclass(frozen=True)
class KubectlDoor:
    """A `Door` to the simulated pod, as the backend has one: through the API server."""

    cluster: Kubernetes

    def ask(self, method: str, path: str, body: object = None, *, limits: Limits) -> Answer | None:
        try:
            return Answer(200, self.cluster.kubectl("get", "--raw", f"{PROXY}/{path}").encode())
        except Refused:
            return None


@pytest.fixture(scope="module")
def pod(kubernetes: Kubernetes) -> Iterator[Namespace]:
    kubernetes.kubectl("create", "namespace", NAME)
    namespace = kubernetes.inside(NAME)
    assert eventually(lambda: kubernetes.succeeds("-n", NAME, "get", "serviceaccount", "default"))
    namespace.kubectl("apply", "-f", "-", objects=objects.SIMULATED.replace("PLACE", NAME))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/simulated", "--timeout=240s")
    yield namespace
    kubernetes.kubectl("delete", "namespace", NAME, "--wait=true", "--timeout=240s")


def test_a_simulated_pod_looks_like_an_engine_that_is_well(pod: Namespace) -> None:
    look = look_at(KubectlDoor(pod.cluster), is_one_of_several=True)
    assert look == Look(answered=True, up=True, healthy=(1,), topology=Topology(1, (0,)))


def test_what_it_does_not_know_is_refused(pod: Namespace) -> None:
    with pytest.raises(Refused, match="the server could not find"):
        pod.cluster.kubectl("get", "--raw", f"{PROXY}/actuator/backups")


def test_the_machine_itself_answers_nothing(pod: Namespace) -> None:
    address = pod.get("pod/simulated")["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:9600/actuator/health/status", timeout=5) as answer:
        assert json.load(answer) == {"status": "UP"}
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen("http://127.0.0.1:9600/actuator/health/status", timeout=5)
