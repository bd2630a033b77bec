"""Kinds of objects and where the API server has them; a fixed table, so that nothing is ever asked what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

# An object as the API server writes it: JSON, never decoded into classes (performance.md: 19 times the time).
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    name: str
    plural: str
    group_version: str
    is_namespaced: bool = True

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return where objects of it are: all of them, those of a namespace, or a single one."""
        root = "api" if "/" not in self.group_version else "apis"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace and self.is_namespaced else ""
        single = f"/{quote(name, safe='')}" if name else ""
        return f"/{root}/{self.group_version}{within}/{self.plural}{single}"


NAMESPACE = Kind("Namespace", "namespaces", "v1", is_namespaced=False)
POD = Kind("Pod", "pods", "v1")
EVENT = Kind("Event", "events", "v1")
CLAIM = Kind("PersistentVolumeClaim", "persistentvolumeclaims", "v1")
JOB = Kind("Job", "jobs", "batch/v1")
SERVICE_ACCOUNT = Kind("ServiceAccount", "serviceaccounts", "v1")
QUOTA = Kind("ResourceQuota", "resourcequotas", "v1")
LIMITS = Kind("LimitRange", "limitranges", "v1")
POLICY = Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io/v1")
SECRET = Kind("Secret", "secrets", "v1")
CONFIG_MAP = Kind("ConfigMap", "configmaps", "v1")
SERVICE = Kind("Service", "services", "v1")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "poddisruptionbudgets", "policy/v1")
STATEFUL_SET = Kind("StatefulSet", "statefulsets", "apps/v1")
DEPLOYMENT = Kind("Deployment", "deployments", "apps/v1")
INGRESS = Kind("Ingress", "ingresses", "networking.k8s.io/v1")
TLS_ROUTE = Kind("TLSRoute", "tlsroutes", "gateway.networking.k8s.io/v1")
SERVICE_MONITOR = Kind("ServiceMonitor", "servicemonitors", "monitoring.coreos.com/v1")

# What every cluster has, in the order in which it is applied: first what pods need at their start.
OWNED = (
    SERVICE_ACCOUNT,
    QUOTA,
    LIMITS,
    POLICY,
    SECRET,
    CONFIG_MAP,
    SERVICE,
    DISRUPTION_BUDGET,
    STATEFUL_SET,
    DEPLOYMENT,
)
# Rules, not workloads: a field that somebody adds changes what they say (a narrower choice of pods leaves the others
# open), so no field in them is anybody else's. They are compared whole, and replaced.
RULES = frozenset({QUOTA.name, LIMITS.name, POLICY.name, DISRUPTION_BUDGET.name})
# What it has when the region's values ask for it.
OPTIONAL = (INGRESS, TLS_ROUTE, SERVICE_MONITOR)
_ORDER = {kind.name: number for number, kind in enumerate((*OWNED, JOB, *OPTIONAL))}
_BY_NAME = {kind.name: kind for kind in (NAMESPACE, *OWNED, JOB, *OPTIONAL)}


def kind_of(rendered: Object) -> Kind:
    """Return the kind of a rendered object, in the version in which it was rendered.

    Raises:
        KeyError: it is none that a chart of ours makes.
    """
    known = _BY_NAME[rendered["kind"]]
    return Kind(known.name, known.plural, str(rendered["apiVersion"]), known.is_namespaced)


def kinds_in(values: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kinds that clusters of a region have, by the region's own values for the chart."""
    return (*OWNED, *(kind for kind, is_asked in _optional_in(values).items() if is_asked))


def former_kinds_in(values: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kinds that clusters of a region may have from when its values were others."""
    return tuple(kind for kind, is_asked in _optional_in(values).items() if not is_asked)


def _optional_in(values: Mapping[str, Any]) -> Mapping[Kind, bool]:
    edge = values.get("edge") or {}
    route = edge.get("tlsRoute") or {}
    monitor = (values.get("monitoring") or {}).get("serviceMonitor") or {}
    return {
        INGRESS: edge.get("kind") == "ingress",
        Kind(TLS_ROUTE.name, TLS_ROUTE.plural, str(route.get("apiVersion") or TLS_ROUTE.group_version)): (
            edge.get("kind") == "tlsRoute"
        ),
        SERVICE_MONITOR: bool(monitor.get("enabled")),
    }


def in_order(rendered: Object) -> tuple[int, str]:
    """Return what a cluster's objects are sorted by before they are applied."""
    return _ORDER[rendered["kind"]], str(rendered["metadata"]["name"])


def meta(found: Object) -> Mapping[str, Any]:
    """Return an object's metadata."""
    return found.get("metadata") or {}


def name_in(found: Object) -> str:
    return str(meta(found).get("name", ""))


def labels(found: Object) -> Mapping[str, str]:
    return meta(found).get("labels") or {}


def notes_in(found: Object) -> Mapping[str, str]:
    return meta(found).get("annotations") or {}
