"""The database's clock goes back: what it had set before the leap waits no longer than it would have."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from provisioning.models import Cluster, Installation, Leftover
from provisioning.services import installation
from tests.factories import Person
from tests.provisioning.conftest import make_clusters

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nothing_else")]

HOUR = timedelta(hours=1)


@pytest.fixture
def held(alice: Person) -> Cluster:
    """A cluster whose turn began an hour from now, holds its lease for 20 s, is due then, and may be started then."""
    (row,) = make_clusters(alice.organization, 1)
    ends = Now() + HOUR + timedelta(seconds=20)
    Cluster.objects.filter(pk=row.pk).update(
        claimed_at=Now() + HOUR, lease_expires_at=ends, due_at=ends, start_after=ends
    )
    return row


def seconds_until(row: Cluster, name: str) -> float:
    wait = ExpressionWrapper(F(name) - Now(), output_field=DurationField())
    seconds: timedelta = Cluster.objects.filter(pk=row.pk).values_list(wait, flat=True).get()
    return seconds.total_seconds()


def beat_with_the_last(seconds_from_now: float) -> None:
    """Beat, when the one before was so long from now."""
    installation.beat()
    Installation.objects.update(beat_at=Now() + timedelta(seconds=seconds_from_now))
    installation.beat()


def test_a_clock_that_has_gone_back_is_followed_once(held: Cluster) -> None:
    beat_with_the_last(3600)
    seconds = {"claimed_at": 0, "lease_expires_at": 20, "due_at": 20, "start_after": 20}
    for name in seconds:
        assert seconds_until(held, name) == pytest.approx(seconds[name], abs=10)
    before = Cluster.objects.values(*seconds).get(pk=held.pk)
    installation.beat()
    assert Cluster.objects.values(*seconds).get(pk=held.pk) == before


@pytest.mark.parametrize("seconds", [-10.0, -3600.0, 30.0])
def test_a_clock_that_goes_on_leaps_forwards_or_is_set_right_by_a_little_changes_no_cluster(
    held: Cluster, seconds: float
) -> None:
    beat_with_the_last(seconds)
    assert seconds_until(held, "due_at") == pytest.approx(3620, abs=10)


def test_a_removal_that_is_tried_again_does_not_wait_longer(alice: Person) -> None:
    (row,) = make_clusters(alice.organization, 1)
    entry = Leftover.objects.create(
        region_id="pretend", cluster_id=row.pk, kind="cluster", state="removing", due_at=Now() + HOUR
    )
    beat_with_the_last(3600)
    assert Leftover.objects.filter(pk=entry.pk, due_at__lt=Now() + timedelta(seconds=10)).exists()


def test_what_was_never_claimed_and_is_not_due_stays_so(alice: Person) -> None:
    (row,) = make_clusters(alice.organization, 1, due_seconds_ago=None)
    Cluster.objects.filter(pk=row.pk).update(claimed_at=Now() + HOUR, lease_expires_at=None)
    beat_with_the_last(3600)
    row.refresh_from_db()
    assert (row.due_at, row.lease_expires_at) == (None, None)
    assert seconds_until(row, "claimed_at") < 10
