"""The values whose outputs are kept, and what Helm makes of them. `python -m tests.charts.cases` writes them anew."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.charts.volumes import CHART, SCRIPTS

GOLDEN = Path(__file__).with_name("golden")
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
WHOLE = {"trial": TRIAL, "three-brokers": TRIO, "standalone-gateway": GATEWAYS}
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
                        "annotations": {"balancer.example/internal": "true"},
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
ALL: dict[str, Values] = WHOLE | {name: values for name, (_, values) in PARTS.items()}


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


def require_kept(texts: Iterable[tuple[Path, str]], writer: str) -> None:
    """Fail where an output is not the kept one; `writer` is the module that writes them anew."""
    made = dict(texts)
    assert {path.name: path.read_text() if path.exists() else "" for path in made} == {
        path.name: text for path, text in made.items()
    }, f"`python -m {writer}` writes them anew; look at what it changes"


def golden_texts(helm: str) -> Iterator[tuple[Path, str]]:
    """Yield each kept output: its file and what belongs into it."""
    for name, values in WHOLE.items():
        yield GOLDEN / f"{name}.yaml", to_text(render(helm, values))
    for name, (without, values) in PARTS.items():
        plain = render(helm, without)
        changed = [found for found in render(helm, values) if found not in plain]
        yield GOLDEN / f"{name}.yaml", to_text(changed)


def to_text(objects: list[Object]) -> str:
    """Return objects as text for people. The scripts stand elsewhere already."""
    for found in objects:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "engine-files":
            for name in found["data"]:
                assert found["data"][name] == (SCRIPTS / name).read_text()
                found["data"][name] = f"(files/{name})"
    return yaml.safe_dump_all(objects, sort_keys=False, width=120, allow_unicode=True)


def keep(folder: Path, texts: Callable[[str], Iterable[tuple[Path, str]]]) -> int:
    """Write all kept outputs anew; return the exit status."""
    helm = shutil.which("helm")
    if helm is None:
        print("There is no helm on PATH. `python -m testbed build` makes one.", file=sys.stderr)
        return 1
    folder.mkdir(exist_ok=True)
    for path, text in texts(helm):
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(keep(GOLDEN, golden_texts))
