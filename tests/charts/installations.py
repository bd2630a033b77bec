"""Engine clusters that Helm installs on a real node, as a person does it by hand."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.charts.cases import EDGE, Values, merged, run_helm
from tests.charts.volumes import CHART
from tests.kubernetes import Kubernetes, Namespace
from tests.provisioning.backends.tokens import EngineClient, Issuer
from tests.testbed.test_engines import make_certificate

OLD, NEW = "8.5.8", "8.6.0"
IMAGE = {"repository": "localhost/zeebe", "pullPolicy": "Never"}


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

    def logs(self) -> str:
        """The last lines of the first broker."""
        return self.namespace.kubectl("logs", "broker-0", "--tail=40")


@contextmanager
def prepared(kubernetes: Kubernetes, helm: str, folder: Path, issuer: Issuer, version: str) -> Iterator[Installation]:
    """Make a namespace, as the chart has it, and the values for one cluster; nothing is installed yet."""
    cluster_id = str(uuid.uuid4())
    host = f"{cluster_id}.{kubernetes.domain}"
    certificate, key = make_certificate(folder, host)
    values: Values = {
        "cluster": {"id": cluster_id, "hostName": host, "audience": f"{cluster_id}/1"},
        "release": {"version": version, "servesRest": version == NEW},
        "image": IMAGE,
        "tls": {"certificate": certificate.read_text(), "key": key.read_text()},
        "tokenKeys": {"jwks": json.dumps(issuer.jwks())},
        "networkPolicy": {"clientsFrom": EDGE},
    }
    namespace = kubernetes.inside(f"fp-{cluster_id}")
    only = ("--namespace", namespace.name, "--show-only", "templates/namespace.yaml", "--set", "namespace.create=true")
    rendered = run_helm(helm, "template", "engine", str(CHART), *only, values=values)
    assert rendered.returncode == 0, rendered.stderr
    kubernetes.apply(rendered.stdout)
    try:
        yield Installation(helm, namespace, values, issuer, certificate)
    finally:
        kubernetes.kubectl("delete", "namespace", namespace.name, "--wait=false")
