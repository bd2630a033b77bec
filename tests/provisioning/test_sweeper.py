"""The clock's tick: nothing that is due is forgotten, whatever the broker does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from celery import Celery
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from config import celery_app
from provisioning import reconciler, services, sweeper, wakeups
from provisioning.models import Cluster
from tenants import tokens
from tenants.models import Organization
from tests.factories import Person
from tests.provisioning.conftest import ask, forget_messages, make_clusters, messages
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    # Whatever other tests committed is not this test's to sweep.
    Cluster.objects.update(due_at=None)
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


@pytest.fixture
def one_turn_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick on a busy machine takes the same turns: it has time for all, and what it begins is not due again in it."""
    monkeypatch.setattr(sweeper, "HELP_SECONDS", 60.0)
    monkeypatch.setattr(reconciler, "AFTER_ACTION_SECONDS", 60.0)


def overdue(cluster: Cluster, seconds: float) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(due_at=Now() - timedelta(seconds=seconds))


def test_what_nobody_took_up_is_taken_by_the_clock_itself(cluster: Cluster, region: PretendRegion) -> None:
    overdue(cluster, sweeper.TAKE_OVER_SECONDS + 1)
    assert sweeper.Sweeper().sweep(now=0.0) == 1
    assert region.verbs()[:1] == ["prepare"]


@pytest.mark.usefixtures("one_turn_each")
@pytest.mark.parametrize("junk", [[{"x": 1}], {"a": 1}, [1, 2], [{"type": "nonsense", "status": "True"}]])
def test_a_row_of_nonsense_is_mended_and_holds_up_nobody(
    alice: Person, bob: Person, cluster: Cluster, region: PretendRegion, junk: object
) -> None:
    other = services.create_cluster(actor=bob.actor, request=ask(name="other")).cluster
    Cluster.objects.filter(pk=cluster.pk).update(conditions=junk)
    overdue(cluster, sweeper.TAKE_OVER_SECONDS + 9)
    overdue(other, sweeper.TAKE_OVER_SECONDS + 1)
    sweeper.Sweeper().sweep(now=0.0)
    seen = Cluster.objects.get(pk=cluster.pk)
    assert seen.lease_expires_at is None
    assert isinstance(seen.conditions, list)
    assert Cluster.objects.get(pk=other.pk).seen_at is not None
    Cluster.objects.filter(pk=cluster.pk).update(conditions=junk)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)


@pytest.mark.usefixtures("one_turn_each")
def test_a_turn_that_breaks_off_does_not_end_the_tick(
    alice: Person, bob: Person, cluster: Cluster, region: PretendRegion
) -> None:
    other = services.create_cluster(actor=bob.actor, request=ask(name="other")).cluster
    Cluster.objects.filter(pk=cluster.pk).update(lifecycle="unheard of")
    overdue(cluster, sweeper.TAKE_OVER_SECONDS + 9)
    overdue(other, sweeper.TAKE_OVER_SECONDS + 1)
    sweeper.Sweeper().sweep(now=0.0)
    assert Cluster.objects.get(pk=cluster.pk).seen_at is None
    assert Cluster.objects.get(pk=other.pk).seen_at is not None


@pytest.fixture
def no_broker() -> Iterator[None]:
    """Let messages go to a broker that is not there."""
    nowhere = Celery("nowhere", broker="redis+socket:///nowhere/at/all.sock", set_as_current=False)
    nowhere.conf.broker_transport_options = celery_app.conf.broker_transport_options
    nowhere.set_current()
    yield
    celery_app.set_current()


@pytest.mark.usefixtures("no_broker", "one_turn_each")
def test_without_a_broker_the_clock_takes_the_turns_fairly(
    cluster: Cluster, charlie: Person, region: PretendRegion
) -> None:
    other = services.create_cluster(actor=charlie.actor, request=ask()).cluster
    overdue(cluster, 2)
    overdue(other, 1)
    sweep = sweeper.Sweeper()
    for tick in range(3):
        assert sweep.sweep(now=float(tick)) == 2
        overdue(cluster, 2)
        overdue(other, 1)
    assert region.starts == 2
    claimed = Cluster.objects.filter(pk__in=[cluster.pk, other.pk]).values_list("lease_epoch", flat=True)
    assert list(claimed) == [3, 3]


def test_a_tick_rings_a_few_times_however_much_is_due(
    cluster: Cluster, acorn: Organization, region: PretendRegion
) -> None:
    forget_messages()
    make_clusters(acorn, 3 * sweeper.MAX_RINGS)
    sweep = sweeper.Sweeper()
    sweep.sweep(now=0.0)
    assert messages() == sweeper.MAX_RINGS
    sweep.sweep(now=1.0)
    assert messages() == sweeper.MAX_RINGS, "all that is due was rung for a moment ago"
    sweep.sweep(now=sweeper.RING_AGAIN_SECONDS + 1)
    assert messages() == 2 * sweeper.MAX_RINGS


@pytest.mark.usefixtures("one_turn_each")
def test_what_is_long_overdue_is_not_rung_for_any_more(cluster: Cluster, region: PretendRegion) -> None:
    forget_messages()
    region.slow = True
    overdue(cluster, sweeper.TAKE_OVER_SECONDS + 1)
    sweeper.Sweeper().sweep(now=0.0)
    assert region.verbs() == ["prepare"]
    assert messages() == 1, "the reminder of the turn that the clock took"


def test_a_tick_with_nothing_due_costs_one_statement(cluster: Cluster) -> None:
    Cluster.objects.update(due_at=None)
    with CaptureQueriesContext(connection) as queries:
        assert sweeper.Sweeper().sweep(now=0.0) == 0
    assert len(queries) == 1


def test_a_cluster_in_a_turn_is_not_due(cluster: Cluster, region: PretendRegion) -> None:
    assert Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))
    assert sweeper.Sweeper().sweep(now=0.0) == 0


def test_wakeups_of_one_cluster_coalesce(cluster: Cluster, region: PretendRegion) -> None:
    Cluster.objects.update(due_at=None)
    with CaptureQueriesContext(connection) as queries:
        wakeups.wake(cluster.pk)
        first = Cluster.objects.get(pk=cluster.pk).due_at
        wakeups.wake(cluster.pk)
    assert first is not None
    assert Cluster.objects.get(pk=cluster.pk).due_at == first
    assert len(queries) <= 4


def test_a_change_of_an_overdue_cluster_rings_even_when_no_clock_does(
    cluster: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue(cluster, 1)
    rung: list[UUID] = []
    monkeypatch.setattr(wakeups, "ring", rung.append)
    wakeups.wake(cluster.pk)
    assert rung == [cluster.pk]


def test_a_tombstone_is_never_woken(cluster: Cluster) -> None:
    Cluster.objects.update(due_at=None, deleted_at=Now())
    wakeups.wake(cluster.pk)
    assert Cluster.objects.get(pk=cluster.pk).due_at is None


def test_public_keys_reach_every_region(region: PretendRegion) -> None:
    tokens.ensure_signing_key()
    sweeper.publish_keys()
    assert region.jwks == tokens.public_jwks()
    assert region.jwks is not None
    for key in region.jwks["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys(), "a private part was published"
