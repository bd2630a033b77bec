"""The values whose outputs are kept, and what Helm makes of them. `python -m tests.charts.cases` writes them anew."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from provisioning.backends.kubernetes.charts import Charts, Wish
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.catalogue import CHANNELS, PLAN_TYPES, RELEASES, PlanTypeEntry
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle
from tests.charts.volumes import CHART, SCRIPTS

GOLDEN = Path(__file__).with_name("golden")
PLANS = GOLDEN / "plans"
CLUSTER_ID = "0c0ffee0-0000-4000-8000-000000000001"
NAMESPACE = f"fp-{CLUSTER_ID}"
Object = dict[str, Any]
Values = dict[str, Any]

EDGE = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flowplane-edge"}}}]
TRIAL: Values = {
    "cluster": {
        "id": CLUSTER_ID,
        "hostName": f"{CLUSTER_ID}.region.example",
        "audience": "0c0ffee0.zeebe",
    },
    "release": {"version": "8.5.8", "servesRest": False},
    "tls": {
        "certificate": "-----BEGIN CERTIFICATE-----\nc2VlbQ==\n-----END CERTIFICATE-----\n",
        "key": "-----BEGIN PRIVATE KEY-----\nc2VlbQ==\n-----END PRIVATE KEY-----\n",
    },
    "tokenKeys": {"jwks": '{"keys": [{"kty": "RSA", "kid": "one", "n": "AQ", "e": "AQAB"}]}'},
    "networkPolicy": {"clientsFrom": EDGE},
}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """Return `base` with what `over` says, folder by folder, as Helm does it."""
    result = dict(base)
    for name, value in over.items():
        is_both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if is_both else value
    return result


def trial(**over: Any) -> Values:
    """The smallest cluster, with other values."""
    return merged(TRIAL, over)


STORE = {
    "enabled": True,
    "endpoint": "https://store.example:9000",
    "bucket": "engine-backups",
    "accessKey": "access",
    "secretKey": "secret",
    "network": {"cidr": "198.51.100.7/32", "port": 9000},
}
SIZE_OF_THREE = {
    "brokers": 3,
    "partitions": 3,
    "replicationFactor": 3,
    "memoryMiB": 1024,
    "heapMiB": 320,
    "diskMiB": 2048,
    "cpuMillis": 1000,
}
TRIO = trial(
    release={"version": "8.6.0", "servesRest": True, "mainClass": "io.camunda.application.StandaloneBroker"},
    size=SIZE_OF_THREE,
    backupStore=STORE,
    license={"key": "license"},
    scheduling={
        "antiAffinity": "required",
        "nodeSelector": {"flowplane.dev/engines": "true"},
        "tolerations": [{"key": "flowplane.dev/engines", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "engines",
    },
    storage={"className": "encrypted"},
    updateStrategy="OnDelete",
    digest="0123456789abcdef",
    dataEpoch="2",
    mayBeginEmptyFrom=2,
    managedBy="flowplane",
    namespace={
        "create": True,
        "labels": {"flowplane.dev/region": "north"},
        "annotations": {"flowplane.dev/epoch": "7"},
    },
    card={"organization": "org", "cluster_name": 'Orders: "north" & <south>'},
)
GATEWAYS = merged(TRIO, {"gateway": {"mode": "standalone"}, "scheduling": {"antiAffinity": "preferred"}})

# Kept whole.
WHOLE = {"three-brokers": TRIO}
# Of these, only the lines that are not as without (the first of each pair) are kept.
CLOSE: dict[str, tuple[Values, Values]] = {"standalone-gateway": (TRIO, GATEWAYS)}
# Of these, only the objects that are not as without (the first of each pair) are kept.
REST = trial(release={"version": "8.6.0", "servesRest": True})
PARTS: dict[str, tuple[Values, Values]] = {
    "suspended": (TRIO, merged(TRIO, {"replicas": 0})),
    "shrinking": (TRIO, merged(TRIO, {"replicas": 4})),
    "edge-tls-route": (
        REST,
        merged(
            REST,
            {
                "edge": {
                    "kind": "tlsRoute",
                    "tlsRoute": {
                        "gateway": "edge",
                        "gatewayNamespace": "flowplane-edge",
                        "grpcListener": "grpc",
                        "restListener": "rest",
                    },
                }
            },
        ),
    ),
    "edge-ingress": (
        REST,
        merged(REST, {"edge": {"kind": "ingress", "ingress": {"restHostName": "rest.region.example"}}}),
    ),
    "edge-load-balancer": (
        REST,
        merged(
            REST,
            {
                "edge": {
                    "kind": "loadBalancer",
                    "loadBalancer": {
                        "annotations": {"balancer.example/host": "{{ .Values.cluster.hostName }}"},
                        "className": "example.org/balancer",
                        "sourceRanges": ["203.0.113.0/24"],
                        "trafficPolicy": "Local",
                    },
                }
            },
        ),
    ),
    "edge-node-port": (REST, merged(REST, {"edge": {"kind": "nodePort", "nodePort": {"grpc": 30500}}})),
    "jobs": (
        TRIO,
        merged(
            TRIO,
            {
                "restore": {
                    "enabled": True,
                    "dataEpoch": "3",
                    "brokers": [0, 2],
                    "backup": 1790000000,
                    "basePath": "another-cluster",
                    "release": "8.5.8",
                    "mebibytes": 120,
                    "checkpoints": {"1": "4503", "2": "17", "3": "9007199254740993"},
                },
                "letGo": {"enabled": True, "brokers": [1]},
                "beginAnew": {"enabled": True, "brokers": [1]},
            },
        ),
    ),
    "observed": (
        TRIO,
        merged(
            TRIO,
            {
                "networkPolicy": {
                    "managementFrom": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "prometheus"}}}]
                },
                "monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}}},
                "exporters": {
                    "environment": {"ZEEBE_BROKER_EXPORTERS_OWN_JARPATH": "/exporters/own.jar"},
                    "volume": {"configMap": {"name": "own-exporter"}},
                    "egress": [
                        {
                            "to": [{"ipBlock": {"cidr": "198.51.100.8/32"}}],
                            "ports": [{"port": 5432, "protocol": "TCP"}],
                        }
                    ],
                },
                "image": {"digest": "sha256:" + "ab" * 32, "pullSecrets": ["registry"], "pullPolicy": "Always"},
            },
        ),
    ),
    "by-hand": (
        TRIAL,
        trial(
            tls={"existingSecret": "my-tls", "certificate": "", "key": ""},
            tokenKeys={"existingConfigMap": "my-keys", "jwks": ""},
            license={"existingSecret": "my-license"},
            backupStore={**STORE, "existingSecret": "my-store", "accessKey": "", "secretKey": ""},
            networkPolicy={"enabled": False},
            scheduling={"antiAffinity": "none"},
        ),
    ),
}
ALL: dict[str, Values] = {"trial": TRIAL} | WHOLE | {name: values for name, (_, values) in (CLOSE | PARTS).items()}


def run_helm(helm: str, *arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with values on its standard input."""
    given = ("--values", "-") if values is not None else ()
    return subprocess.run(
        [helm, *arguments, *given], input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60
    )


