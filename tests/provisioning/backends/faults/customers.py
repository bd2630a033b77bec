"""Customers with committed rows whose clusters are in a real region: what a fault looks like from the doors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from provisioning import executor, reconciler, services
from provisioning import selectors as read
from provisioning.backends.base import ClusterBackend
from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.models import Backup, Cluster, Operation
from provisioning.models import Region as RegionRow
from provisioning.services import TurnOutcome
from provisioning.spec import DesiredCluster
from tests.factories import Person, make_person
from tests.provisioning.backends.contract import persist
from tests.provisioning.backends.faults.stage import Ground
from tests.provisioning.conftest import ask
from tests.provisioning.kills import is_over, take_turn

SLUG = "faults"
MOST_SECONDS = 120.0
# A simulated pod is ready within a second; turns in between would only wait.
PAUSE_SECONDS = 0.2


def serve_with(slug: str, settings: KubernetesSettings) -> None:
    """Have turns for this region reach it so; as a process that has just begun."""
    executor.BACKENDS[slug] = lambda _slug: cast(ClusterBackend, KubernetesBackend(settings))
    executor.backend_of.cache_clear()


@dataclass
class Customer:
    """A person, and what they wish in one region."""

    person: Person
    slug: str
    patience_seconds: float = MOST_SECONDS

    def create(self, **overrides: Any) -> Operation:
        request = ask(region=self.slug, channel="next", release="8.5.8", **overrides)
        return services.create_cluster(actor=self.person.actor, request=request)

    def ask(self, service: Callable[..., Operation], cluster: Cluster, **wish: Any) -> Operation:
        return service(actor=self.person.actor, cluster_id=cluster.pk, **wish)

    def healthy(self, **overrides: Any) -> Cluster:
        return self.run(self.create(**overrides).cluster)

    def backed_up(self, **overrides: Any) -> Backup:
        """The only backup of a new cluster of theirs."""
        cluster = self.healthy(**overrides)
        self.ask(services.back_up_cluster, cluster)
        self.run(cluster)
        return Backup.objects.get(cluster=cluster)

    def run(self, cluster: Cluster) -> Cluster:
        """Take turns until nothing is left to do."""
        for outcome in turns(cluster, self.patience_seconds):
            if is_over(outcome, cluster):
                break
        cluster.refresh_from_db()
        return cluster

    def look(self, operation: Operation) -> read.OperationView:
        """What the customer is shown."""
        return read.operation(self.person.actor, operation.pk)


class Customers:
    """Those of one test, each of whom waits so long for a cluster to come to rest."""

    def __init__(self, region: Ground, patience_seconds: float = MOST_SECONDS) -> None:
        self.region = region
        self._patience_seconds = patience_seconds
        self._made: list[Customer] = []
        self._offered: dict[str, KubernetesSettings] = {}

    def offer(self, slug: str, settings: KubernetesSettings) -> None:
        """Have a region of this name, reached so."""
        facts = {"name": slug.title(), "backend": slug, "domain": f"{slug}.example", "is_open": True}
        RegionRow.objects.update_or_create(slug=slug, defaults=facts)
        self._offered[slug] = settings
        serve_with(slug, settings)

    def begin_anew(self) -> None:
        """Have turns from here on reach regions as a worker does that has just begun: no connection is shared."""
        for slug, settings in self._offered.items():
            serve_with(slug, settings)

    def new(self, slug: str = SLUG) -> Customer:
        self._made.append(Customer(make_person(), slug, self._patience_seconds))
        return self._made[-1]

    def leave(self) -> None:
        """Have nothing of theirs due, and begin to remove what they have."""
        owned = [one.person.organization.pk for one in self._made]
        rows = Cluster.objects.filter(organization__in=owned)
        for row in rows.filter(deleted_at=None):
            persist(KubernetesBackend(self._direct(row.region_id)).delete, row.pk, epoch=row.lease_epoch + 1000)
        rows.update(due_at=None)
        for slug in self._offered:
            RegionRow.objects.filter(slug=slug).update(is_open=False)
            del executor.BACKENDS[slug]
        executor.backend_of.cache_clear()

    def _direct(self, slug: str) -> KubernetesSettings:
        return self.region.direct if slug == SLUG else self._offered[slug]


def turns(cluster: Cluster, seconds: float = MOST_SECONDS) -> Iterator[TurnOutcome]:
    """Take turns for one cluster, with a moment in between for what is only waited for."""
    waited, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        outcome = take_turn(cluster.pk)
        yield outcome
        if not outcome.executed:
            waited.wait(PAUSE_SECONDS)
    raise AssertionError(f"the cluster did not come to rest: {outcome}")


def desired_of(cluster_id: UUID) -> DesiredCluster:
    """What is wished of a cluster now."""
    return read.turn_subject(cluster_id).desired


def loop_until(is_so: Callable[[], bool], *, seconds: float = MOST_SECONDS) -> None:
    """Take turns for whatever is due, as a worker does, until it is so."""
    waited, deadline = threading.Event(), time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        reconciler.serve(seconds=1.0)
        waited.wait(0.1)
