"""How a region is reached: its address and our credentials, as the Kubernetes client's package loads them.

That package is what knows kubeconfig files, programs that fetch tokens, and a pod's own account, whose token changes
every hour. Nothing else of it is used: answers are read as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import load_incluster_config, load_kube_config
from kubernetes.config.config_exception import ConfigException
from yaml import YAMLError

from provisioning.errors import RegionUnreachable


@dataclass(frozen=True, slots=True)
class Connection:
    """One client's way to a region; for any number of threads."""

    configuration: Any
    http: urllib3.PoolManager

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Return what proves who we are, renewed when its time is over."""
        proof = (self.configuration.auth_settings().get("BearerToken") or {}).get("value")
        return {"Authorization": str(proof)} if proof else {}


def connect(kubeconfig: Path | None) -> Connection:
    """Read the credentials anew.

    Raises:
        RegionUnreachable: there are none, or they cannot be read.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            load_kube_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=configuration, persist_config=False
            )
        if "://" not in str(configuration.host):
            raise ValueError("it names no server")
        configuration.connection_pool_maxsize = 32
        configuration.retries = False
        http = RESTClientObject(configuration).pool_manager
    except (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegionUnreachable(
            "The credentials for this region cannot be read. Lay its kubeconfig where FLOWPLANE_KUBECONFIG_DIR says.",
            internal=repr(error)[:500],
        ) from error
    return Connection(configuration, http)
