"""The sides that a burst and a single tenant of ours stand beside: Helm, a bare client, an operator on kopf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from bench.child import Child
from bench.k8s_bare import TEMPLATE_ID
from bench.k8s_place import BARE, HELM, KOPF, Audit, cpu_seconds, peak_mb
from embedded.setup import CHECKOUT
from provisioning.backends.engine.tls import KeyPair, load_authority, provide_certificate
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.apply import finish, names_in_certificate
from provisioning.backends.kubernetes.charts import Charts, Identity, Wish
from provisioning.backends.kubernetes.fence import namespace_for
from provisioning.backends.kubernetes.holdings import Holdings
from provisioning.backends.kubernetes.kinds import Kind
from provisioning.backends.kubernetes.names import BROKER, CLUSTER, MANAGED_BY, MANAGER, namespace_of
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.catalogue import PLAN_TYPES, RELEASES
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle

JWKS = json.dumps({"keys": [{"kty": "RSA", "kid": "one", "n": "AQ", "e": "AQAB"}]})
TEMPLATE_VARIABLE = "BENCH_TEMPLATE"
GROUP, VERSION, PLURAL = "bench.flowplane.dev", "v1", "engineclusters"
RESOURCE = Kind("EngineCluster", PLURAL, f"{GROUP}/{VERSION}", is_namespaced=False)
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PLURAL}.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Cluster",
        "names": {"plural": PLURAL, "singular": "enginecluster", "kind": RESOURCE.name},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@dataclass(frozen=True, slots=True)
class Laid:
    """What a side took for some tenants; CPU is the client's own."""

    tenants: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    peak_mb: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return len(self.tenants) / self.seconds


def desired_small(cluster_id: UUID, domain: str) -> DesiredCluster:
    """A cluster of the smallest size, as the product would wish it."""
    size = next(one for one in PLAN_TYPES if one.slug == "small")
    release = next(one for one in RELEASES if one.version == "8.5.8")
    return DesiredCluster(
        cluster_id=cluster_id,
        spec_generation=1,
        lifecycle=Lifecycle.RUNNING,
        release=DesiredRelease(
            release.version, release.coordinates, release.sha256, release.main_class, release.serves_rest
        ),
        size=DesiredSize(
            size.brokers, size.partitions, size.replication_factor, size.memory_mib, size.heap_mib, size.disk_mib
        ),
        audience=f"{cluster_id}/1",
        host_name=f"{cluster_id}.{domain}",
    )


def _identity(region: KubernetesSettings, desired: DesiredCluster) -> Identity:
    authority = load_authority(region.ca_cert, region.ca_key)
    return Identity(provide_certificate(KeyPair(b"", b""), authority, names_in_certificate(desired)), JWKS)


def write_template(region: KubernetesSettings, domain: str, path: Path) -> None:
    """Write one tenant's objects as the product lays them down, under labels that it does not follow."""
    desired = desired_small(TEMPLATE_ID, domain)
    rendered = Charts(region).render(Wish(desired, 1), _identity(region, desired))
    text = json.dumps([namespace_for(desired, 1), *finish(rendered, Holdings(), starts=1)])
    text = text.replace(f'"{MANAGED_BY}": "{MANAGER}"', f'"{MANAGED_BY}": "bare"').replace(CLUSTER, f"{GROUP}/tenant")
    path.write_text(text, encoding="utf-8")


class HelmSide:
    """`helm install --create-namespace` of the chart with the values that the product renders it with."""

    name = HELM

    def __init__(self, region: KubernetesSettings, domain: str, folder: Path) -> None:
        self._region, self._domain, self._folder = region, domain, folder
        self._identity = _identity(region, desired_small(TEMPLATE_ID, domain))
        self._charts = Charts(region)

    def lay(self, count: int) -> Laid:
        """Install so many, one after the other."""
        tenants, seconds, used = [], 0.0, 0.0
        for _ in range(count):
            cluster_id = uuid4()
            argv = self._argv(cluster_id)
            began = time.monotonic()
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=_QUIET)
            _, status, spent = os.wait4(pid, 0)
            seconds += time.monotonic() - began
            if status:
                raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
            used += spent.ru_utime + spent.ru_stime
            tenants.append(namespace_of(cluster_id))
        return Laid(tuple(tenants), seconds, used, spent.ru_maxrss * 1024 / 1e6)

    def _argv(self, cluster_id: UUID) -> list[str]:
        values = self._folder / f"{cluster_id}.values.json"
        values.write_text(json.dumps(self._values(cluster_id)), encoding="utf-8")
        place = ["--namespace", namespace_of(cluster_id), "--create-namespace"]
        reach = ["--kubeconfig", str(self._folder / f"{HELM}.yaml")]
        chart = ["install", "engine", str(self._region.chart), "--values", str(values)]
        return [self._region.helm, *chart, *place, *reach]

    def _values(self, cluster_id: UUID) -> dict[str, Any]:
        desired = desired_small(cluster_id, self._domain)
        return {
            **self._charts.values(Wish(desired, 1)),
            "cluster": {"id": str(cluster_id), "hostName": desired.host_name, "audience": desired.audience},
            "digest": desired.digest,
            "tls": {"certificate": self._identity.pair.chain.decode(), "key": self._identity.pair.key.decode()},
            "tokenKeys": {"jwks": JWKS},
            "managedBy": "",
        }


_QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


class BareSide:
    """The bare client, a process of its own for each block."""

    name = BARE

    def __init__(self, folder: Path, template: Path) -> None:
        self._argv = [sys.executable, "-m", "bench.k8s_bare", str(folder / f"{BARE}.yaml"), str(template)]

    def lay(self, count: int) -> Laid:
        """Lay so many down by eight threads."""
        done = subprocess.run([*self._argv, str(count)], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        spent = json.loads(done.stdout)
        tenants = tuple(f"fp-{tenant}" for tenant in spent["tenants"])
        return Laid(tenants, spent["seconds"], spent["cpu_seconds"], spent["peak_mb"])


class KubectlSide:
    """`kubectl apply` of a tenant's rendered manifests, and `kubectl wait` until its engine is ready."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._folder, self._template = folder, template.read_text(encoding="utf-8")
        self._kubectl = ["kubectl", "--kubeconfig", str(folder / f"{BARE}.yaml")]

    def start(self) -> Laid:
        """Lay one down and wait until the region calls it ready."""
        tenant = str(uuid4())
        manifests = self._folder / f"{tenant}.manifests.json"
        items = json.loads(self._template.replace(str(TEMPLATE_ID), tenant))
        manifests.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8")
        namespace = f"fp-{tenant}"
        began = time.monotonic()
        self._run("apply", "--filename", str(manifests))
        # `rollout status` knows nothing of a set whose pods are replaced when they are deleted, as these are.
        ready = "jsonpath={.status.readyReplicas}=1"
        self._run("--namespace", namespace, "wait", f"statefulset/{BROKER}", f"--for={ready}", "--timeout=600s")
        return Laid((namespace,), time.monotonic() - began, 0.0)

    def end(self, laid: Laid) -> None:
        """Remove what was started, and wait until it is gone."""
        self._run("delete", "namespace", *laid.tenants)

    def _run(self, *words: str) -> None:
        subprocess.run([*self._kubectl, *words], check=True, stdout=subprocess.DEVNULL)


class KopfSide:
    """An operator on kopf that is there all the time; each tenant is a custom resource."""

    name = KOPF

    def __init__(self, api: Api, audit: Audit, folder: Path, template: Path) -> None:
        self._api, self._audit = api, audit
        argv = [sys.executable, "-m", "kopf", "run", "-m", "bench.k8s_operator", "--standalone", "--all-namespaces"]
        reach = {"KUBECONFIG": str(folder / f"{KOPF}.yaml"), TEMPLATE_VARIABLE: str(template)}
        self._operator = Child([*argv, "--quiet"], folder / "kopf.log", {**os.environ, **reach})

    def lay(self, count: int) -> Laid:
        """Ask for so many; until the operator has laid the last one down."""
        ids = [str(uuid4()) for _ in range(count)]
        place, used = self._audit.place(), cpu_seconds([self._operator.pid])
        began = time.time()
        for one in ids:
            self._api.create(RESOURCE, "", {**_RESOURCE, "metadata": {"name": one}})
        applied = self._audit.applied(place, KOPF, {f"fp-{one}" for one in ids})
        spent = cpu_seconds([self._operator.pid]) - used
        return Laid(tuple(applied), max(applied.values()) - began, spent, peak_mb(self._operator.pid))

    def end(self) -> None:
        self._operator.end()


_RESOURCE = {"apiVersion": f"{GROUP}/{VERSION}", "kind": RESOURCE.name, "spec": {}}
