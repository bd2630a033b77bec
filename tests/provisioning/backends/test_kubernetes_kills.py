"""A worker dies at every step of what only real engines can do: backups, other releases, several brokers.

Each lifecycle is lived once undisturbed and once among deaths: the first turn for each step, each broker's own, is its
worker's last. The point of a turn at which it dies is another one for each step; with `--every-kill` there are as many
lives as there are points, so that workers die in each step at all of them. `faults/test_kills.py` has the lifecycles
that simulated pods can show, with a life for each death.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from provisioning import planner, services
from provisioning.models import Cluster, Operation, Release
from provisioning.services import turns as recording
from provisioning.states import OperationState
from tests.kubernetes import Kubernetes
from tests.provisioning.backends.faults.customers import SLUG, Customer, Customers, turns
from tests.provisioning.backends.faults.lives import among_deaths, is_by_chance, points_of, undisturbed
from tests.provisioning.backends.faults.stage import Ground
from tests.provisioning.backends.kubernetes_stage import make_settings, served_store
from tests.provisioning.kills import (
    Point,
    Step,
    act_as_system,
    copying,
    drilling,
    from_healthy,
    restoring,
    shrinking,
)

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(3600)]

# Another one than that of test_kubernetes.py, which may run in the same session.
STORE_PORT = 9124
# Four brokers that come up one after the other, on two cores.
PATIENCE_SECONDS = 900.0
# No engine of a broken release is ever well, so nothing is gained by waiting for it longer.
BROKEN_TRIAL = timedelta(seconds=45)


def calling_off(customer: Customer) -> Operation:
    operation = customer.ask(services.upgrade_cluster, customer.healthy(), release="8.6.0", without_backup=True)
    for outcome in turns(operation.cluster, customer.patience_seconds):
        if isinstance(outcome.action, planner.StartEngine):
            break
    return services.cancel_operation(actor=customer.person.actor, operation_id=operation.pk)


upgrading = from_healthy(services.upgrade_cluster, release="8.6.0")
GOES_BACK = "upgrade that goes back"
WISHES: dict[str, Callable[[Customer], Operation]] = {
    "back up": from_healthy(services.back_up_cluster),
    "restore a backup": restoring("small"),
    "copy": copying,
    "drill": drilling,
    "upgrade": upgrading,
    GOES_BACK: upgrading,
    "upgrade called off": calling_off,
    "create three brokers": lambda customer: customer.create(plan_type="resilient"),
    "revoke access broker by broker": from_healthy(services.revoke_access, "resilient"),
    "a broker more": from_healthy(services.resize_cluster, "resilient", plan_type="resilient-4"),
    "a broker less": shrinking,
    "upgrade three brokers": from_healthy(services.upgrade_cluster, "resilient", release="8.6.0"),
    "restore a backup of three brokers": restoring("resilient"),
    "revoke access with gateways": from_healthy(services.revoke_access, "large"),
}
# What comes of the operation that the wish is.
ENDS = {GOES_BACK: OperationState.FAILED}


@pytest.fixture(scope="module")
def region(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A region of real engines, with a store."""
    folder = tmp_path_factory.mktemp("killing")
    with served_store(kubernetes, folder, STORE_PORT) as store:
        yield Ground(kubernetes, make_settings(kubernetes, folder, store))


@pytest.fixture
def customers(region: Ground, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Customers]:
    """Customers of that region; what they own is left with nothing due, and is gone from it afterwards."""
    with django_db_blocker.unblock():
        act_as_system()
        Cluster.objects.update(due_at=None)
        made = Customers(region, PATIENCE_SECONDS)
        made.offer(SLUG, region.direct)
        yield made
        made.leave()
        connection.close()


@pytest.fixture
def broken_release(customers: Customers, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The next release never comes up."""
    monkeypatch.setattr(recording, "TRIAL", BROKEN_TRIAL)
    row = Release.objects.get(pk="8.6.0")
    Release.objects.filter(pk=row.pk).update(main_class="no.such.Main")
    yield
    Release.objects.filter(pk=row.pk).update(main_class=row.main_class)


@pytest.mark.parametrize("name", WISHES)
def test_workers_that_die_at_every_step_of_a_real_engines_life_change_nothing(
    customers: Customers, name: str, request: pytest.FixtureRequest
) -> None:
    """Guarantee: converges on what it converges on undisturbed, exactly one of every object, audit complete."""
    if name == GOES_BACK:
        request.getfixturevalue("broken_release")
    steps, expected = undisturbed(customers, WISHES[name])
    assert ENDS.get(name, OperationState.SUCCEEDED) in {state for _, state, _ in expected.operations}
    for points in lives(steps, list(WISHES).index(name), everywhere=request.config.getoption("every_kill")):
        met, end = among_deaths(customers, WISHES[name], points)
        assert [step for step in points if step not in met and not is_by_chance(step, steps)] == []
        assert end == expected, points


def lives(steps: list[Step], number: int, *, everywhere: bool) -> Iterator[dict[Step, Point]]:
    """Where workers die in each life: in a turn for every step, at another point in every life."""
    for life in range(number, number + (len(Point) if everywhere else 1)):
        yield {step: points_of(step)[(index + life) % len(points_of(step))] for index, step in enumerate(steps)}
