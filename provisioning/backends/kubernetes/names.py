"""What things of ours are called in a region (docs/adr/0014)."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from provisioning.backends.engine.names import parse_id
from provisioning.backends.kubernetes.kinds import Object, labels

MANAGER = "flowplane"
SYSTEM = "flowplane-system"
_PREFIX = "fp-"

CLUSTER = "flowplane.dev/cluster"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
# What pods may do in a namespace of ours.
POD_SECURITY = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
# Of everything of any cluster that we applied, or that Kubernetes made from what we applied.
OURS = f"{MANAGED_BY}={MANAGER},{CLUSTER}"

EPOCH = "flowplane.dev/epoch"
# On the namespace of a cluster whose removal we have begun.
REMOVING = "flowplane.dev/removing"
CARD = "flowplane.dev/card"
STARTS = "flowplane.dev/starts"
BACKUP = "flowplane.dev/backup"
REBALANCED = "flowplane.dev/rebalanced"
DIGEST = "flowplane.dev/digest"
RELEASE = "flowplane.dev/release"
DATA_EPOCH = "flowplane.dev/data-epoch"
DATA = "flowplane.dev/data"
FORMER = "flowplane.dev/keeps-former"
RESTORE = "flowplane.dev/restore"
LETS_GO = "flowplane.dev/lets-go"
KEYS_DIGEST = "flowplane.dev/keys-digest"

BROKER = "broker"
GATEWAY = "gateway"
TLS = "engine-tls"
TOKEN_KEYS = "token-keys"  # noqa: S105
REGISTER = "register"
FENCES = "fences"
CLAIM_TEMPLATE = "data"
MANAGEMENT_PORT = 9600


def namespace_of(cluster_id: UUID) -> str:
    return f"{_PREFIX}{cluster_id}"


def cluster_of(found: Object) -> UUID | None:
    """Return whose an object says it is."""
    return parse_id(labels(found).get(CLUSTER, ""))


def labels_of(cluster_id: UUID, component: str) -> Mapping[str, str]:
    """Return the labels of what we make beside the chart."""
    return {
        "app.kubernetes.io/name": "engine-cluster",
        "app.kubernetes.io/instance": str(cluster_id),
        COMPONENT: component,
        MANAGED_BY: MANAGER,
        CLUSTER: str(cluster_id),
    }


def selector_of(cluster_id: UUID) -> str:
    return f"{CLUSTER}={cluster_id}"


def pod_of(node: int) -> str:
    return f"{BROKER}-{node}"


def claim_of(node: int) -> str:
    return f"{CLAIM_TEMPLATE}-{BROKER}-{node}"


def node_of(name: str) -> int | None:
    """Return which broker's a pod or a claim is, by its name; None for something else's."""
    owner, _, number = name.removeprefix(f"{CLAIM_TEMPLATE}-").rpartition("-")
    return int(number) if owner == BROKER and number.isdecimal() else None
