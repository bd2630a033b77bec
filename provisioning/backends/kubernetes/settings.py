"""What the Kubernetes backend must be told about a region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.errors import Permanent
from provisioning.backends.engine.store import BackupStore


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a process may ask of one region's API server.

    Attributes:
        per_second, burst: requests. A first start is some twenty; the server's own fairness does the rest.
        at_once: requests that are under way at the same time, watches not counted.
    """

    per_second: float = 50.0
    burst: int = 100
    at_once: int = 8


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """One region that is a Kubernetes cluster.

    Attributes:
        region: its slug.
        kubeconfig: how to reach it; None inside a pod of it, by the pod's own account.
        chart: the folder of charts/engine-cluster.
        helm: the program that renders it.
        ca_cert, ca_key: the installation's certificate authority (PEM), which signs the engines' certificates.
        image: repository of the engine's image, without a tag.
        tags: release -> tag, where a tag is not just the release.
        values: what else the chart is told (scheduling, storage, edge, network policy): a region's own.
        endpoint_port: the port under which the edge leads clients to an engine's gRPC.
        rest_port: the same for REST; None when the edge does not lead there.
        store: where backups go; None when the region has no place for them.
        budget: what one process may ask.
    """

    region: str
    kubeconfig: Path | None
    chart: Path
    ca_cert: Path
    ca_key: Path
    helm: str = "helm"
    image: str = "camunda/zeebe"
    tags: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    endpoint_port: int = 443
    rest_port: int | None = None
    store: BackupStore | None = None
    budget: Budget = Budget()

    @property
    def edge(self) -> str:
        """How clients outside reach engines: the chart's `edge.kind`."""
        return str((self.values.get("edge") or {}).get("kind", "none"))

    @property
    def leads_to_rest(self) -> bool:
        """Whether an edge that goes by names leads to REST as well, if it is told its port.

        An Ingress knows one port for a name; a Gateway needs a listener for it.
        """
        route = (self.values.get("edge") or {}).get("tlsRoute") or {}
        return {"ingress": False, "tlsRoute": bool(route.get("restListener"))}.get(self.edge, True)


def read_values(path: Path | None) -> Mapping[str, Any]:
    """Return a region's own values for the chart; a region without such a file has none.

    Raises:
        Permanent: the file cannot be read, or holds something else.
    """
    if path is None or not path.exists():
        return {}
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise Permanent(_UNREADABLE, internal=repr(error)[:500]) from error
    if not isinstance(values, dict):
        raise Permanent(_UNREADABLE, internal=str(path))
    return values


_UNREADABLE = "The values for this region's chart cannot be read. Correct its file in FLOWPLANE_REGION_VALUES_DIR."
