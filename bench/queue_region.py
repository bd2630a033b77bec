"""The product's own Celery application, with regions on offer in which there is nothing to do.

    celery -A bench.queue_region worker ...

Every wish is found fulfilled, so that what is measured is ours alone: claim, lease, plan and record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from redis import Redis

from config.celery import app
from provisioning import executor
from provisioning.backends.base import ClusterBackend, Find
from provisioning.spec import DesiredCluster, Endpoint, ObservedBroker, ObservedCluster, ReleaseState

__all__ = ["app"]

BACKEND = "bench"
STILL, TELLING, SLOW = "bench-still", "bench-telling", "bench-slow"
# What a look takes in the slow region: more than the product's own turn, less than an engine's start.
NAP_SECONDS = 0.05
# Old enough that the loop takes it for a watch's sight, and does not come back within half a minute.
SIGHT_SECONDS = 0.1


def started_key(cluster_id: UUID) -> str:
    """Under which the moment is told at which a turn first called its region."""
    return f"bench.started.{cluster_id}"


def redis_client() -> Redis:
    """A connection to the broker's own server, for what is told beside the messages."""
    return Redis(unix_socket_path=settings.CELERY_BROKER_URL.removeprefix("redis+socket://"))


class StillRegion:
    """Engines that are always as they are wished."""

    def __init__(self, slug: str) -> None:
        self._nap_seconds = NAP_SECONDS if slug == SLOW else 0.0
        self._told = redis_client() if slug == TELLING else None

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        if self._told is not None:
            self._told.lpush(started_key(desired.cluster_id), time.time())
        if self._nap_seconds:
            time.sleep(self._nap_seconds)
        brokers = tuple(
            ObservedBroker(
                node=node,
                running=True,
                digest=desired.digest,
                release=desired.release.version,
                answers=True,
                healthy=True,
            )
            for node in desired.nodes
        )
        return ObservedCluster(
            exists=True,
            brokers=brokers,
            available=True,
            healthy_partitions=desired.size.partitions,
            members=tuple(desired.nodes),
            release=ReleaseState.READY,
            endpoint=Endpoint(f"{desired.host_name}:26500"),
            age_seconds=SIGHT_SECONDS,
        )

    def read_register(self) -> Mapping[str, Any]:
        return {}

    def write_register(self, register: Mapping[str, Any]) -> None:
        pass

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        pass

    def inventory(self) -> Iterator[Find]:
        return iter(())


# The rest of the interface is never asked for: there is nothing to do.
executor.BACKENDS[BACKEND] = lambda slug: cast(ClusterBackend, StillRegion(slug))
