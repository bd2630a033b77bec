"""A broker's management interface, through the API server: no network policy opens it to anybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provisioning.backends.engine.door import Answer, Limits
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.names import MANAGEMENT_PORT, pod_of


@dataclass(frozen=True, slots=True)
class ProxyDoor:
    """A `Door` to the broker with this number."""

    api: Api
    namespace: str
    node: int

    def ask(self, method: str, path: str, body: Any = None, *, limits: Limits) -> Answer | None:
        """See `Door`."""
        return self.api.ask_pod(self.namespace, pod_of(self.node), MANAGEMENT_PORT, method, path, body, limits)
