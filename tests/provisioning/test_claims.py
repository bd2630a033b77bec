"""Who is served next, how a claim is taken and given back, and what becomes of a cluster that kills its workers."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from provisioning import reconciler, selectors, services, statements, wakeups
from provisioning.models import Cluster, Operation
from provisioning.spec import Lifecycle
from provisioning.states import ConditionType, OperationKind, OperationState, Truth
from provisioning.verdicts import Verdict
from tenants.models import Organization
from tests.factories import Person, make_organization
from tests.provisioning.conftest import ask, make_clusters
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db

TTL = timedelta(seconds=20)
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def only_ours(region: PretendRegion) -> None:
    """Whatever other tests committed is not this test's to claim."""
    Cluster.objects.update(due_at=None)


@pytest.fixture
def cluster(alice: Person) -> Cluster:
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


def in_lane(lane: int) -> Organization:
    """An organization of that lane."""
    return make_organization(id=UUID(bytes=uuid4().bytes[:15] + bytes([lane])))


def claimed_by(number: int) -> list[UUID]:
    """Whose rows the next claims take."""
    rows = [Cluster.objects.claim(ttl=TTL) for _ in range(number)]
    return [row.organization_id for row in rows if row is not None]


def let_the_worker_die(cluster: Cluster) -> None:
    """Take the lease as a worker does that then dies, and let the lease's time pass."""
    make_due(cluster)
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL)
    assert claimed is not None
    if claimed.deaths:
        assert Cluster.objects.begin_alone(claimed, ttl=TTL)
    end_the_lease(cluster)


def end_the_lease(cluster: Cluster) -> None:
    """Its time has passed."""
    past = Now() - timedelta(seconds=1)
    Cluster.objects.filter(pk=cluster.pk).update(due_at=past, lease_expires_at=past)


def make_due(cluster: Cluster) -> None:
    Cluster.objects.filter(pk=cluster.pk, lease_expires_at=None).update(due_at=Now() - timedelta(seconds=1))


def test_organizations_go_round(acorn: Organization, birch: Organization) -> None:
    cedar = make_organization(name="Cedar")
    make_clusters(acorn, 6, due_seconds_ago=9)
    make_clusters(birch, 2, due_seconds_ago=5)
    make_clusters(cedar, 1, due_seconds_ago=1)
    expected = [acorn, birch, cedar, acorn, birch, acorn, acorn, acorn, acorn]
    assert claimed_by(12) == [organization.pk for organization in expected]


def test_who_was_served_longest_ago_is_next(acorn: Organization, birch: Organization) -> None:
    served = make_clusters(acorn, 2, due_seconds_ago=9)[0]
    make_clusters(birch, 1, due_seconds_ago=1)
    old = make_clusters(birch, 1, due_seconds_ago=None)[0]
    Cluster.objects.filter(pk=old.pk).update(claimed_at=Now() - timedelta(hours=1))
    Cluster.objects.filter(pk=served.pk).update(claimed_at=Now() - timedelta(seconds=1))
    assert claimed_by(1) == [birch.pk]


def test_an_organizations_own_rows_come_oldest_first(acorn: Organization) -> None:
    rows = make_clusters(acorn, 40)
    claimed = [Cluster.objects.claim(ttl=TTL) for _ in range(40)]
    assert [row.pk for row in claimed if row is not None] == [row.pk for row in rows]


def test_two_long_backlogs_do_not_hide_who_came_in_between() -> None:
    older, between, newer = (in_lane(lane) for lane in (1, 2, 3))
    make_clusters(older, 300, due_seconds_ago=9)
    make_clusters(between, 1, due_seconds_ago=5)
    make_clusters(newer, 300, due_seconds_ago=1)
    assert between.pk in claimed_by(3)


def test_who_shares_the_backlogs_lane_is_seen_when_it_comes() -> None:
    hog, guest = in_lane(7), in_lane(7)
    make_clusters(hog, 300, due_seconds_ago=9)
    claimed_by(5)
    make_clusters(guest, 1, due_seconds_ago=0)
    assert claimed_by(1) == [guest.pk]


