"""What no wish stands for: forced ends, finds, removals that nobody asked for, and a database set back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from common.errors import Conflict, ControlPlaneError
from provisioning import reconciler, selectors, services, sweeper
from provisioning.backends.base import Find
from provisioning.errors import RegionUnreachable
from provisioning.models import Backup, Cluster, Installation, Leftover, Operation
from provisioning.models import Region as RegionRow
from provisioning.services import installation, leftovers
from provisioning.states import BackupState, Hold, LeftoverState, OperationState, Phase
from tenants import services as tenancy
from tenants.actor import Actor, PrincipalKind
from tenants.models import Audience, AuditEvent, Credential, CredentialSecret
from tests.factories import Person, make_credential, make_person
from tests.provisioning.conftest import ask, make_clusters
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.test_reconciler import latest, make_due, turn_until_rest

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nothing_else")]
OPERATOR = Actor(kind=PrincipalKind.OPERATOR, principal_id="op", label="operator@example.com")


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    turn_until_rest(cluster)
    return fresh(cluster)


@pytest.fixture
def place(region: PretendRegion) -> RegionRow:
    return RegionRow.objects.get(pk="pretend")


def fresh(cluster: Cluster) -> Cluster:
    return Cluster.objects.get(pk=cluster.pk)


def turn(cluster: Cluster, times: int = 1) -> None:
    for _ in range(times):
        make_due(cluster)
        reconciler.turn(cluster.pk)


# --- force ------------------------------------------------------------------------------------------------------------


def test_a_deletion_that_a_region_does_not_answer_is_ended_by_force_and_finished_later(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    assert not selectors.operation(alice.actor, operation.pk).can_force
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")]
    turn(healthy)
    assert selectors.operation(alice.actor, operation.pk).can_force
    services.force_operation(actor=alice.actor, operation_id=operation.pk)
    assert fresh(healthy).deleted_at is not None
    assert Audience.objects.get(pk=healthy.pk).closed_at is not None
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.SUCCEEDED, "forced")
    assert healthy.pk in region.clusters, "it was still there"
    region.faults["delete"] = [RegionUnreachable("The region does not answer.")]
    sweeper.tidy_stores()
    entry = Leftover.objects.get(cluster_id=healthy.pk)
    assert (entry.state, entry.attempts, entry.error_message) == ("removing", 1, "The region does not answer.")
    Leftover.objects.update(due_at=Now())
    sweeper.tidy_stores()
    entry.refresh_from_db()
    assert (entry.state, entry.due_at) == ("gone", None)
    assert healthy.pk not in region.clusters
    assert services.create_cluster(actor=alice.actor, request=ask()).cluster.name == healthy.name


def test_a_turn_under_way_is_fenced_off_by_force(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")]
    turn(healthy)
    make_due(healthy)
    assert Cluster.objects.claim(healthy.pk, ttl=timedelta(seconds=20))
    subject = selectors.turn_subject(healthy.pk)
    services.force_operation(actor=alice.actor, operation_id=operation.pk)
    with pytest.raises(ControlPlaneError, match="took over"):
        services.record_turn(subject, services.TurnOutcome(None, None, due_in_seconds=1))
    assert fresh(healthy).due_at is None


@pytest.mark.parametrize("change", [services.suspend_cluster, services.request_deletion])
def test_what_gets_on_by_itself_is_not_forced(
    alice: Person, healthy: Cluster, change: Callable[..., Operation]
) -> None:
    operation = change(actor=alice.actor, cluster_id=healthy.pk)
    with pytest.raises(ControlPlaneError) as caught:
        services.force_operation(actor=alice.actor, operation_id=operation.pk)
    assert caught.value.code == "not_forceable"


# --- backups on their way out -----------------------------------------------------------------------------------------


def test_a_backup_is_removed_from_its_store(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    backup = Backup.objects.get(cluster=healthy)
    services.delete_backup(actor=alice.actor, backup_id=backup.pk)
    region.faults["drop_backup"] = [RegionUnreachable("The store does not answer.")]
    sweeper.tidy_stores()
    Leftover.objects.update(due_at=Now())
    sweeper.tidy_stores()
    backup.refresh_from_db()
    assert backup.state == BackupState.REMOVED
    assert [(ref.cluster_id, ref.number) for ref in region.dropped] == [(healthy.pk, backup.number)]


# --- finds ------------------------------------------------------------------------------------------------------------


def test_what_is_found_is_entered_and_touched_by_nobody(
    alice: Person, healthy: Cluster, region: PretendRegion, place: RegionRow
) -> None:
    stray = Find(uuid4(), card={"organization": str(alice.organization.pk)}, parts=("an engine, pid 7",), epoch=3)
    region.strays.append(stray)
    sweeper.take_inventories()
    sweeper.take_inventories()
    entry = Leftover.objects.get(region=place)
    assert (entry.cluster_id, entry.state, entry.found) == (stray.cluster_id, "found", ["an engine, pid 7"])
    assert entry.organization_id == alice.organization.pk
    assert "delete" not in region.verbs()
    region.strays.clear()
    sweeper.take_inventories()
    entry.refresh_from_db()
    assert (entry.state, entry.ended_at is not None) == (LeftoverState.GONE, True)


def test_a_find_is_removed_when_an_operator_says_so(region: PretendRegion, place: RegionRow) -> None:
    stray = Find(uuid4(), parts=("a folder",), since=datetime(2026, 1, 1, tzinfo=UTC))
    leftovers.note_finds(place, [stray])
    entry = Leftover.objects.get(cluster_id=stray.cluster_id)
    leftovers.remove(actor=OPERATOR, leftover_id=entry.pk)
    with pytest.raises(Conflict):
        leftovers.remove(actor=OPERATOR, leftover_id=entry.pk)
    sweeper.tidy_stores()
    entry.refresh_from_db()
    assert entry.state == LeftoverState.GONE
    assert region.epochs[stray.cluster_id] == sweeper.LAST_EPOCH
    assert AuditEvent.objects.filter(action="operator.leftover.removal_requested").count() == 1


def lose_row(cluster: Cluster) -> None:
    """The row is gone, as from a database that was restored from an older copy."""
    audience = cluster.audience
    Operation.objects.filter(cluster=cluster).delete()
    cluster.delete()
    audience.delete()


def test_a_cluster_whose_row_was_lost_is_adopted_and_not_touched(
    alice: Person, healthy: Cluster, region: PretendRegion, place: RegionRow
) -> None:
    services.revoke_access(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    audience = Audience.objects.get(pk=healthy.pk).value
    card = dict(region.clusters[healthy.pk].card)
    region.clusters[healthy.pk].card = {**card, "audience": audience, "spec_generation": "7"}
    lose_row(fresh(healthy))
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=healthy.pk)
    foreseen, why_not = leftovers.adoption_of(entry)
    assert (foreseen is not None and foreseen.name, why_not) == (healthy.name, "")
    starts = region.starts
    adopted = leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)
    turn(adopted, times=2)
    view = selectors.cluster(alice.actor, healthy.pk)
    assert view.phase is Phase.HEALTHY
    assert view.row.audience.value == audience
    assert view.row.spec_generation == 8
    assert region.starts == starts
    entry.refresh_from_db()
    assert entry.state == LeftoverState.ADOPTED


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"organization": str(uuid4())}, "names no organization"),
        ({"organization": "nonsense"}, "names no organization"),
        ({"plan_type": "gigantic"}, "does not say enough"),
        ({"name": None}, "does not say enough"),
    ],
)
def test_a_card_that_does_not_say_enough_is_not_adopted(
    alice: Person, place: RegionRow, change: dict[str, Any], sentence: str
) -> None:
    card = {"organization": str(alice.organization.pk), "name": "lost", "stage": "dev", "plan_type": "small"}
    card |= {"channel": "stable", "release": "8.5.8", "partitions": "1", "data_epoch": "0", **change}
    find = Find(uuid4(), card={key: value for key, value in card.items() if value is not None})
    leftovers.note_finds(place, [find])
    entry = Leftover.objects.get(cluster_id=find.cluster_id)
    with pytest.raises(Conflict, match=sentence):
        leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)
    assert not Cluster.objects.filter(pk=find.cluster_id).exists()


def test_what_was_deleted_here_is_never_adopted(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    kept = region.clusters[healthy.pk]
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    turn_until_rest(healthy)
    region.clusters[healthy.pk] = kept
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=healthy.pk)
    with pytest.raises(Conflict, match="was deleted here"):
        leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)


# --- removals that nobody asked for -----------------------------------------------------------------------------------


def mark_deleted(region: PretendRegion, count: int) -> list[Cluster]:
    """Clusters that a mistake of ours wishes away."""
    people = [services.create_cluster(actor=person.actor, request=ask()).cluster for person in make_people(count)]
    for cluster in people:
        turn_until_rest(cluster)
    Cluster.objects.filter(pk__in=[one.pk for one in people]).update(lifecycle="deleted", delete_after=Now())
    return people


def make_people(count: int) -> list[Person]:
    return [make_person() for _ in range(count)]


def test_more_removals_than_ever_should_be_stop_before_the_first(plans: None, region: PretendRegion) -> None:
    lost = mark_deleted(region, 4)
    region.calls.clear()
    for cluster in lost:
        turn(cluster)
    assert "delete" not in region.verbs()
    assert len(region.clusters) == 4
    assert fresh(lost[0]).deleted_at is None


@pytest.mark.parametrize(("live", "mistaken", "are_removed"), [(399, 4, False), (400, 4, True)])
def test_of_a_large_region_one_in_a_hundred_may_be_removed_unasked(
    alice: Person, plans: None, region: PretendRegion, *, live: int, mistaken: int, are_removed: bool
) -> None:
    lost = mark_deleted(region, mistaken)
    make_clusters(alice.organization, live - Cluster.objects.live().filter(region="pretend").count())
    region.calls.clear()
    for cluster in lost:
        turn(cluster)
    assert region.verbs().count("delete") == (mistaken if are_removed else 0)


def test_what_people_ask_for_is_removed_however_many_they_are(plans: None, region: PretendRegion) -> None:
    people = make_people(6)
    clusters = [services.create_cluster(actor=person.actor, request=ask()).cluster for person in people]
    for cluster, person in zip(clusters, people, strict=True):
        turn_until_rest(cluster)
        services.request_deletion(actor=person.actor, cluster_id=cluster.pk, purge=True)
    for cluster in clusters:
        turn_until_rest(cluster)
    assert region.clusters == {}


def test_an_unexplained_removal_is_an_operators_to_look_at(alice: Person, plans: None, region: PretendRegion) -> None:
    lost = mark_deleted(region, 4)
    turn(lost[0])
    row = fresh(lost[0])
    assert row.failures == 1
    assert row.due_at is not None
    row.lifecycle, row.delete_after = "running", None
    row.save()
    turn(lost[0], times=2)
    assert region.is_running(lost[0].pk)


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.fixture
def suspended(alice: Person, healthy: Cluster, region: PretendRegion) -> Cluster:
    """A cluster at rest, made long ago: no turn looks whether it is still there."""
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    Cluster.objects.filter(pk=healthy.pk).update(created_at=Now() - timedelta(days=1))
    return fresh(healthy)


def test_a_cluster_that_is_wished_and_gone_is_entered_once_and_ends_when_it_is_back(
    suspended: Cluster, region: PretendRegion
) -> None:
    sweeper.take_inventories()
    assert not Leftover.objects.exists()
    there = region.clusters.pop(suspended.pk)
    for _ in range(2):
        sweeper.take_inventories()
    entry = Leftover.objects.get()
    assert (entry.kind, entry.state, entry.cluster_id) == ("loss", LeftoverState.MISSING, suspended.pk)
    assert (entry.organization_id, entry.ended_at, entry.due_at) == (suspended.organization_id, None, None)
    for decide in (leftovers.adopt, leftovers.remove):
        with pytest.raises(Conflict, match="nothing to adopt or to remove"):
            decide(actor=OPERATOR, leftover_id=entry.pk)
    region.clusters[suspended.pk] = there
    sweeper.take_inventories()
    entry.refresh_from_db()
    assert (entry.state, entry.ended_at is not None) == (LeftoverState.SETTLED, True)
    assert region.verbs().count("start") == 1


def test_what_is_being_deleted_was_never_there_or_is_of_a_silent_region_is_not_missing(
    alice: Person, suspended: Cluster, region: PretendRegion
) -> None:
    asked_for = services.create_cluster(actor=alice.actor, request=ask(name="asked-for")).cluster
    Cluster.objects.filter(pk=asked_for.pk).update(created_at=Now() - timedelta(days=1))
    there = region.clusters.pop(suspended.pk)
    region.faults["inventory"] = [RegionUnreachable("The region does not answer.")]
    sweeper.take_inventories()
    assert not Leftover.objects.exists(), "silence reads as absent"
    Cluster.objects.filter(pk=suspended.pk).update(created_at=Now())
    sweeper.take_inventories()
    assert not Leftover.objects.exists(), "it may have been made after the look"
    Cluster.objects.filter(pk=suspended.pk).update(created_at=Now() - timedelta(days=1), lifecycle="deleted")
    sweeper.take_inventories()
    assert not Leftover.objects.exists()
    region.clusters[suspended.pk] = there


def test_only_backups_of_it_in_the_store_are_not_the_cluster(suspended: Cluster, region: PretendRegion) -> None:
    del region.clusters[suspended.pk]
    region.strays.append(Find(suspended.pk, card={}, parts=(leftovers.IN_STORE,)))
    sweeper.take_inventories()
    assert Leftover.objects.get().state == LeftoverState.MISSING


# --- a database set back ----------------------------------------------------------------------------------------------


def set_back(region: PretendRegion) -> None:
    """A region remembers more beats than this database has sent there."""
    if not region.register:
        sweeper.keep_registers()
    later = int(region.register["beat"]) + 100
    region.register = {**region.register, "beat": later}
    sweeper.keep_registers()


def test_a_database_that_counts_on_holds_nothing_back(healthy: Cluster, region: PretendRegion) -> None:
    for _ in range(3):
        sweeper.keep_registers()
    assert not installation.is_set_back()
    assert fresh(healthy).hold == ""


@pytest.fixture
def rested(healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A healthy cluster, and nothing has happened since the last beat; no change takes any time."""
    monkeypatch.setattr(installation, "LONGEST_CHANGE", timedelta(0))
    sweeper.keep_registers()
    region.calls.clear()
    return healthy


