"""A database that knows less than its region: rows lost, a namespace gone, an older copy; against a real API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from provisioning import selectors as read
from provisioning import services, sweeper
from provisioning.models import Cluster, Installation, Leftover, Operation, OperationStep
from provisioning.models import Region as RegionRow
from provisioning.services import installation, leftovers
from provisioning.states import Hold, LeftoverState, OperationState
from tenants.actor import Actor, PrincipalKind
from tenants.models import Audience, AuditEvent, Organization
from tests.kubernetes import eventually
from tests.provisioning.backends.contract import PATIENCE_SECONDS
from tests.provisioning.backends.faults.customers import SLUG, Customer, Customers, desired_of, turns
from tests.provisioning.backends.faults.proxy import Asked
from tests.provisioning.backends.faults.stage import Region
from tests.provisioning.kills import take_turn

# The bench's own region is asked by the clock as well, and remembers another database's beats.
pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("nothing_else")]
OPERATOR = Actor(kind=PrincipalKind.OPERATOR, principal_id="op", label="operator@example.com")


@dataclass(frozen=True)
class Copy:
    """What the database knew of some organizations' clusters at one moment."""

    organizations: Sequence[Organization]
    rows: Mapping[Any, Sequence[Any]]
    beat: int
    sent: int

    @classmethod
    def of(cls, *customers: Customer) -> Copy:
        owners = [one.person.organization for one in customers]
        kinds: tuple[Any, ...] = (Cluster, Operation, OperationStep)
        rows = {kind: list(kind.objects.filter(organization__in=owners)) for kind in kinds}
        return cls(owners, rows, Installation.objects.get(pk=1).beat, RegionRow.objects.get(pk=SLUG).beat)

    def bring_back(self) -> None:
        """Have the database know that again, and nothing that came after."""
        for kind in reversed(list(self.rows)):
            known = [row.pk for row in self.rows[kind]]
            kind.objects.filter(organization__in=self.organizations).exclude(pk__in=known).delete()
        clusters = [row.pk for row in self.rows[Cluster]]
        Audience.objects.filter(organization__in=self.organizations).exclude(pk__in=clusters).delete()
        for rows in self.rows.values():
            for row in rows:
                row.save()
        Installation.objects.filter(pk=1).update(beat=self.beat)
        RegionRow.objects.filter(pk=SLUG).update(beat=self.sent)


def lose_row(cluster: Cluster) -> None:
    """The row is gone, as from a database that was restored from an older copy."""
    Operation.objects.filter(cluster=cluster).delete()
    Cluster.objects.filter(pk=cluster.pk).delete()
    Audience.objects.filter(pk=cluster.pk).delete()


def found(cluster: Cluster) -> Leftover:
    """The ledger's entry of it, after the clock has looked."""
    sweeper.take_inventories()
    return Leftover.objects.get(cluster_id=cluster.pk)


def objects_of(region: Region, cluster: Cluster) -> dict[str, str]:
    """Everything that there is of a cluster, its namespace included: another object of the same name is another one."""
    desired = desired_of(cluster.pk)
    return {"Namespace": region.uid(desired), **region.uids(desired)}


def writes(region: Region, since: int, about: str) -> list[str]:
    """What was written since then where the address has these words."""

    def is_one(asked: Asked) -> bool:
        return asked.is_write and about in asked.path

    return [f"{asked.method} {asked.path}" for asked in region.proxy.asked[since:] if is_one(asked)]


def is_away(region: Region, cluster: Cluster) -> Callable[[], bool]:
    return lambda: not region.cluster.get("namespaces", "-l", f"flowplane.dev/cluster={cluster.pk}")["items"]


# --- A row that is lost ----------------------------------------------------------------------------------------------


