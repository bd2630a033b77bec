"""What a wish comes to in a real region, and where the worker that fulfils it may die on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provisioning import planner
from provisioning.models import Cluster, Operation
from provisioning.planner import plan
from provisioning.spec import Lifecycle
from provisioning.states import StepKind
from tenants.models import AuditEvent
from tests.kubernetes import Namespace, eventually
from tests.provisioning.backends.faults.customers import PAUSE_SECONDS, Customer, Customers, desired_of, turns
from tests.provisioning.backends.faults.stage import Ground, is_named_by_chance
from tests.provisioning.kills import Point, Step, is_busy, is_over, step_of, turn_among_deaths

Wish = Callable[[Customer], Operation]


@dataclass(frozen=True)
class End:
    """All that may be told of how a wish came out."""

    objects: tuple[str, ...]
    is_there: bool
    pods: tuple[tuple[str, str, str], ...]
    cluster: tuple[Any, ...]
    operations: tuple[tuple[str, str, str], ...]
    audit: tuple[str, ...]


def end_of(region: Ground, customer: Customer, cluster: Cluster) -> End:
    """Return what a wish has come to; nothing may be left to do."""
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
        pods=tuple(sorted(_pods_of(place))) if is_there else (),
        cluster=(
            cluster.lifecycle, cluster.deleted_at is not None, cluster.release_id, cluster.former_release_id,
            cluster.plan_type_id, cluster.is_on_trial, cluster.observed_generation >= cluster.spec_generation,
            cluster.failures,
        ),
        operations=tuple((row.kind, row.state, row.error_code) for row in rows),
        audit=tuple(event.action for event in events),
    )  # fmt: skip


def _pods_of(place: Namespace) -> Iterator[tuple[str, str, str]]:
    """Each engine's pod with what it runs and may use: whether it was started as wished is the planner's to say."""
    for pod in place.get("pods", "-l", "app.kubernetes.io/component in (broker,gateway)")["items"]:
        container, about = pod["spec"]["containers"][0], pod["metadata"]
        name = "gateway" if is_named_by_chance(pod) else about["name"]
        yield name, container["image"], str(container["resources"]["limits"]["memory"])


def undisturbed(customers: Customers, wish: Wish) -> tuple[list[Step], End]:
    """What the turns are for that a wish leads to when nothing happens, each once and in order, and its end."""
    customer = customers.new()
    cluster = wish(customer).cluster
    steps: dict[Step, None] = {}
    for outcome in turns(cluster, customer.patience_seconds):
        steps[step_of(outcome.action)] = None
        if is_over(outcome, cluster):
            break
    return list(steps), end_of(customers.region, customer, cluster)


def points_of(step: Step) -> list[Point]:
    """Where a worker may die in a turn for this; one that asks nothing of the region, only around its record."""
    asks_nothing = step is None or isinstance(step, planner.Wait)
    return [Point.BEFORE_RECORD, Point.AFTER_RECORD] if asks_nothing else list(Point)


def among_deaths(customers: Customers, wish: Wish, points: Mapping[Step, Point]) -> tuple[set[Step], End]:
    """Fulfil a wish while the first turn for each of these is a worker's last; which were met, and the end.

    Each death is taken for the first in a row: that three of them park a cluster is shown elsewhere.
    """
    customer = customers.new()
    cluster = wish(customer).cluster
    customers.begin_anew()
    left, waited = dict(points), threading.Event()
    deadline = time.monotonic() + customer.patience_seconds
    while left and is_busy(cluster):
        assert time.monotonic() < deadline, f"no turn was for {left}"
        died = turn_among_deaths(cluster.pk, left)
        for step in died:
            del left[step]
            Cluster.objects.filter(pk=cluster.pk).update(deaths=0)
        if not died:
            waited.wait(PAUSE_SECONDS)
    customer.run(cluster)
    return points.keys() - left.keys(), end_of(customers.region, customer, cluster)


def is_by_chance(step: Step, steps: Iterable[Step]) -> bool:
    """Whether it depends on chance that a turn is for this: on how quick the region is, and who is elected.

    Args:
        steps: all of them. Where brokers are replaced one by one a region brings each back by itself, unless a turn is
            there before.
    """
    is_rolling = any(isinstance(one, planner.StopEngine) and one.step is StepKind.ROLL_BROKERS for one in steps)
    is_brought_back = isinstance(step, planner.StartEngine) and is_rolling
    return is_brought_back or isinstance(step, planner.Wait | planner.Rebalance)
