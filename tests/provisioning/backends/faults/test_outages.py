"""A region's API server is away: wishes are accepted, what is shown is true, other regions go on, and no stampede."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from django.db.models.functions import Now

from provisioning import reconciler, services
from provisioning import selectors as read
from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.budget import FAILURES_TO_OPEN, MAX_OPEN_SECONDS
from provisioning.errors import RegionUnreachable
from provisioning.models import Cluster, Operation
from provisioning.reconciler import MAX_BACKOFF_SECONDS
from provisioning.states import OPEN_STATES, OperationState
from tenants.paging import Page
from tests.kubernetes import Kubernetes
from tests.provisioning.backends.faults import bed
from tests.provisioning.backends.faults.customers import (
    MOST_SECONDS,
    Customer,
    Customers,
    desired_of,
    loop_until,
    serve_with,
)
from tests.provisioning.backends.faults.proxy import Passage, Proxy, proxied, through
from tests.provisioning.backends.faults.stage import Region, reached_by, simulated
from tests.provisioning.backends.kubernetes_stage import make_settings
from tests.provisioning.kills import take_turn

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(1800)]
CLUSTERS = 12
# Above all that turns count up to: whoever may write at all is let through with it.
LAST_EPOCH = 2**62
# Each cluster waits longer after each failure, and for the breaker; here is no clock, which would have it begin sooner.
MOST_AFTERWARDS_SECONDS = MAX_BACKOFF_SECONDS + MAX_OPEN_SECONDS + MOST_SECONDS


def are_over(operations: Sequence[Operation]) -> bool:
    ids = [one.pk for one in operations]
    return not Operation.objects.filter(pk__in=ids, state__in=OPEN_STATES).exists()


def most_asked(seconds: float) -> float:
    """What one process asks of a region that does not answer for so long.

    After some failures the breaker lets through one try in 5, 10, 20, 40 and then every 60 s. A connection that is cut
    is tried once more.
    """
    return 2 * (FAILURES_TO_OPEN + 4 + seconds / MAX_OPEN_SECONDS)


def most_at_once(proxy: Proxy, since: float, seconds: float) -> int:
    """How many requests came within any stretch of time of this length."""
    times = sorted(asked.at for asked in proxy.asked if asked.at >= since)
    return max((bisect_right(times, at + seconds) - place for place, at in enumerate(times)), default=0)


def test_an_api_server_that_is_away(region: Region, customers: Customers, request: pytest.FixtureRequest) -> None:
    """Guarantee: requests accepted, state honest, recovery within the process's budget, and all converge."""
    budget, seconds = region.settings.budget, request.config.getoption("outage_seconds")
    held = [customers.new() for _ in range(CLUSTERS // 2)]
    there = [one.create() for one in held]
    loop_until(lambda: are_over(there))
    before = [region.uids(desired_of(one.cluster_id)) for one in there]
    with bed.without_api_server():
        began = time.monotonic()
        new = [(one, one.create(name="second")) for one in held]
        stops = [
            (one, one.ask(services.suspend_cluster, first.cluster)) for one, first in zip(held, there, strict=True)
        ]
        waited = threading.Event()
        while time.monotonic() - began < seconds:
            reconciler.serve(seconds=1.0)
            waited.wait(0.2)
        for customer, operation in (*new, *stops):
            shown = customer.look(operation)
            assert shown.state in OPEN_STATES
            assert (shown.error_code, shown.error_message) == ("region_unreachable", "The region does not answer.")
        asked = sum(one.at >= began for one in region.proxy.asked)
        assert asked <= most_asked(seconds)
    back = time.monotonic()
    wishes = [operation for _, operation in (*new, *stops)]
    loop_until(lambda: are_over(wishes), seconds=MOST_AFTERWARDS_SECONDS)

    states = set(Operation.objects.filter(pk__in=[one.pk for one in wishes]).values_list("state", flat=True))
    assert states == {OperationState.SUCCEEDED}
    for length in (1.0, 5.0, 20.0):
        assert most_at_once(region.proxy, back, length) <= budget.burst + budget.per_second * length
    for operation in (operation for _, operation in new):
        region.settle(desired_of(operation.cluster_id))
    for operation, objects in zip(there, before, strict=True):
        left = region.uids(desired_of(operation.cluster_id))
        assert left == {name: uid for name, uid in objects.items() if not name.startswith("Pod/")}
    print(f"\n{seconds} s away: {asked} requests meanwhile; all {len(wishes)} wishes came true "
          f"{time.monotonic() - back:.1f} s after it was back, at most {most_at_once(region.proxy, back, 1.0)} "
          "requests within a second")  # fmt: skip


# --- F30: one of two --------------------------------------------------------------------------------------------------


@pytest.fixture
def second(customers: Customers, tmp_path: Path) -> Iterator[Region]:
    """A second region, on offer under that name and behind a proxy of its own."""
    with bed.second_region() as plane:
        cluster = Kubernetes(plane.kubeconfig, plane.domain)
        direct = replace(simulated(make_settings(cluster, tmp_path, None)), region="second")
        assert direct.kubeconfig is not None
        with proxied(direct.kubeconfig) as proxy:
            path = through(proxy, direct.kubeconfig, tmp_path / "second.yaml")
            region = Region(cluster, direct, proxy, reached_by(direct, path))
            customers.offer("second", region.settings)
            yield region
            # With the region goes all that is in it: nobody has anything to remove there.
            Cluster.objects.filter(region_id="second").update(due_at=None, deleted_at=Now())


def test_of_two_regions_the_one_that_is_cut_off_degrades_alone(customers: Customers, second: Region) -> None:
    """Guarantee: only its clusters wait, and say so; the other region's come and go; what is shown stays up."""
    near, far = customers.new(), Customer(customers.new().person, "second")
    there = [near.create(), far.create()]
    loop_until(lambda: are_over(there))
    with second.proxy.away() as met:
        cut_off = far.ask(services.suspend_cluster, there[1].cluster)
        others = [near.ask(services.suspend_cluster, there[0].cluster), *(customers.new().create() for _ in range(5))]
        loop_until(lambda: are_over(others) and len(met.met) >= 6)
        shown = far.look(cut_off)
        assert (shown.state in OPEN_STATES, shown.error_code) == (True, "region_unreachable")
        for customer, operation in ((near, there[0]), (far, there[1])):
            listed = read.clusters_of(customer.person.actor, Page())
            assert [one.row.pk for one in listed.items] == [operation.cluster_id]
        states = Operation.objects.filter(pk__in=[one.pk for one in others]).values_list("state", flat=True)
        assert set(states) == {OperationState.SUCCEEDED}
    loop_until(lambda: are_over([cut_off]))

    cut_off.refresh_from_db()
    assert cut_off.state == OperationState.SUCCEEDED


def test_what_opens_one_region_opens_no_other(
    region: Region, customers: Customers, second: Region, tmp_path: Path
) -> None:
    """Guarantee: a region's credential is refused in the other: with it nothing is read there, changed or removed."""
    far = Customer(customers.new().person, "second")
    cluster = far.healthy()
    wish = desired_of(cluster.pk)
    second.settle(wish)
    before = second.uid(wish), second.uids(wish)
    assert region.direct.kubeconfig is not None
    strange = reached_by(second.settings, through(second.proxy, region.direct.kubeconfig, tmp_path / "strange.yaml"))
    answered: list[int] = []

    def listen(passage: Passage) -> None:
        said = passage.fetch()
        answered.append(said.status)
        passage.say(said)

    def refused(call: Callable[[KubernetesBackend], object]) -> None:
        with pytest.raises(RegionUnreachable, match="does not accept our credentials"):
            call(KubernetesBackend(strange))

    with second.proxy.trouble(listen):
        refused(lambda backend: backend.observe(wish))
        refused(lambda backend: backend.start(wish, wish.nodes, epoch=LAST_EPOCH))
        refused(lambda backend: backend.stop(wish, wish.nodes, epoch=LAST_EPOCH))
        refused(lambda backend: backend.delete(wish.cluster_id, epoch=LAST_EPOCH))
        refused(lambda backend: backend.write_register({"beat": LAST_EPOCH}))
        refused(lambda backend: list(backend.inventory()))
        serve_with("second", strange)
        operation = far.ask(services.request_deletion, cluster, purge=True)
        take_turn(cluster.pk)
    assert set(answered) == {401}
    shown = far.look(operation)
    assert (shown.state in OPEN_STATES, shown.error_code) == (True, "region_unreachable")
    assert "does not accept our credentials" in shown.waits_for
    assert (second.uid(wish), second.uids(wish)) == before

    serve_with("second", second.settings)
    far.run(cluster)
    assert far.look(operation).state == OperationState.SUCCEEDED
    assert second.uid(wish) == ""
