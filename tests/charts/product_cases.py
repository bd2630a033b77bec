"""The same for Flowplane's own chart: `python -m tests.charts.product_cases` writes its kept outputs anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.charts import cases
from tests.charts.cases import Object, Values, keep, merged, to_text

CHART = Path(__file__).parents[2] / "charts" / "flowplane"
GOLDEN = Path(__file__).with_name("golden-flowplane")
NAMESPACE = "flowplane"
RELEASE = "north"


def host(address: str) -> list[Object]:
    """One machine, as a peer of a network policy."""
    return [{"ipBlock": {"cidr": f"{address}/32"}}]


INGRESS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
COMMON: Values = {
    "image": {"repository": "localhost/flowplane", "tag": "dev"},
    "addresses": {"public": "https://flowplane.example", "api": "https://api.flowplane.example:8443"},
    "mail": {"from": "flowplane@flowplane.example"},
    "region": {"slug": "north", "name": "North", "domain": "north.example"},
    "networkPolicy": {
        "webFrom": INGRESS,
        "mail": {"peers": host("198.51.100.25")},
        "kubernetesApi": {"peers": host("198.51.100.1")},
    },
}
# On servers of somebody else's.
EXTERNAL = merged(
    COMMON,
    {"networkPolicy": {"database": {"peers": host("198.51.100.32")}, "broker": {"peers": host("198.51.100.63")}}},
)
TRIAL = merged(COMMON, {"trial": {"postgres": {"enabled": True}, "redis": {"enabled": True}}})


def external(**over: Any) -> Values:
    """The usual installation, with other values."""
    return merged(EXTERNAL, over)


# Of all but the first, only the objects that are not as without (the first of each pair) are kept.
PARTS: dict[str, tuple[Values, Values]] = {
    "trial": (EXTERNAL, TRIAL),
    "everything": (
        EXTERNAL,
        external(
            image={"digest": "sha256:" + "ab" * 32, "pullSecrets": ["registry"], "pullPolicy": "Always"},
            addresses={"alsoAllowed": ["web.flowplane.svc"]},
            secrets={"withLicense": True, "withMetricsToken": True},
            offering="commercial",
            options={"mfa": False, "logFormat": "text", "undoWindowSeconds": 3600},
            region={"edgeRestPort": 8443, "values": {"edge": {"kind": "ingress"}}},
            backupStore={"enabled": True, "endpoint": "https://store.example", "bucket": "engines"},
            clock={"replicas": 2},
            web={"image": "localhost/flowplane:before", "replicas": 1},
            ingress={"enabled": True, "className": "nginx", "tlsSecret": "web-tls", "annotations": {"a/b": "c"}},
            networkPolicy={"backupStore": {"peers": host("198.51.100.90")}},
            scheduling={
                "nodeSelector": {"pool": "control"},
                "tolerations": [{"key": "control", "operator": "Exists"}],
                "priorityClassName": "control",
            },
        ),
    ),
    "other-clusters": (EXTERNAL, external(region={"kubeconfigSecret": "kubeconfigs"})),
    "tls-route": (
        EXTERNAL,
        external(
            region={"values": {"edge": {"kind": "tlsRoute"}, "monitoring": {"serviceMonitor": {"enabled": True}}}}
        ),
    ),
    "open-network": (EXTERNAL, external(networkPolicy={"enabled": False}, rbac={"create": False})),
}
ALL: dict[str, Values] = {"external": EXTERNAL} | {name: values for name, (_, values) in PARTS.items()}
# Nobody may change these without its showing up by name.
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def render(helm: str, values: Values) -> list[Object]:
    """Return the objects that Helm makes."""
    return cases.render(helm, values, chart=CHART, release=RELEASE, namespace=NAMESPACE)


def golden_texts(helm: str) -> Iterator[tuple[Path, str]]:
    """Yield each kept output: its file and what belongs into it."""
    whole = render(helm, EXTERNAL)
    rights = [found for found in whole if found["kind"] in RIGHTS]
    yield GOLDEN / "rights.yaml", to_text(rights)
    yield GOLDEN / "external.yaml", to_text([found for found in whole if found not in rights])
    for name, (without, values) in PARTS.items():
        plain = render(helm, without)
        yield GOLDEN / f"{name}.yaml", to_text([found for found in render(helm, values) if found not in plain])


if __name__ == "__main__":
    sys.exit(keep(golden_texts))
