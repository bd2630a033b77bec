"""A worker dies around everything that it does in a real region: the same end, and one of every object.

The counterpart of tests/provisioning/test_kills.py, which has a region in memory and more lifecycles: simulated pods
answer as an engine of one broker, and know nothing of backups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from provisioning import planner, services
from provisioning.models import Cluster, Operation
from provisioning.planner import plan
from provisioning.spec import Lifecycle
from provisioning.states import OperationState
from tenants.models import AuditEvent
from tests.kubernetes import Namespace, eventually
from tests.provisioning.backends.faults.customers import (
    SLUG,
    Customer,
    Customers,
    desired_of,
    serve_with,
    turns,
)
from tests.provisioning.backends.faults.stage import Region
from tests.provisioning.kills import (
    Point,
    deletion_after_window,
    from_healthy,
    is_busy,
    is_over,
    resumption,
    turn_or_die,
)

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(1200)]


def undeletion(customer: Customer) -> Operation:
    cluster = customer.healthy()
    customer.ask(services.request_deletion, cluster)
    for outcome in turns(cluster):
        if isinstance(outcome.action, planner.StopEngine):
            break
    return customer.ask(services.restore_cluster, cluster)


WISHES: dict[str, Callable[[Customer], Operation]] = {
    "create": lambda customer: customer.create(),
    "suspend": from_healthy(services.suspend_cluster),
    "resume": resumption,
    "revoke access": from_healthy(services.revoke_access),
    "more memory": from_healthy(services.resize_cluster, plan_type="small-plus"),
    "delete": deletion_after_window,
    "delete at once": from_healthy(services.request_deletion, purge=True),
    "undelete": undeletion,
}
# What a turn may be for, and what it asks of the region.
CALLS = (planner.StartEngine, planner.StopEngine, planner.RemoveCluster, planner.CloseCluster)
RECORDS = (planner.Wait, type(None))


@dataclass(frozen=True)
class End:
    """All that may be told of how a wish came out."""

    objects: tuple[str, ...]
    is_there: bool
    pods: tuple[tuple[str, str], ...]
    cluster: tuple[Any, ...]
    operations: tuple[tuple[str, str, str], ...]
    audit: tuple[str, ...]


def end_of(region: Region, customer: Customer, cluster: Cluster) -> End:
    cluster.refresh_from_db()
    desired = desired_of(cluster.pk)
    place = region.place(desired)
    if cluster.deleted_at is not None:
        assert eventually(lambda: region.uid(desired) == "", seconds=60)
    else:
        assert plan(desired, region.judge.backend.observe(desired)) is None
    if desired.lifecycle is Lifecycle.RUNNING and cluster.deleted_at is None:
        region.settle(desired)
    organization = customer.person.organization.pk
    rows = Operation.objects.for_organization(organization).order_by("created_at")
    events = AuditEvent.objects.for_organization(organization).order_by("at")
    is_there = bool(region.uid(desired))
    return End(
        objects=tuple(sorted(region.names(desired))) if is_there else (),
        is_there=is_there,
        pods=tuple(pods_of(place)) if is_there else (),
        cluster=(
            cluster.lifecycle, cluster.deleted_at is not None, cluster.release_id, cluster.plan_type_id,
            cluster.observed_generation >= cluster.spec_generation, cluster.failures,
        ),
        operations=tuple((row.kind, row.state, row.error_code) for row in rows),
        audit=tuple(event.action for event in events),
    )  # fmt: skip


def pods_of(place: Namespace) -> Iterator[tuple[str, str]]:
    """Each pod with what it may use: whether it was started as it is wished is the planner's to say."""
    for pod in place.get("pods")["items"]:
        yield pod["metadata"]["name"], str(pod["spec"]["containers"][0]["resources"]["limits"]["memory"])


def undisturbed(customers: Customers, name: str) -> tuple[set[type], End]:
    """What the turns are for that a wish leads to when nothing happens, and its end."""
    customer = customers.new()
    cluster = WISHES[name](customer).cluster
    kinds: set[type] = set()
    for outcome in turns(cluster):
        kinds.add(type(outcome.action))
        if is_over(outcome, cluster):
            break
    return kinds, end_of(customers.region, customer, cluster)


@pytest.mark.parametrize("name", WISHES)
def test_a_worker_that_dies_around_a_call_to_a_real_region_changes_nothing(
    customers: Customers, name: str, request: pytest.FixtureRequest
) -> None:
    """Guarantee: converges on what it converges on undisturbed, exactly one of every object, audit complete."""
    region = customers.region
    serve_with(SLUG, region.direct)
    kinds, expected = undisturbed(customers, name)
    assert expected.operations[-1][1] == OperationState.SUCCEEDED
    everywhere = request.config.getoption("every_kill")
    for number, (kind, point) in enumerate(kills(kinds, list(WISHES).index(name), everywhere=everywhere)):
        customer = customers.new()
        cluster = WISHES[name](customer).cluster
        # A worker that has just begun, with connections of its own.
        serve_with(SLUG, region.direct)
        for _ in range(200):
            if turn_or_die(cluster.pk, point, kind):
                break
            if kind is planner.Wait and not is_busy(cluster):
                break  # the region was quick this time: nothing was waited for
        else:
            pytest.fail(f"no turn was for {kind.__name__}")
        customer.run(cluster)
        assert end_of(region, customer, cluster) == expected, f"{number}: killed {point} of {kind.__name__}"


def kills(kinds: set[type], number: int, *, everywhere: bool) -> Iterator[tuple[type, Point]]:
    """Where to kill: around each kind of action at one point (another one in every lifecycle), or at all of them."""
    for index, kind in enumerate([one for one in (*CALLS, *RECORDS) if one in kinds]):
        points = list(Point) if kind in CALLS else [Point.BEFORE_RECORD, Point.AFTER_RECORD]
        for point in points if everywhere else [points[(index + number) % len(points)]]:
            yield kind, point
