"""Limits and keys hold when everybody comes at once: real threads, real transactions, committed rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection

from billing.errors import LimitReached
from billing.plans import FREE
from common.errors import ControlPlaneError
from provisioning import services
from provisioning.errors import NoPlace
from provisioning.models import Cluster, Operation, Region
from provisioning.states import OPEN_STATES
from tests.factories import Person, make_person
from tests.provisioning.conftest import ask, put_on_plan, see_everything
from tests.provisioning.shared_region import SharedRegion

pytestmark = pytest.mark.usefixtures("slow_to_connect")

AT_ONCE = 100


def race(changes: list[Callable[[], object]]) -> list[ControlPlaneError | None]:
    """Run all changes at once, each on a connection of its own; returns what each was refused with."""
    results: list[ControlPlaneError | None] = []
    gate = threading.Barrier(len(changes))

    def run(change: Callable[[], object]) -> None:
        try:
            see_everything()
            gate.wait(timeout=120)
            change()
            results.append(None)
        except ControlPlaneError as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[change]) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(changes)
    return results


def test_a_hundred_at_once_get_exactly_what_the_plan_allows(committed: Person) -> None:
    def create(number: int) -> Callable[[], object]:
        request = ask(region="local", name=f"cluster {number}")
        return lambda: services.create_cluster(actor=committed.actor, request=request)

    results = race([create(number) for number in range(AT_ONCE)])
    assert sum(result is None for result in results) == FREE.max_clusters
    assert {type(result) for result in results if result} == {LimitReached}
    assert Cluster.objects.filter(organization=committed.organization).count() == FREE.max_clusters


def test_a_hundred_at_once_fill_two_regions_exactly(committed: Person, shared: SharedRegion) -> None:
    """Half of them name the region, the others take what they get; many organizations, so that no other lock helps."""
    people = [make_person() for _ in range(10)]
    for person in people:
        put_on_plan(person, "team")
    Region.objects.exclude(pk=shared.folder.name).update(is_open=False)
    Region.objects.filter(pk=shared.folder.name).update(max_clusters=30)
    other = Region.objects.create(slug=f"{shared.folder.name}-2", backend="shared", domain="x.example", max_clusters=15)
    try:

        def create(number: int) -> Callable[[], object]:
            request = ask(region=("", shared.folder.name)[number % 2], name=f"cluster {number}")
            return lambda: services.create_cluster(actor=people[number % 10].actor, request=request)

        results = race([create(number) for number in range(AT_ONCE)])
        assert sum(result is None for result in results) == 30 + 15
        assert {type(result) for result in results if result} == {NoPlace}
        for region in Region.objects.filter(max_clusters__gt=0):
            assert region.placed == region.max_clusters == region.clusters.count()
    finally:
        Region.objects.filter(pk="local").update(is_open=True)
        Operation.objects.filter(cluster__region=other).delete()
        Cluster.objects.filter(region=other).delete()
        other.delete()


def test_one_of_many_changes_to_the_same_generation_wins(committed: Person) -> None:
    cluster = services.create_cluster(actor=committed.actor, request=ask(region="local")).cluster

    def rename(number: int) -> Callable[[], object]:
        return lambda: services.update_cluster(
            actor=committed.actor, cluster_id=cluster.pk, expected_generation=1, name=f"name {number}"
        )

    results = race([rename(number) for number in range(8)])
    assert sum(result is None for result in results) == 1
    assert {result.code for result in results if result} == {"stale_generation"}


def test_calling_off_while_changing_never_deadlocks(committed: Person) -> None:
    actor = committed.actor
    cluster = services.create_cluster(actor=actor, request=ask(region="local")).cluster
    for _ in range(10):
        latest = services.suspend_cluster(actor=actor, cluster_id=cluster.pk)
        calls = [services.resume_cluster, services.suspend_cluster, services.revoke_access]
        changes = [partial(call, actor=actor, cluster_id=cluster.pk) for call in calls]
        endings = [services.cancel_operation, services.retry_operation]
        race([*changes, *(partial(call, actor=actor, operation_id=latest.pk) for call in endings * 2)])
        services.resume_cluster(actor=actor, cluster_id=cluster.pk)
    assert cluster.operations.filter(state__in=OPEN_STATES).count() <= 1


def test_two_clusters_renamed_alike_at_once(committed: Person) -> None:
    made = [services.create_cluster(actor=committed.actor, request=ask(region="local", name=n)) for n in ("a", "b")]
    for number in range(5):
        results = race(
            [
                partial(
                    services.update_cluster, actor=committed.actor, cluster_id=one.cluster_id, name=f"same {number}"
                )
                for one in made
            ]
        )
        assert {result.code for result in results if result} == {"invalid_spec"}
        assert results.count(None) == 1


def test_a_claim_never_reads_half_of_a_wish(committed: Person) -> None:
    cluster = services.create_cluster(actor=committed.actor, request=ask(region="local")).cluster
    read: list[tuple[int, int]] = []

    def revoke() -> None:
        for _ in range(40):
            services.revoke_access(actor=committed.actor, cluster_id=cluster.pk)

    def claim() -> None:
        for _ in range(500):
            row = Cluster.objects.claim(cluster.pk, ttl=timedelta(milliseconds=1))
            if row is not None:
                read.append((row.spec_generation, row.audience.epoch))

    assert race([revoke, revoke, claim, claim, claim, claim]) == [None] * 6
    assert read, "nothing was claimed in between"
    assert all(generation == epoch for generation, epoch in read), "each revocation adds one to both"