def test_while_nothing_happens_no_region_is_written_to(rested: Cluster, region: PretendRegion) -> None:
    before = region.register
    turn(rested)
    sweeper.keep_registers()
    assert region.verbs() == []
    assert region.register is before


def test_what_anybody_changes_and_what_a_turn_heals_makes_the_next_beat_count(
    alice: Person, rested: Cluster, region: PretendRegion
) -> None:
    beats = [region.register["beat"]]
    region.clusters[rested.pk].brokers[0].running = False
    turn(rested)
    assert region.verbs() == ["start"], "nobody has asked for it, so nothing is audited"
    for _ in range(2):
        sweeper.keep_registers()
        beats.append(region.register["beat"])
    services.suspend_cluster(actor=alice.actor, cluster_id=rested.pk)
    for _ in range(2):
        sweeper.keep_registers()
        beats.append(region.register["beat"])
    assert [beat - beats[0] for beat in beats] == [0, 1, 1, 2, 2]


def test_what_was_audited_by_a_transaction_that_lasted_counts_although_it_is_seen_late(
    alice: Person, rested: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=rested.pk)
    Installation.objects.update(beat_at=Now())
    before = region.register["beat"]
    sweeper.keep_registers()
    assert region.register["beat"] == before
    monkeypatch.setattr(installation, "LONGEST_CHANGE", timedelta(minutes=1))
    sweeper.keep_registers()
    assert region.register["beat"] == before + 1


