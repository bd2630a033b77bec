"""What a maintenance or a silence of its region takes from whoever has a time limit there, and who gets it back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from provisioning import selectors, services
from provisioning.errors import InMaintenance
from provisioning.models import Cluster, Region
from provisioning.services import regions, schedules
from provisioning.services.trials import TRIAL
from provisioning.states import OperationState
from tenants.actor import SYSTEM
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup, make_healthy
from tests.provisioning.test_reconciler import turn_until_rest

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nothing_else")]


def say(**fields: object) -> None:
    """Have operators or the clock have said this of the region."""
    Region.objects.filter(pk="pretend").update(**fields)


@pytest.fixture
def on_trial(alice: Person, region: PretendRegion) -> Cluster:
    """A cluster that had another minute to be well in, an hour ago, when its region was lost; else its former data is
    wished again."""
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    Cluster.objects.filter(pk=cluster.pk).update(is_on_trial=True, trial_ends_at=Now() - timedelta(minutes=59))
    return cluster


def has_minutes(cluster: Cluster, minutes: int) -> bool:
    """Whether its trial ends in the last of so many minutes."""
    latest = Now() + timedelta(minutes=minutes)
    ends = {"trial_ends_at__gt": latest - timedelta(minutes=1), "trial_ends_at__lte": latest}
    return Cluster.objects.filter(pk=cluster.pk, **ends).exists()


def test_a_trial_gets_back_the_time_of_the_maintenance(on_trial: Cluster) -> None:
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    say(maintenance_since=F("maintenance_since") - timedelta(hours=1))
    regions.end_maintenance(actor=SYSTEM, slug="pretend")
    assert has_minutes(on_trial, 1)


def test_a_trial_gets_back_the_time_of_a_silence_once(on_trial: Cluster) -> None:
    say(silent_since=Now() - timedelta(hours=1), silence="No answer.")
    as_two_clocks_saw_it = Region.objects.get(pk="pretend")
    regions.note_answer(as_two_clocks_saw_it)
    regions.note_answer(as_two_clocks_saw_it)
    assert has_minutes(on_trial, 1)


def test_a_trial_that_began_in_a_silence_gets_back_no_more_than_has_passed_of_it(on_trial: Cluster) -> None:
    Cluster.objects.filter(pk=on_trial.pk).update(trial_ends_at=Now() + TRIAL - timedelta(minutes=10))
    say(silent_since=Now() - timedelta(days=2), silence="No answer.")
    regions.note_answer(Region.objects.get(pk="pretend"))
    assert has_minutes(on_trial, 15)


@pytest.mark.parametrize(("silent", "maintained"), [(60, 30), (30, 60)])
@pytest.mark.parametrize("is_heard_first", [True, False])
def test_a_trial_gets_back_what_a_silence_and_a_maintenance_have_in_common_once(
    on_trial: Cluster, silent: int, maintained: int, *, is_heard_first: bool
) -> None:
    say(silent_since=Now() - timedelta(minutes=silent), maintenance_since=Now() - timedelta(minutes=maintained))
    if is_heard_first:
        regions.note_answer(Region.objects.get(pk="pretend"))
    regions.end_maintenance(actor=SYSTEM, slug="pretend")
    if not is_heard_first:
        regions.note_answer(Region.objects.get(pk="pretend"))
    assert has_minutes(on_trial, 1)


def test_a_drill_that_a_maintenance_meets_is_called_off_and_has_not_failed(
    alice: Person, region: PretendRegion
) -> None:
    cluster = make_healthy(services.create_cluster(actor=alice.actor, request=ask()).cluster)
    Cluster.objects.filter(pk=cluster.pk).update(drill_every_days=7, drill_due_at=Now() + timedelta(days=7))
    backup = make_backup(cluster)
    operation = services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    copy = operation.cluster
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    with pytest.raises(InMaintenance, match=r"is in maintenance, .* Prove the backup afterwards"):
        services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    Cluster.objects.filter(pk=copy.pk).update(created_at=Now() - timedelta(hours=2))
    regions.end_maintenance(actor=SYSTEM, slug="pretend")
    assert schedules.end_stale_drills() == 0
    backup.refresh_from_db()
    assert backup.error_message == ""
    view = selectors.operation(alice.actor, operation.pk)
    assert (view.state, view.error_code) == (OperationState.CANCELLED, "cancelled")
    turn_until_rest(copy)
    assert Cluster.objects.get(pk=copy.pk).deleted_at is not None
    assert schedules.start_due_drills() == 1, "a rhythm proves it again once the copy is gone"