def test_a_cluster_whose_row_was_lost_is_found_and_adopted_as_it_stands(region: Region, customers: Customers) -> None:
    """Guarantee: what nobody wishes is told with its age and touched by nobody; adopted, it is the same objects."""
    customer = customers.new()
    cluster = customer.healthy()
    region.settle(desired_of(cluster.pk))
    before, mark = objects_of(region, cluster), len(region.proxy.asked)
    namespace = region.cluster.get("namespace", f"fp-{cluster.pk}")["metadata"]
    lose_row(cluster)

    entry = found(cluster)
    assert entry.state == LeftoverState.FOUND
    assert entry.since == datetime.strptime(namespace["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert {f"The namespace fp-{cluster.pk}.", f"The pod broker-0 of fp-{cluster.pk}."} <= set(entry.found)
    foreseen, why_not = leftovers.adoption_of(entry)
    assert foreseen is not None, why_not
    assert (foreseen.name, foreseen.organization) == (cluster.name, customer.person.organization)
    assert not Cluster.objects.filter(pk=cluster.pk).exists(), "looking adopts nothing"

    adopted = leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)
    assert adopted.hold == Hold.SET_BACK
    customer.run(adopted)
    region.settle(desired_of(cluster.pk))
    assert objects_of(region, adopted) == before
    assert writes(region, mark, f"fp-{cluster.pk}") == []
    entry.refresh_from_db()
    assert (entry.state, adopted.hold) == (LeftoverState.ADOPTED, "")

    # It is its owner's again, and its region takes these turns for the newest.
    stop = customer.ask(services.suspend_cluster, adopted)
    customer.run(adopted)
    assert customer.look(stop).state == OperationState.SUCCEEDED


def test_a_cluster_whose_row_was_lost_is_removed_when_an_operator_says_so(region: Region, customers: Customers) -> None:
    """Guarantee: what would go is shown before, nothing goes unasked, nothing is left, and the ledger says so."""
    customer = customers.new()
    cluster, other = customer.healthy(), customers.new().healthy()
    before, of_other = objects_of(region, cluster), objects_of(region, other)
    desired, mark = desired_of(cluster.pk), len(region.proxy.asked)
    lose_row(cluster)

    entry = found(cluster)
    sweeper.tidy_stores()
    shown = {f"The namespace fp-{cluster.pk}.", f"The pod broker-0 of fp-{cluster.pk}."}
    assert shown <= set(entry.found)
    assert writes(region, mark, f"fp-{cluster.pk}") == []
    assert {"Namespace": region.uid(desired), **region.uids(desired)} == before

    leftovers.remove(actor=OPERATOR, leftover_id=entry.pk)

    def is_gone() -> bool:
        Leftover.objects.filter(pk=entry.pk, ended_at=None).update(due_at=Now())
        sweeper.tidy_stores()
        entry.refresh_from_db()
        return entry.state == LeftoverState.GONE

    assert eventually(is_gone, seconds=PATIENCE_SECONDS), entry.error_message
    assert is_away(region, cluster)()
    assert (entry.ended_at is not None, entry.due_at, entry.error_message) == (True, None, "")
    assert AuditEvent.objects.filter(
        action="operator.leftover.removal_requested", target_id=str(entry.pk), actor_label=OPERATOR.label
    ).exists()
    sweeper.take_inventories()
    assert Leftover.objects.filter(cluster_id=cluster.pk).count() == 1, "nothing was found that the removal left"
    assert objects_of(region, other) == of_other


# --- A namespace that is gone ----------------------------------------------------------------------------------------


def test_a_namespace_that_somebody_removed_is_told_and_nothing_empty_takes_its_place(
    region: Region, customers: Customers
) -> None:
    """Guarantee: from the first moment of its removal on nothing is made for it; who asks is told that all is gone."""
    customer = customers.new()
    cluster = customer.healthy()
    region.settle(desired_of(cluster.pk))
    region.cluster.kubectl("delete", "namespace", f"fp-{cluster.pk}", "--wait=false")
    for outcome in turns(cluster):
        if outcome.error_code == "data_gone" and is_away(region, cluster)():
            break
    mark = len(region.proxy.asked)
    for _ in range(3):
        assert take_turn(cluster.pk).error_code == "data_gone"
    sweeper.take_inventories()

    assert writes(region, mark, "fp-") == []
    assert is_away(region, cluster)()
    Cluster.objects.filter(pk=cluster.pk).update(created_at=Now() - timedelta(hours=1))
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=cluster.pk)
    assert (entry.kind, entry.state, entry.ended_at) == ("loss", LeftoverState.MISSING, None)
    told = read.cluster(customer.person.actor, cluster.pk)
    assert "All of this cluster is gone from its region" in str(told.conditions)

    customer.ask(services.suspend_cluster, cluster)
    customer.run(cluster)
    again = customer.ask(services.resume_cluster, cluster)
    assert take_turn(cluster.pk).is_permanent
    shown = customer.look(again)
    assert (shown.state, shown.error_code) == (OperationState.FAILED, "data_gone")
    assert "No empty engine is started in its place" in shown.error_message
    assert is_away(region, cluster)()

    gone = customer.ask(services.request_deletion, cluster, purge=True)
    customer.run(cluster)
    assert customer.look(gone).state == OperationState.SUCCEEDED
    sweeper.take_inventories()
    entry.refresh_from_db()
    assert (entry.state, entry.ended_at is not None) == (LeftoverState.SETTLED, True)


