"""A region on the Kubernetes that was made for tests: real pods of real engines, reached by name through its edge."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import yaml

from provisioning.backends.engine.store import BackupStore
from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.pods import Pod
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import DesiredCluster, Lifecycle
from tests.kubernetes import Kubernetes
from tests.provisioning.backends.conftest import SMALL, TRIO, desired_release, make_authority
from tests.provisioning.backends.contract import persist
from tests.provisioning.backends.tokens import Issuer

CHECKOUT = Path(__file__).resolve().parents[3]
CHART = CHECKOUT / "charts" / "engine-cluster"
RIGHTS = CHECKOUT / "docs" / "region-rights.yaml"
ACCOUNT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: flowplane-region, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flowplane-region}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flowplane-region}
subjects: [{kind: ServiceAccount, name: flowplane-region, namespace: kube-system}]
"""
STORE_PORT = 9123
EDGE = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flowplane-edge"}}}]
STARTER = """
import os, pickle, signal, sys
from provisioning.backends.kubernetes.backend import KubernetesBackend
settings, desired, epoch = pickle.load(sys.stdin.buffer)
KubernetesBackend(settings).start(desired, desired.nodes, epoch=epoch)
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class KubernetesStage:
    """Fulfils `contract.Stage`."""

    settings: KubernetesSettings
    cluster: Kubernetes
    issuer: Issuer = field(default_factory=Issuer)
    version: str = "8.5.8"
    _epochs: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.backend = KubernetesBackend(self.settings)
        persist(self.backend.publish_keys, self.issuer.jwks())

    @property
    def authority(self) -> Path:
        return self.settings.ca_cert

    def another_backend(self) -> KubernetesBackend:
        return KubernetesBackend(self.settings)

    def desired(self, **overrides: object) -> DesiredCluster:
        cluster_id = uuid4()
        wish = DesiredCluster(
            cluster_id=cluster_id,
            spec_generation=1,
            lifecycle=Lifecycle.RUNNING,
            release=desired_release(self.version),
            size=SMALL,
            audience=f"{cluster_id}/1",
            host_name=f"{cluster_id}.{self.cluster.domain}",
        )
        return replace(wish, **overrides)  # type: ignore[arg-type]

    def resilient(self) -> DesiredCluster:
        return self.desired(size=TRIO)

    def upgraded(self, desired: DesiredCluster) -> DesiredCluster:
        return replace(desired, release=desired_release("8.6.0"))

    def broken(self, desired: DesiredCluster) -> DesiredCluster:
        later = self.upgraded(desired)
        return replace(later, release=replace(later.release, main_class="no.such.Main"))

    def next_epoch(self) -> int:
        return next(self._epochs)

    def kill_engine(self, cluster_id: UUID, node: int = 0) -> None:
        found = engines(cluster_id, node)
        assert found, "there is no such engine"
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def shows_end(self, cluster_id: UUID) -> bool:
        return not Pod(self.cluster.inside(f"fp-{cluster_id}").get("pod/broker-0")).is_ready

    def count_engines(self, cluster_id: UUID, node: int = 0) -> int:
        return len(engines(cluster_id, node))

    def start_and_die(self, desired: DesiredCluster, epoch: int) -> None:
        order = pickle.dumps((self.settings, desired, epoch))
        starter = subprocess.run([sys.executable, "-c", STARTER], input=order, check=False)
        assert starter.returncode == -signal.SIGKILL


def engines(cluster_id: UUID, node: int) -> list[int]:
    """The engine processes of one broker, by what they were told; a restore's program is none."""
    told = {
        f"ZEEBE_BROKER_CLUSTER_CLUSTERNAME={cluster_id}".encode(),
        f"ZEEBE_BROKER_CLUSTER_NODEID={node}".encode(),
    }
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            is_java = (entry / "exe").readlink().name == "java"
            variables = set((entry / "environ").read_bytes().split(b"\0"))
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if is_java and told <= variables and b"RestoreApp" not in command:
            found.append(int(entry.name))
    return found


def limited_account(cluster: Kubernetes, folder: Path) -> Path:
    """Write how the region is reached by an account with the rights of the guide, and no others."""
    cluster.apply(RIGHTS.read_text())
    cluster.apply(ACCOUNT)
    token = cluster.kubectl("-n", "kube-system", "create", "token", "flowplane-region", "--duration=24h").strip()
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"] = [{"name": one["name"], "user": {"token": token}} for one in content["users"]]
    path = folder / "limited.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def make_settings(cluster: Kubernetes, folder: Path, store: BackupStore | None) -> KubernetesSettings:
    """How a test reaches the region; the authority is made where it is missing."""
    if not (folder / "ca.pem").exists():
        make_authority(folder)
    helm = shutil.which("helm")
    assert helm is not None, "`make test-kubernetes` brings helm"
    address, _, port = store.endpoint.removeprefix("http://").partition(":") if store else ("", "", "")
    return KubernetesSettings(
        region="kubernetes",
        kubeconfig=limited_account(cluster, folder),
        chart=CHART,
        ca_cert=folder / "ca.pem",
        ca_key=folder / "ca.key",
        helm=helm,
        image="localhost/zeebe",
        values={
            "size": {"cpuMillis": 50},
            "image": {"pullPolicy": "IfNotPresent"},
            "networkPolicy": {"clientsFrom": EDGE},
            **({"backupStore": {"network": {"cidr": f"{address}/32", "port": int(port)}}} if store else {}),
        },
        store=store,
    )


@contextmanager
def served_store(cluster: Kubernetes, folder: Path, port: int = STORE_PORT) -> Iterator[BackupStore]:
    """A store that pods can reach: rclone serves a folder at the node's address."""
    address = node_address(cluster)
    program = shutil.which("rclone", path=str(Path(sys.executable).parent))
    assert program is not None
    (folder / "store").mkdir()
    server = subprocess.Popen(
        [program, "serve", "s3", "--config", "/dev/null", "--addr", f"{address}:{port}", str(folder / "store")],
        env={"RCLONE_AUTH_KEY": '"tests,of-the-tests"', "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    store = BackupStore(f"http://{address}:{port}", "local", "backups-of-tests", "tests", "of-the-tests")
    (folder / "store" / store.bucket).mkdir()
    time.sleep(0.5)
    yield store
    server.terminate()
    server.wait()


def node_address(cluster: Kubernetes) -> str:
    """The address of the one real node."""
    for node in cluster.get("nodes")["items"]:
        if "kwok.x-k8s.io/node" in node["metadata"].get("annotations", {}):
            continue
        for one in node["status"]["addresses"]:
            if one["type"] == "InternalIP":
                return str(one["address"])
    raise AssertionError("there is no real node")
