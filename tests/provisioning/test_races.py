"""Limits and keys hold when everybody comes at once: real threads, real transactions, committed rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from billing.errors import LimitReached
from billing.plans import FREE
from common.errors import ControlPlaneError
from provisioning import services
from provisioning.models import Cluster
from provisioning.states import OPEN_STATES
from tests.factories import Person, make_person
from tests.provisioning.conftest import ask


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Person]:
    """A person of a committed organization; what it owns is left behind, with nothing due."""
    with django_db_blocker.unblock():
        _see_everything()
        person = make_person()
        yield person
        Cluster.objects.filter(organization=person.organization).update(due_at=None)
        connection.close()


def _see_everything() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE flowplane_system")


def race(changes: list[Callable[[], object]]) -> list[ControlPlaneError | None]:
    """Run all changes at once, each on a connection of its own; returns what each was refused with."""
    results: list[ControlPlaneError | None] = []
    gate = threading.Barrier(len(changes))

    def run(change: Callable[[], object]) -> None:
        try:
            _see_everything()
            gate.wait(timeout=30)
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


def test_twenty_at_once_get_exactly_what_the_plan_allows(committed: Person) -> None:
    def create(number: int) -> Callable[[], object]:
        request = ask(region="local", name=f"cluster {number}")
        return lambda: services.create_cluster(actor=committed.actor, request=request)

    results = race([create(number) for number in range(20)])
    assert sum(result is None for result in results) == FREE.max_clusters
    assert {type(result) for result in results if result} == {LimitReached}
    assert Cluster.objects.filter(organization=committed.organization).count() == FREE.max_clusters


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
