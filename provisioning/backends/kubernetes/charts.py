"""A wish as objects: the chart, rendered by Helm once for each set of values, and stamped with a cluster's identity.

Helm sees placeholders in place of whose cluster it is, so its 40 ms are spent once for all clusters of a size and a
release; and no secret of any cluster reaches it.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

import yaml

from common.errors import Permanent
from provisioning.backends.engine.tls import KeyPair
from provisioning.backends.kubernetes.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Object,
    in_order,
)
from provisioning.backends.kubernetes.names import MANAGER, namespace_of
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import DesiredCluster, DesiredSize, Gateway

HELM_SECONDS = 20.0
# A region has a handful of sizes and releases, each with a few numbers of pods; one rendering is some 50 kB.
MAX_KEPT = 64
# No cluster is without these. What is not rendered is removed, so a chart that came to us torn would end every engine.
ESSENTIAL = frozenset({kind.name for kind in (SERVICE_ACCOUNT, SECRET, CONFIG_MAP, SERVICE, STATEFUL_SET)})
# What Helm is told in place of an identity. None is part of another, and none looks like anything that is rendered.
CLUSTER_ID = "5eed0f1a-0000-4000-8000-c1a57e21d000"
HOST_NAME = "placeholder-host.flowplane.invalid"
AUDIENCE = "placeholder-audience"
DIGEST = "placeholder-digest"
LICENSE = "placeholder-license"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nplaceholder"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nplaceholder"
KEYS = '{"keys": [], "of": "placeholder"}'
ACCESS_KEY = "placeholder-access-key"
STORE_SECRET = "placeholder-store-secret"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one cluster's objects from another's of the same size and release."""

    pair: KeyPair
    jwks: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a cluster's objects are made from, besides its identity.

    Attributes:
        replicas: pods that are to run.
        empty_from: brokers from this number on may begin with nothing, None when none may.
        extra: values for one occasion, such as a restore's.
    """

    desired: DesiredCluster
    replicas: int
    empty_from: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Charts:
    """Renders the objects of one region's clusters; for any number of threads."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._chart = _digest_of(settings.chart)
        self._kept: OrderedDict[str, tuple[Object, ...]] = OrderedDict()
        self._lock = Lock()

    def render(self, wish: Wish, identity: Identity) -> tuple[Object, ...]:
        """Return all objects of a cluster, in the order in which they are applied.

        Raises:
            Permanent: the chart does not take the region's values, or does not make what every cluster has.
        """
        stamps = self._stamps(wish.desired, identity)
        return tuple(_stamp(found, stamps) for found in self._rendered(wish))

    def kinds(self, wish: Wish) -> tuple[Object, ...]:
        """Return the same objects without an identity: good for telling which there are."""
        return self._rendered(wish)

    def values(self, wish: Wish) -> dict[str, Any]:
        """Return what Helm is told: placeholders for the identity, everything else as it is wished."""
        desired = wish.desired
        made = {
            "cluster": {"id": CLUSTER_ID, "hostName": HOST_NAME, "audience": AUDIENCE},
            "release": {
                "version": desired.release.version,
                "servesRest": desired.release.serves_rest,
                "mainClass": desired.release.main_class,
            },
            "image": {
                "repository": self._settings.image,
                "tag": self._settings.tags.get(desired.release.version, desired.release.version),
            },
            "size": _size(desired.size),
            "gateway": {"mode": desired.gateway.value},
            "replicas": wish.replicas,
            "dataEpoch": str(desired.data.epoch),
            "mayBeginEmptyFrom": wish.empty_from,
            "digest": DIGEST,
            "tls": {"certificate": CERTIFICATE, "key": PRIVATE_KEY},
            "tokenKeys": {"jwks": KEYS},
            "license": {"key": LICENSE if desired.license_key else ""},
            "backupStore": self._store(),
            "updateStrategy": "OnDelete",
            "managedBy": MANAGER,
        }
        return _merged(_merged(made, self._settings.values), wish.extra)

    def has_gateways(self, desired: DesiredCluster) -> bool:
        """Return whether pods of their own answer clients: as the size says, or the region's own values."""
        values = self.values(Wish(desired, desired.size.brokers))
        return bool(values["gateway"]["mode"] == Gateway.STANDALONE)

    def gateways(self, desired: DesiredCluster) -> int:
        """Return how many pods of their own answer clients of a cluster that runs; 0 where its brokers do."""
        if not self.has_gateways(desired):
            return 0
        rendered = self.kinds(Wish(desired, desired.size.brokers))
        return next(int(one["spec"]["replicas"]) for one in rendered if one["kind"] == DEPLOYMENT.name)

    def _store(self) -> dict[str, Any]:
        store = self._settings.store
        if store is None:
            return {"enabled": False}
        return {
            "enabled": True,
            "endpoint": store.endpoint,
            "region": store.region,
            "bucket": store.bucket,
            "pathStyle": store.path_style,
            "accessKey": ACCESS_KEY,
            "secretKey": STORE_SECRET,
        }

    def _stamps(self, desired: DesiredCluster, identity: Identity) -> dict[str, str]:
        store = self._settings.store
        return {
            CLUSTER_ID: str(desired.cluster_id),
            HOST_NAME: desired.host_name,
            AUDIENCE: desired.audience,
            DIGEST: desired.digest,
            LICENSE: desired.license_key,
            CERTIFICATE: identity.pair.chain.decode(),
            PRIVATE_KEY: identity.pair.key.decode(),
            KEYS: identity.jwks,
            ACCESS_KEY: store.access_key if store else "",
            STORE_SECRET: store.secret_key if store else "",
        }

    def _rendered(self, wish: Wish) -> tuple[Object, ...]:
        values = json.dumps(self.values(wish), sort_keys=True)
        key = sha256(f"{self._chart} {values}".encode()).hexdigest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        rendered = tuple(sorted(self._run_helm(values), key=in_order))
        with self._lock:
            self._kept[key] = rendered
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return rendered

    def _run_helm(self, values: str) -> Sequence[Object]:
        namespace = namespace_of(UUID(CLUSTER_ID))
        command = [self._settings.helm, "template", CLUSTER_ID, str(self._settings.chart)]
        try:
            ran = subprocess.run(
                [*command, "--namespace", namespace, "--values", "-"],
                input=values,
                capture_output=True,
                text=True,
                timeout=HELM_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise Permanent(
                "The chart does not take this region's values. Correct its file in FLOWPLANE_REGION_VALUES_DIR.",
                internal=str(error.stderr)[:1000],
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Permanent(
                "Helm cannot be run, so no object can be made. Check what FLOWPLANE_HELM names.", internal=repr(error)
            ) from error
        rendered = [found for found in yaml.load_all(ran.stdout, Loader=yaml.CSafeLoader) if found]
        if missing := ESSENTIAL - {found["kind"] for found in rendered}:
            raise Permanent(
                "The chart that engine clusters are made from does not make all that a cluster needs, so nothing is "
                "changed. Lay it whole where FLOWPLANE_CHART says.",
                internal=f"missing: {', '.join(sorted(missing))}",
            )
        return rendered


def _size(size: DesiredSize) -> dict[str, int]:
    return {
        "brokers": size.brokers,
        "partitions": size.partitions,
        "replicationFactor": size.replication_factor,
        "memoryMiB": size.memory_mib,
        "heapMiB": size.heap_mib,
        "diskMiB": size.disk_mib,
    }


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what `over` says, folder by folder, as Helm does it."""
    merged = dict(base)
    for name, value in over.items():
        is_both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if is_both else value
    return merged


def _stamp(found: Object, stamps: Mapping[str, str]) -> Object:
    stamped: Object = _replace(found, stamps)
    if found["kind"] == "Secret":
        data = {name: _restamp(value, stamps) for name, value in (found.get("data") or {}).items()}
        return {**stamped, "data": data}
    return stamped


def _replace(part: Any, stamps: Mapping[str, str]) -> Any:
    if isinstance(part, str):
        for placeholder, value in stamps.items():
            if placeholder in part:
                part = part.replace(placeholder, value)
        return part
    if isinstance(part, dict):
        return {_replace(name, stamps): _replace(value, stamps) for name, value in part.items()}
    if isinstance(part, list):
        return [_replace(one, stamps) for one in part]
    return part


def _restamp(encoded: str, stamps: Mapping[str, str]) -> str:
    """Stamp what a Secret holds: it is hidden in base64."""
    content = base64.b64decode(encoded).decode()
    return base64.b64encode(_replace(content, stamps).encode()).decode()


def _digest_of(chart: Path) -> str:
    """Return what tells this version of the chart from another.

    Raises:
        Permanent: there is no chart.
    """
    if not (chart / "Chart.yaml").is_file():
        raise Permanent(
            "The chart that engine clusters are made from is missing. Check FLOWPLANE_CHART.", internal=str(chart)
        )
    digest = sha256()
    for path in sorted(path for path in chart.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(chart)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
