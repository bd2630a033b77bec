"""A broker's management interface on a port of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from provisioning.backends.engine.door import Answer, Limits
from provisioning.backends.local.configuration import LOOPBACK

_http = urllib3.PoolManager(num_pools=64, maxsize=1, retries=False)


@dataclass(frozen=True, slots=True)
class LoopbackDoor:
    """A `Door` to the broker whose management interface has this port."""

    port: int

    def ask(self, method: str, path: str, body: Any = None, *, limits: Limits) -> Answer | None:
        """See `Door`."""
        timeout = urllib3.Timeout(connect=limits.connect, read=limits.read)
        address = f"http://{LOOPBACK}:{self.port}/{path}"
        try:
            response = _http.request(method, address, json=body, timeout=timeout, redirect=False)
        except HTTPError:
            return None
        return Answer(response.status, response.data)