def render(
    helm: str, values: Values, *, chart: Path = CHART, release: str = "orders", namespace: str = NAMESPACE
) -> list[Object]:
    """Return the objects that Helm makes."""
    done = run_helm(helm, "template", release, str(chart), "--namespace", namespace, values=values)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """Return the object of this kind and name, of which there is one."""
    (found,) = (found for found in objects if (found["kind"], found["metadata"]["name"]) == (kind, name))
    return found


def of_plan(helm: str, entry: PlanTypeEntry) -> list[Object]:
    """Return what the product itself makes of a new cluster of this size, in a region that adds nothing of its own."""
    version = CHANNELS[0].default_release
    (release,) = (one for one in RELEASES if one.version == version)
    desired = DesiredCluster(
        cluster_id=UUID(CLUSTER_ID),
        spec_generation=1,
        lifecycle=Lifecycle.RUNNING,
        release=DesiredRelease(version, "", release.sha256, release.main_class, serves_rest=release.serves_rest),
        size=DesiredSize(
            entry.brokers,
            entry.partitions,
            entry.replication_factor,
            entry.memory_mib,
            entry.heap_mib,
            entry.disk_mib,
        ),
        audience="",
        host_name="",
        gateway=entry.gateway,
    )
    region = KubernetesSettings("north", None, CHART, Path("ca.pem"), Path("ca.key"), helm=helm)
    return [dict(found) for found in Charts(region).kinds(Wish(desired, entry.brokers))]