@pytest.mark.parametrize("lane", [7, 8], ids=["the same lane", "another lane"])
def test_behind_a_thousand_of_one_organization_another_is_the_very_next(lane: int) -> None:
    hog, guest = in_lane(7), in_lane(lane)
    make_clusters(hog, 1000, due_seconds_ago=9)
    assert claimed_by(5) == [hog.pk] * 5
    make_clusters(guest, 2, due_seconds_ago=0)
    assert claimed_by(3) == [guest.pk, hog.pk, guest.pk]


def test_the_index_and_the_statement_mean_the_same_lane() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'cluster_lane'")
        (definition,) = cursor.fetchone() or ("",)
    assert "".join(statements.LANE.split()).strip("()") in "".join(definition.split())


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("due", [None, -1, 1])
@pytest.mark.parametrize("lease", [None, -1, 1])
@pytest.mark.parametrize("is_gone", [True, False])
def test_exactly_what_is_due_can_be_claimed(
    cluster: Cluster, is_named: bool, due: int | None, lease: int | None, is_gone: bool
) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(
        due_at=None if due is None else Now() + timedelta(minutes=due),
        lease_expires_at=None if lease is None else Now() + timedelta(minutes=lease),
        deleted_at=Now() if is_gone else None,
    )
    is_due = Cluster.objects.due().filter(pk=cluster.pk).exists()
    claimed = Cluster.objects.claim(cluster.pk if is_named else None, ttl=TTL)
    assert is_due == (due == -1 and lease != 1 and not is_gone)
    assert (claimed is not None) == is_due


def test_a_claim_brings_all_that_a_turn_decides_on(cluster: Cluster) -> None:
    with CaptureQueriesContext(connection) as queries:
        claimed = Cluster.objects.claim(ttl=TTL)
        assert claimed is not None
        subject = selectors.subject_of(claimed)
        assert subject.row.region.backend == "pretend"
    assert len(queries) == 1
    read = selectors.turn_subject(cluster.pk)
    assert subject.desired == read.desired
    assert subject.open_operation_id == read.open_operation_id == Operation.objects.get(cluster=cluster).pk
    assert subject.open_operation_kind is read.open_operation_kind is OperationKind.CREATE
    assert subject.tried_steps == read.tried_steps == frozenset()
    for field in Cluster._meta.concrete_fields:
        assert getattr(claimed, field.attname) == getattr(read.row, field.attname), field.name


def test_what_did_not_change_is_not_written(cluster: Cluster) -> None:
    claimed = Cluster.objects.claim(ttl=TTL)
    assert claimed is not None
    Cluster.objects.filter(pk=cluster.pk).update(endpoint_rest="as it was")
    with CaptureQueriesContext(connection) as queries:
        assert Cluster.objects.give_back(claimed, due_in_seconds=5, failures=3)
    assert len(queries) == 1
    row = Cluster.objects.get(pk=cluster.pk)
    assert (row.failures, row.endpoint_rest, row.lease_expires_at) == (3, "as it was", None)
    assert not Cluster.objects.give_back(claimed.__class__(pk=claimed.pk, lease_epoch=0), due_in_seconds=5)


def test_serving_goes_on_until_nothing_is_due(acorn: Organization, birch: Organization) -> None:
    rows = [*make_clusters(acorn, 5), *make_clusters(birch, 3)]
    assert reconciler.serve(seconds=PATIENCE_SECONDS) is False
    assert Cluster.objects.filter(pk__in=[row.pk for row in rows], seen_at=None).count() == 0


def test_serving_ends_when_its_time_is_over(acorn: Organization) -> None:
    make_clusters(acorn, 3)
    assert reconciler.serve(seconds=0) is True
    assert Cluster.objects.due().count() == 2


def test_serving_waits_for_nobody(cluster: Cluster, acorn: Organization, region: PretendRegion) -> None:
    region.slow = True
    others = make_clusters(acorn, 3)
    reconciler.serve(seconds=PATIENCE_SECONDS)
    assert region.verbs() == ["prepare"], "each cluster was due once, and none was waited for"
    row = Cluster.objects.get(pk=cluster.pk)
    assert row.due_at is not None
    assert row.claimed_at is not None
    assert (row.due_at - row.claimed_at).total_seconds() < 60, "not as late as a look at what rests"
    assert Cluster.objects.filter(pk__in=[other.pk for other in others], seen_at=None).count() == 0


