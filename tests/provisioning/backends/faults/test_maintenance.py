"""What an operator says of a region, and what its API server sees of that: maintenance, and a region to be emptied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from provisioning import services, sweeper
from provisioning.errors import InvalidSpec
from provisioning.models import Region as RegionRow
from provisioning.services import regions
from provisioning.states import OperationState, Phase
from tenants.actor import SYSTEM
from tests.provisioning.backends.faults.customers import SLUG, Customers, desired_of
from tests.provisioning.backends.faults.stage import Region
from tests.provisioning.kills import take_turn

# The bench's own region is asked by the clock as well.
pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("nothing_else")]
CHORES = (sweeper.keep_registers, sweeper.publish_keys, sweeper.tidy_stores, sweeper.take_inventories)


@pytest.fixture
def served(customers: Customers) -> Iterator[Customers]:
    """Customers of a region of which nobody has said anything afterwards."""
    yield customers
    RegionRow.objects.filter(pk=SLUG).update(maintenance_since=None, maintenance_note="", draining_since=None)


def test_in_maintenance_nothing_is_written_to_a_region_and_afterwards_wishes_come_true(
    region: Region, served: Customers
) -> None:
    """Guarantee: wishes, and what was changed by hand, wait with a sentence; not one write until it is over."""
    owners = [served.new() for _ in range(4)]
    stopped, going, edited = (one.healthy() for one in owners[:3])
    wish = desired_of(edited.pk)
    region.settle(wish)
    before = region.uids(wish)
    regions.begin_maintenance(actor=SYSTEM, slug=SLUG, note="Kubernetes is renewed.")
    mark = len(region.proxy.asked)
    waiting = [
        owners[0].ask(services.suspend_cluster, stopped),
        owners[1].ask(services.request_deletion, going, purge=True),
        owners[3].create(),
    ]
    region.place(wish).kubectl("delete", "service/gateway")
    for _ in range(2):
        for cluster_id in (edited.pk, *(one.cluster_id for one in waiting)):
            assert take_turn(cluster_id).error_code == "in_maintenance"
        for chore in CHORES:
            chore()

    asked = region.proxy.asked[mark:]
    assert len(asked) > 8, "it was looked at"
    assert [f"{one.method} {one.path}" for one in asked if one.is_write] == []
    for owner, operation in zip((owners[0], owners[1], owners[3]), waiting, strict=True):
        shown = owner.look(operation)
        assert (shown.state, shown.error_code, shown.can_force) == (OperationState.RUNNING, "in_maintenance", False)
        assert "Kubernetes is renewed." in shown.waits_for

    regions.end_maintenance(actor=SYSTEM, slug=SLUG)
    for owner, cluster in zip(owners, (stopped, going, edited, waiting[2].cluster), strict=True):
        owner.run(cluster)
    for owner, operation in zip((owners[0], owners[1], owners[3]), waiting, strict=True):
        assert owner.look(operation).state == OperationState.SUCCEEDED
    region.settle(wish)
    healed = region.uids(wish)
    assert {name for name in before if healed[name] != before[name]} == {"Service/gateway"}
    region.settle(desired_of(waiting[2].cluster_id))


def test_a_region_that_is_being_emptied_takes_nothing_new_and_serves_what_is_there(
    region: Region, served: Customers
) -> None:
    """Guarantee: who comes is sent away before anything is made, who is there can do as before, and leave."""
    owner, newcomer = served.new(), served.new()
    cluster = owner.healthy()
    wish = desired_of(cluster.pk)
    before = region.uid(wish)
    regions.begin_draining(actor=SYSTEM, slug=SLUG)
    with pytest.raises(InvalidSpec, match="has been emptied since"):
        newcomer.create()

    region.place(wish).kubectl("delete", "service/gateway")
    owner.run(cluster)
    region.settle(wish)
    for service in (services.suspend_cluster, services.resume_cluster):
        operation = owner.ask(service, cluster)
        owner.run(cluster)
        assert owner.look(operation).state == OperationState.SUCCEEDED
    region.settle(desired_of(cluster.pk))
    assert region.uid(wish) == before
    listed = regions.departures(RegionRow.objects.get(pk=SLUG), limit=1000)
    assert [one.phase for one in listed if one.row.pk == cluster.pk] == [Phase.HEALTHY]

    owner.ask(services.request_deletion, cluster, purge=True)
    owner.run(cluster)
    assert region.uid(wish) == ""
    regions.end_draining(actor=SYSTEM, slug=SLUG)
    region.settle(desired_of(newcomer.healthy().pk))
