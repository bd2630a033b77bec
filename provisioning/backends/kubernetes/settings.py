"""What the Kubernetes backend must be told about a region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