def test_a_row_that_cannot_be_understood_is_given_back_and_holds_up_nobody(
    cluster: Cluster, birch: Organization
) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(lifecycle="unheard of")
    other = make_clusters(birch, 1)[0]
    reconciler.serve(seconds=PATIENCE_SECONDS)
    row = Cluster.objects.get(pk=cluster.pk)
    assert (row.seen_at, row.lease_expires_at, row.deaths) == (None, None, 0)
    assert row.due_at is not None
    assert row.claimed_at is not None
    assert (row.due_at - row.claimed_at).total_seconds() > 200
    assert Cluster.objects.get(pk=other.pk).seen_at is not None


def test_three_deaths_in_a_row_park_the_operation(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    for _ in range(statements.MAX_DEATHS):
        let_the_worker_die(cluster)
    region.faults["observe"] = [AssertionError("it was looked at")]
    assert reconciler.turn(cluster.pk) is False
    row = Cluster.objects.get(pk=cluster.pk)
    operation = selectors.operation(alice.actor, Operation.objects.get(cluster=cluster).pk)
    assert (row.deaths, row.due_at, row.lease_expires_at) == (3, None, None)
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "worker_keeps_dying")
    assert "3 times in a row" in operation.error_message
    assert operation.verdict is Verdict.NEEDS_US
    assert operation.can_retry
    view = selectors.cluster(alice.actor, cluster.pk)
    facts = {fact.type: (fact.status, fact.reason) for fact in view.conditions}
    assert facts[ConditionType.STALLED] == (Truth.TRUE, "WorkerKeepsDying")
    assert facts[ConditionType.AVAILABLE] == (Truth.UNKNOWN, "WorkerKeepsDying")


def test_who_only_waited_to_be_alone_is_not_counted(cluster: Cluster, region: PretendRegion) -> None:
    for _ in range(2 * statements.MAX_DEATHS):
        make_due(cluster)
        assert Cluster.objects.claim(cluster.pk, ttl=TTL) is not None
        end_the_lease(cluster)
    assert reconciler.turn(cluster.pk) is True
    assert region.verbs() == ["prepare"]


def test_a_wake_up_during_a_suspects_turn_is_not_lost(cluster: Cluster, region: PretendRegion) -> None:
    let_the_worker_die(cluster)
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL)
    assert claimed is not None
    wakeups.wake(cluster.pk)
    assert Cluster.objects.begin_alone(claimed, ttl=TTL)
    assert Cluster.objects.give_back(claimed, due_in_seconds=300)
    assert Cluster.objects.due().filter(pk=cluster.pk).exists()


def test_a_wake_up_after_the_lease_ran_out_is_not_lost(cluster: Cluster) -> None:
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL)
    assert claimed is not None
    end_the_lease(cluster)
    wakeups.wake(cluster.pk)
    assert Cluster.objects.give_back(claimed, due_in_seconds=300), "nobody else has claimed it"
    assert Cluster.objects.due().filter(pk=cluster.pk).exists()


def test_a_suspect_that_was_overtaken_while_it_waited_does_not_begin(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    let_the_worker_die(cluster)
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL)
    assert claimed is not None
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    assert not Cluster.objects.begin_alone(claimed, ttl=TTL)
    assert Cluster.objects.get(pk=cluster.pk).deaths == 0


def test_a_turn_that_comes_back_ends_the_row_of_deaths(cluster: Cluster, region: PretendRegion) -> None:
    for _ in range(statements.MAX_DEATHS - 1):
        let_the_worker_die(cluster)
    assert reconciler.turn(cluster.pk) is True
    assert Cluster.objects.get(pk=cluster.pk).deaths == 0
    let_the_worker_die(cluster)
    make_due(cluster)
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL)
    assert claimed is not None
    assert claimed.deaths == 1