def test_a_region_that_has_forgotten_is_told_again(rested: Cluster, region: PretendRegion) -> None:
    before, region.register = region.register, {}
    sweeper.keep_registers()
    assert region.register["beat"] == before["beat"]


def test_a_copy_that_has_caught_up_while_the_region_was_silent_is_known_all_the_same(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    """What it counts by itself says nothing of what a newer database has had the region remember."""
    sweeper.keep_registers()
    copy, sent = Installation.objects.get(pk=1).beat, RegionRow.objects.get(pk="pretend").beat
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    sweeper.keep_registers()
    newer = region.register
    Installation.objects.update(beat=copy)
    RegionRow.objects.filter(pk="pretend").update(beat=sent)
    region.faults["read_register"] = [RegionUnreachable("The region does not answer.")] * 3
    services.create_cluster(actor=alice.actor, request=ask(name="beside"))
    for _ in range(3):
        sweeper.keep_registers()
    assert Installation.objects.get(pk=1).beat > newer["beat"]
    assert region.register is newer
    sweeper.keep_registers()
    assert installation.is_set_back()
    assert fresh(healthy).hold == Hold.SET_BACK
    installation.acknowledge(actor=OPERATOR)
    for _ in range(2):
        sweeper.keep_registers()
    assert not installation.is_set_back(), "it was found out twice"


@pytest.mark.parametrize(
    ("sent", "told"),
    [(0, {"sent_to": ["pretend"]}), (1, {}), (1, {"sent_to": ["its-other-name"]})],
    ids=["the region is entered anew", "by a release before", "to another row that leads there"],
)
def test_what_was_not_put_down_as_sent_is_compared_with_what_was_counted(
    healthy: Cluster, region: PretendRegion, sent: int, told: dict[str, Any]
) -> None:
    sweeper.keep_registers()
    RegionRow.objects.update(beat=sent)
    counted = Installation.objects.get(pk=1).beat
    for beat, is_later in ((counted, False), (counted + 1, True)):
        region.register = {"beat": beat} | told
        assert installation.compare(RegionRow.objects.get(pk="pretend"), region.register) is is_later


def test_a_database_set_back_touches_nothing_that_differs_and_lets_the_rest_go_on(
    alice: Person, bob: Person, healthy: Cluster, region: PretendRegion
) -> None:
    other = services.create_cluster(actor=bob.actor, request=ask(name="other")).cluster
    turn_until_rest(other)
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    region.calls.clear()
    set_back(region)
    for _ in range(4):
        turn(healthy)
        turn(other)
    assert region.calls == []
    assert (fresh(healthy).hold, fresh(other).hold) == (Hold.SET_BACK, "")
    view = latest(healthy, alice)
    assert view.error_code == "held_back"
    assert "restored from an older copy" in view.waits_for
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn_until_rest(healthy)
    assert region.verbs() == ["stop"]


def test_a_database_set_back_deletes_nothing(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    services.delete_backup(actor=alice.actor, backup_id=Backup.objects.get(cluster=healthy).pk)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy, most=4)
    region.calls.clear()
    set_back(region)
    Cluster.objects.filter(pk=healthy.pk).update(delete_after=Now())
    for _ in range(4):
        turn(healthy)
        sweeper.tidy_stores()
    assert region.calls == []
    assert healthy.pk in region.clusters
    assert fresh(healthy).hold == Hold.SET_BACK
    installation.acknowledge(actor=OPERATOR)
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn_until_rest(healthy)
    sweeper.tidy_stores()
    assert healthy.pk not in region.clusters
    assert region.dropped != []


def test_credentials_issued_since_the_copy_are_reported(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    kept = make_credential(alice, audience_id=healthy.pk).credential
    lost = make_credential(alice, audience_id=healthy.pk).credential
    revoked = make_credential(alice, audience_id=healthy.pk).credential
    rotated = tenancy.add_secret(actor=alice.actor, credential_id=kept.pk)
    Credential.objects.filter(pk=revoked.pk).update(revoked_at=Now())
    sweeper.keep_registers()
    Credential.objects.filter(pk=lost.pk).delete()
    Credential.objects.filter(pk=revoked.pk).update(revoked_at=None)
    CredentialSecret.objects.filter(pk=rotated.secret_row.pk).delete()
    set_back(region)
    row = Installation.objects.get(pk=1)
    assert row.set_back_at is not None
    named = {(one["client_id"], one["state"]) for one in row.report["credentials"]}
    assert named == {(lost.client_id, "lost"), (revoked.client_id, "live again"), (kept.client_id, "lost")}
    assert AuditEvent.objects.filter(action="installation.set_back").count() == 1
    sweeper.keep_registers()
    assert AuditEvent.objects.filter(action="installation.set_back").count() == 1, "it was found out twice"


def test_a_region_that_has_seen_later_turns_holds_its_cluster(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.epochs[healthy.pk] = 10**6
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn(healthy, times=3)
    assert region.is_running(healthy.pk)
    assert fresh(healthy).hold == Hold.SET_BACK
    assert latest(healthy, alice).error_code == "held_back"
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn_until_rest(healthy)
    assert not region.is_running(healthy.pk), "the operator's word counts for more than the turns we know nothing of"


def test_a_database_set_back_overtakes_the_turns_it_has_forgotten(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.epochs[healthy.pk] = 10**6
    set_back(region)
    turn_until_rest(healthy)
    assert fresh(healthy).hold == "", "wish and region agree"
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert not region.is_running(healthy.pk)


def test_a_region_that_does_not_answer_is_compared_later(healthy: Cluster, region: PretendRegion) -> None:
    region.faults["read_register"] = [RegionUnreachable("The region does not answer.")]
    sweeper.keep_registers()
    assert region.register == {}
    sweeper.keep_registers()
    assert region.register["beat"] > 0
