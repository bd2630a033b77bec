"""Carry an action to the region's backend, and know which backend a region has."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import assert_never

from django.conf import settings
from django.utils.module_loading import import_string

from common.errors import Temporary
from provisioning.backends.base import ClusterBackend
from provisioning.backends.engine.store import BackupStore
from provisioning.backends.kubernetes.settings import Budget, KubernetesSettings, read_values
from provisioning.backends.local.backend import LocalBackend
from provisioning.backends.local.settings import LocalSettings
from provisioning.planner import (
    Action,
    CloseCluster,
    LetGo,
    PrepareRelease,
    Rebalance,
    RemoveCluster,
    Rescale,
    RestoreData,
    RetireBrokers,
    StartEngine,
    StopEngine,
    TakeBackup,
    Wait,
)
from provisioning.spec import DesiredCluster


def _local(region_slug: str) -> ClusterBackend:
    return LocalBackend(
        LocalSettings(
            region_home=settings.HOME_DIR / region_slug,
            cache=settings.CACHE_DIR,
            java_home=settings.JAVA_HOME,
            ca_cert=settings.CA_CERT_FILE,
            ca_key=settings.CA_KEY_FILE,
            ports=settings.ENGINE_PORTS,
            engine_user=settings.ENGINE_USER or None,
            memory_budget_mib=settings.ENGINE_MEMORY_MIB,
            store=_store(),
        )
    )


def _kubernetes(region_slug: str) -> ClusterBackend:
    """The Kubernetes client's package alone costs 35 MiB, which a process without such a region does not pay."""
    make: Callable[[KubernetesSettings], ClusterBackend] = import_string(
        "provisioning.backends.kubernetes.backend.KubernetesBackend"
    )
    return make(
        KubernetesSettings(
            region=region_slug,
            kubeconfig=settings.KUBECONFIG_DIR and settings.KUBECONFIG_DIR / f"{region_slug}.yaml",
            chart=settings.CHART,
            ca_cert=settings.CA_CERT_FILE,
            ca_key=settings.CA_KEY_FILE,
            helm=settings.HELM,
            image=settings.ENGINE_IMAGE,
            values=read_values(settings.REGION_VALUES_DIR and settings.REGION_VALUES_DIR / f"{region_slug}.yaml"),
            endpoint_port=settings.EDGE_PORT,
            rest_port=settings.EDGE_REST_PORT,
            store=_store(),
            budget=_budget(max(1, settings.REGION_REQUESTS_PER_SECOND)),
        )
    )


def _budget(per_second: int) -> Budget:
    return Budget(per_second, burst=2 * per_second)


def _store() -> BackupStore | None:
    return BackupStore(**settings.BACKUP_STORE) if settings.BACKUP_STORE else None


# Region.backend -> how to reach a region of that kind.
BACKENDS: dict[str, Callable[[str], ClusterBackend]] = {"local": _local, "kubernetes": _kubernetes}


@cache
def backend_of(region_slug: str, backend: str) -> ClusterBackend:
    """The backend of a region; one per process and region."""
    return BACKENDS[backend](region_slug)


class Effect(Enum):
    """What came of an action."""

    NONE = "nothing was begun"
    BEGUN = "it goes on by itself"
    # As far as a backend says so: only of a removal.
    THROUGH = "it has come to its end"


def execute(action: Action, backend: ClusterBackend, desired: DesiredCluster, *, epoch: int) -> Effect:
    """Begin the action. Quick, and may run twice.

    Raises whatever the backend raises: `Temporary`, `Permanent`, or `Fenced`.
    """
    match action:
        case PrepareRelease():
            backend.prepare(desired.release)
        case StartEngine(nodes):
            backend.start(desired, nodes, epoch=epoch)
        case StopEngine(nodes):
            backend.stop(desired, nodes, epoch=epoch)
        case RetireBrokers(nodes):
            backend.retire(desired, nodes, epoch=epoch)
        case RemoveCluster():
            return Effect.THROUGH if backend.delete(desired.cluster_id, epoch=epoch) else Effect.BEGUN
        case CloseCluster():
            # Nothing is there. The call still tells the region this turn's epoch: nobody looks after a tombstone any
            # more, so an older turn that overslept must not be able to start an engine for it.
            if not backend.delete(desired.cluster_id, epoch=epoch):
                raise Temporary("Something of the cluster has come back meanwhile; it is removed first.")
            return Effect.NONE
        case Wait():
            return Effect.NONE
        case _:
            _ask(action, backend, desired, epoch)
    return Effect.BEGUN


def _ask(
    action: Rescale | Rebalance | TakeBackup | RestoreData | LetGo,
    backend: ClusterBackend,
    desired: DesiredCluster,
    epoch: int,
) -> None:
    match action:
        case Rescale():
            backend.rescale(desired, epoch=epoch)
        case Rebalance():
            backend.rebalance(desired, epoch=epoch)
        case TakeBackup():
            backend.back_up(desired, epoch=epoch)
        case RestoreData():
            backend.restore(desired, epoch=epoch)
        case LetGo():
            backend.let_go(desired, epoch=epoch)
        case _:
            assert_never(action)
