"""A worker dies around everything that it does in a real region: the same end, and one of every object.

The lifecycles of one broker without backups, which simulated pods know nothing of; the others are in
tests/provisioning/backends/test_kubernetes_kills.py. The counterpart of tests/provisioning/test_kills.py, which has a
region in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from provisioning import planner, services
from provisioning.models import Operation
from provisioning.states import OperationState
from tests.provisioning.backends.faults.customers import SLUG, Customer, Customers, turns
from tests.provisioning.backends.faults.lives import among_deaths, is_by_chance, points_of, undisturbed
from tests.provisioning.kills import Point, Step, deletion_after_window, from_healthy, resumption

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


@pytest.mark.parametrize("name", WISHES)
def test_a_worker_that_dies_around_a_call_to_a_real_region_changes_nothing(
    customers: Customers, name: str, request: pytest.FixtureRequest
) -> None:
    """Guarantee: converges on what it converges on undisturbed, exactly one of every object, audit complete."""
    customers.offer(SLUG, customers.region.direct)
    steps, expected = undisturbed(customers, WISHES[name])
    assert expected.operations[-1][1] == OperationState.SUCCEEDED
    everywhere = request.config.getoption("every_kill")
    for step, point in kills(steps, list(WISHES).index(name), everywhere=everywhere):
        met, end = among_deaths(customers, WISHES[name], {step: point})
        assert step in met or is_by_chance(step, steps)
        assert end == expected, f"killed {point} of {step}"


def kills(steps: list[Step], number: int, *, everywhere: bool) -> Iterator[tuple[Step, Point]]:
    """Where to kill: around each step at one point (another one in every lifecycle), or at all of them."""
    for index, step in enumerate(steps):
        points = points_of(step)
        for point in points if everywhere else [points[(index + number) % len(points)]]:
            yield step, point