def test_what_nobody_could_give_back_is_no_death(
    cluster: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away during a turn, and is back when the lease has run out; again and again."""
    for _ in range(statements.MAX_DEATHS + 1):
        make_due(cluster)
        assert Cluster.objects.claim(cluster.pk, ttl=TTL, is_forgiven=True) is not None
        end_the_lease(cluster)
        assert Cluster.objects.get(pk=cluster.pk).deaths == 0
    with pytest.raises(OperationalError), reconciler.noting_absence():
        raise OperationalError("too many connections")
    monkeypatch.setattr(statements, "BEGIN_ALONE", "a statement of suspects only, which nobody understands")
    assert reconciler.turn(cluster.pk) is True
    assert region.verbs() == ["prepare"]


def test_a_death_during_an_outage_counts_when_it_comes_again(cluster: Cluster) -> None:
    for _ in range(statements.MAX_DEATHS):
        let_the_worker_die(cluster)
    claimed = Cluster.objects.claim(cluster.pk, ttl=TTL, is_forgiven=True)
    assert claimed is not None
    assert claimed.deaths == statements.MAX_DEATHS - 1


def park(cluster: Cluster) -> None:
    for _ in range(statements.MAX_DEATHS):
        let_the_worker_die(cluster)
    reconciler.turn(cluster.pk)


def test_a_retry_forgets_the_deaths(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    park(cluster)
    services.retry_operation(actor=alice.actor, operation_id=Operation.objects.get(cluster=cluster).pk)
    assert reconciler.turn(cluster.pk) is True
    assert region.verbs() == ["prepare"]
    assert Cluster.objects.get(pk=cluster.pk).deaths == 0


def test_a_new_wish_forgets_the_deaths(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    park(cluster)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    reconciler.serve(seconds=PATIENCE_SECONDS)
    assert Cluster.objects.get(pk=cluster.pk).deleted_at is not None


def test_a_rename_does_not_end_the_stall(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    park(cluster)
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, name="other")
    let_the_worker_die(cluster)
    reconciler.turn(cluster.pk)
    assert Cluster.objects.get(pk=cluster.pk).due_at is None
    assert region.calls == []


def test_only_a_person_wakes_a_cluster_that_is_left_alone(cluster: Cluster) -> None:
    park(cluster)
    wakeups.wake(cluster.pk)
    assert Cluster.objects.get(pk=cluster.pk).due_at is None
    wakeups.wake(cluster.pk, is_by_hand=True)
    row = Cluster.objects.get(pk=cluster.pk)
    assert row.due_at is not None
    assert row.deaths == 0


def test_without_an_operation_it_is_tried_again_in_an_hour(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    for _ in range(6):
        make_due(cluster)
        reconciler.turn(cluster.pk)
    assert Operation.objects.get(cluster=cluster).state == OperationState.SUCCEEDED
    park(cluster)
    row = Cluster.objects.get(pk=cluster.pk)
    assert row.due_at is not None
    assert row.claimed_at is not None
    assert (row.due_at - row.claimed_at).total_seconds() == pytest.approx(3600, abs=5)
    region.kill(cluster.pk)
    let_the_worker_die(cluster)
    assert reconciler.turn(cluster.pk) is False, "one more death is enough"
    assert region.starts == 1
    make_due(cluster)
    Cluster.objects.filter(pk=cluster.pk).update(start_after=None)
    assert reconciler.turn(cluster.pk) is True
    assert Cluster.objects.get(pk=cluster.pk).deaths == 0
    assert region.starts == 2


def test_old_code_can_insert_a_row_and_hold_its_lease(cluster: Cluster) -> None:
    """What the release before this one does to the new columns: nothing."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'provisioning_cluster'"
            " AND column_name IN ('claimed_at', 'deaths') AND (is_nullable = 'YES' OR column_default IS NOT NULL)"
        )
        assert len(cursor.fetchall()) == 2
    end = Now() + TTL
    Cluster.objects.due().filter(pk=cluster.pk).update(
        lease_epoch=F("lease_epoch") + 1, lease_expires_at=end, due_at=end
    )
    assert Cluster.objects.claim(cluster.pk, ttl=TTL) is None
    Cluster.objects.filter(pk=cluster.pk).update(due_at=Now(), lease_expires_at=None)
    assert Cluster.objects.claim(cluster.pk, ttl=TTL) is not None
    assert Cluster.objects.get(pk=cluster.pk).lifecycle == Lifecycle.RUNNING