# --- A database set back ---------------------------------------------------------------------------------------------


@pytest.fixture
def counted(region: Region, customers: Customers) -> Iterator[Customers]:
    """Customers of a database that no region knows to be older; whatever a test makes of that is forgotten."""

    def forget() -> None:
        region.cluster.kubectl("-n", "flowplane-system", "delete", "configmap/register", "--ignore-not-found")
        Installation.objects.update(set_back_at=None, report={})
        Cluster.objects.filter(hold=Hold.SET_BACK).update(hold="", due_at=None)

    forget()
    yield customers
    forget()


def beat(region: Region) -> None:
    """Count up, until the region remembers it: a busy one may answer too late."""

    def is_remembered() -> bool:
        sweeper.keep_registers()
        own = Installation.objects.get(pk=1).beat
        return int(region.judge.backend.read_register().get("beat", 0)) == own

    assert eventually(is_remembered, seconds=60)


def finds_out() -> bool:
    sweeper.keep_registers()
    return installation.is_set_back()


def test_an_older_database_removes_nothing_and_holds_what_differs(region: Region, counted: Customers) -> None:
    """Guarantee: in front of a region that has seen more, nothing changes before an operator has looked."""
    owners = [counted.new() for _ in range(4)]
    same, stopped, spared = (one.healthy() for one in owners[:3])
    deletion = owners[2].ask(services.request_deletion, spared)
    for outcome in turns(spared):
        if outcome.action is None:
            break
    beat(region)
    older = Copy.of(*owners)

    owners[2].ask(services.restore_cluster, spared)
    owners[1].ask(services.suspend_cluster, stopped)
    younger = owners[3].healthy()
    for owner, cluster in zip(owners, (same, stopped, spared, younger), strict=True):
        owner.run(cluster)
    beat(region)
    there = (same, stopped, spared, younger)
    wishes = [desired_of(cluster.pk) for cluster in there]
    before = [(region.uid(wish), region.uids(wish)) for wish in wishes]
    assert "Pod/broker-0" in before[2][1]
    assert "Pod/broker-0" not in before[1][1]

    older.bring_back()
    # Its window has closed since; nobody knows any more that it was taken back.
    Cluster.objects.filter(pk=spared.pk).update(delete_after=Now() - timedelta(seconds=1))
    mark = len(region.proxy.asked)
    assert eventually(finds_out, seconds=60)
    for _ in range(3):
        outcomes = [take_turn(cluster.pk).error_code for cluster in (same, stopped, spared)]
        sweeper.tidy_stores()
        sweeper.take_inventories()

    assert outcomes == ["", "held_back", "held_back"]
    assert [(region.uid(wish), region.uids(wish)) for wish in wishes] == before
    assert writes(region, mark, "/fp-") == []
    holds = dict(Cluster.objects.filter(region=SLUG, deleted_at=None).values_list("pk", "hold"))
    assert [holds.get(cluster.pk) for cluster in there] == ["", Hold.SET_BACK, Hold.SET_BACK, None]
    shown = owners[2].look(deletion)
    assert (shown.state, shown.error_code, shown.can_force) == (OperationState.RUNNING, "held_back", False)
    assert "restored from an older copy" in shown.waits_for
    assert Leftover.objects.get(cluster_id=younger.pk).state == LeftoverState.FOUND

    # It is the hold alone that keeps it.
    installation.acknowledge(actor=OPERATOR)
    spared.refresh_from_db()
    installation.release_hold(actor=OPERATOR, cluster=spared)
    owners[2].run(spared)
    assert is_away(region, spared)()
    assert owners[2].look(deletion).state == OperationState.SUCCEEDED