def require_kept(texts: Iterable[tuple[Path, str]], writer: str) -> None:
    """Fail where an output is not the kept one, or is kept and not made; `writer` is the module that writes them."""
    made = dict(texts)
    kept = {path: path.read_text() for folder in {path.parent for path in made} for path in folder.glob("*.*")}
    assert {str(path): text for path, text in kept.items()} == {str(path): text for path, text in made.items()}, (
        f"`python -m {writer}` writes them anew; look at what it changes"
    )


def golden_texts(helm: str) -> Iterator[tuple[Path, str]]:
    """Yield each kept output: its file and what belongs into it."""
    for name, values in WHOLE.items():
        yield GOLDEN / f"{name}.yaml", to_text(render(helm, values))
    for name, (without, values) in CLOSE.items():
        yield GOLDEN / f"{name}.diff", to_difference(render(helm, without), render(helm, values))
    for name, (without, values) in PARTS.items():
        plain = render(helm, without)
        changed = [found for found in render(helm, values) if found not in plain]
        yield GOLDEN / f"{name}.yaml", to_text(changed)
    first, *others = PLAN_TYPES
    for entry in others:
        yield PLANS / f"{entry.slug}.diff", to_difference(of_plan(helm, first), of_plan(helm, entry))
    yield PLANS / f"{first.slug}.yaml", to_text(of_plan(helm, first))


def to_text(objects: list[Object]) -> str:
    """Return objects as text for people. The scripts stand elsewhere already."""
    for found in objects:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "engine-files":
            for name in found["data"]:
                assert found["data"][name] == (SCRIPTS / name).read_text()
                found["data"][name] = f"(files/{name})"
    return yaml.safe_dump_all(objects, sort_keys=False, width=120, allow_unicode=True)


def to_difference(without: Sequence[Object], objects: Sequence[Object]) -> str:
    """Return what is gone (-) and what has come (+): a line for each value, which says where it stands."""
    lines = difflib.unified_diff(_lines(without), _lines(objects), n=0, lineterm="")
    return "".join(f"{line}\n" for line in list(lines)[2:] if not line.startswith("@@"))


def _lines(objects: Sequence[Object]) -> list[str]:
    return [line for found in objects for line in _below(found, f"{found['kind']}/{found['metadata']['name']} ")]


def _below(part: Any, path: str) -> Iterator[str]:
    if isinstance(part, dict) and part:
        for name, value in part.items():
            yield from _below(value, f"{path}.{name}")
    elif isinstance(part, list) and part:
        for index, value in enumerate(part):
            name = value.get("name", index) if isinstance(value, dict) else index
            yield from _below(value, f"{path}[{name}]")
    else:
        yield f"{path}: {json.dumps(part, ensure_ascii=False)}"


def keep(texts: Callable[[str], Iterable[tuple[Path, str]]]) -> int:
    """Write all kept outputs anew, and remove what is none any more; return the exit status."""
    helm = shutil.which("helm")
    if helm is None:
        print("There is no helm on PATH. `python -m testbed build` makes one.", file=sys.stderr)
        return 1
    made = dict(texts(helm))
    for folder in {path.parent for path in made}:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.*"):
            path.unlink()
    for path, text in made.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(keep(golden_texts))
