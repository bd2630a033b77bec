"""What the clock does behind everybody's back: stores, ledger, schedules, drills; and what adopting remembers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.db.models.functions import Now

from common.errors import Conflict, Permanent
from provisioning import executor, selectors, services, sweeper
from provisioning.backends.base import Find
from provisioning.backends.engine.store import Store
from provisioning.backends.local.inventory import take_inventory
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.watch import Watch
from provisioning.errors import RegionUnreachable
from provisioning.models import Backup, Cluster, Leftover, Operation, Region
from provisioning.services import drills, leftovers, schedules
from provisioning.spec import BackupRef, Lifecycle
from provisioning.states import BackupReason, BackupState, Hold, LeftoverKind, LeftoverState, OperationState
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup, make_healthy
from tests.provisioning.test_changes import backed_up, fresh, made, refusal
from tests.provisioning.test_ledger import OPERATOR, turn
from tests.provisioning.test_races import race
from tests.provisioning.test_reconciler import turn_until_rest

database = pytest.mark.django_db


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    return made(alice, ask(channel="next", release="8.5.8"))


@pytest.fixture
def other(alice: Person, healthy: Cluster) -> Cluster:
    """Another one of the same organization and layout."""
    return made(alice, ask(name="other", channel="next", release="8.5.8"))


@pytest.fixture
def elsewhere(region: PretendRegion) -> Iterator[PretendRegion]:
    """A second region, named `elsewhere`; the bench's own one is not asked."""
    second, local = PretendRegion(), executor.BACKENDS["local"]
    executor.BACKENDS["elsewhere"] = executor.BACKENDS["local"] = lambda _slug: second
    executor.backend_of.cache_clear()
    Region.objects.create(slug="elsewhere", name="Elsewhere", backend="elsewhere", domain="elsewhere.example")
    yield second
    del executor.BACKENDS["elsewhere"]
    executor.BACKENDS["local"] = local
    executor.backend_of.cache_clear()


def ledger(cluster: Cluster, **fields: Any) -> list[Leftover]:
    return list(Leftover.objects.filter(cluster_id=cluster.pk, **fields))


def pass_time() -> None:
    """Whatever waits for its time is due."""
    Leftover.objects.exclude(due_at=None).update(due_at=Now())


# --- what a copy takes again by itself --------------------------------------------------------------------------------


@database
def test_a_clusters_own_backup_of_the_same_number_is_no_leftover(
    alice: Person, healthy: Cluster, other: Cluster, region: PretendRegion
) -> None:
    own, anothers = make_backup(healthy, number=5), make_backup(other, number=5)
    operation = services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=anothers.pk)
    turn_until_rest(healthy)
    operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED
    assert ledger(healthy) == []
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    Cluster.objects.filter(pk=healthy.pk).update(delete_after=Now())
    turn_until_rest(healthy)
    pass_time()
    sweeper.tidy_stores()
    own.refresh_from_db()
    assert own.state == BackupState.COMPLETED
    assert region.dropped == [], "a good backup was taken out of the store"


@database
def test_what_a_copy_took_again_is_recorded_once(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    copy = made(alice, ask(name="copy", channel="next", from_backup=backup.pk))
    pass_time()
    sweeper.tidy_stores()
    assert region.dropped == [BackupRef(copy.pk, backup.number)]
    services.suspend_cluster(actor=alice.actor, cluster_id=copy.pk)
    turn_until_rest(copy)
    assert [entry.state for entry in ledger(copy)] == [LeftoverState.GONE], "a later change has nothing to do with it"


@database
def test_a_copy_that_ends_before_it_was_well_leaves_nothing(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    operation = services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    turn(operation.cluster, times=2)
    services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    turn_until_rest(operation.cluster)
    assert fresh(operation.cluster).deleted_at is not None
    (entry,) = ledger(operation.cluster)
    assert (entry.kind, entry.reference, entry.state) == ("backup", str(backup.number), "removing")


@database
def test_a_copy_that_is_ended_by_force_leaves_nothing_either(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    copy = made(alice, ask(name="copy", channel="next", from_backup=backup.pk))
    Leftover.objects.all().delete()
    operation = services.request_deletion(actor=alice.actor, cluster_id=copy.pk, purge=True)
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")]
    turn(copy)
    services.force_operation(actor=alice.actor, operation_id=operation.pk)
    assert {entry.kind for entry in ledger(copy)} == {LeftoverKind.CLUSTER, LeftoverKind.BACKUP}


# --- backups on their way out -----------------------------------------------------------------------------------------


@database
@pytest.mark.parametrize("way", ["retention", "purge"])
def test_a_backup_that_is_being_read_is_not_removed(
    alice: Person, healthy: Cluster, region: PretendRegion, way: str
) -> None:
    backup = make_backup(healthy, number=5, reason=BackupReason.SCHEDULED.value)
    copy = services.create_cluster(
        actor=alice.actor, request=ask(name="copy", channel="next", from_backup=backup.pk)
    ).cluster
    region.slow = True
    turn(copy, times=2)
    region.slow = False
    if way == "retention":
        Cluster.objects.filter(pk=healthy.pk).update(backups_kept=0)
        backed_up(alice, healthy)
    else:
        services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
        turn_until_rest(healthy)
    sweeper.tidy_stores()
    backup.refresh_from_db()
    assert backup.state == BackupState.REMOVING
    assert BackupRef(healthy.pk, 5) not in region.dropped
    assert refusal(services.delete_backup, actor=alice.actor, backup_id=backup.pk).code == "backup_not_usable"
    region.finish()
    turn_until_rest(copy)
    sweeper.tidy_stores()
    backup.refresh_from_db()
    assert backup.state == BackupState.REMOVED


@database
def test_a_region_that_is_silent_is_asked_once_in_a_pass_and_holds_up_no_other(
    alice: Person, bob: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    for number in range(1, 2 * sweeper.REMOVALS_AT_ONCE):
        make_backup(healthy, number=number, state=BackupState.REMOVING.value)
        leftovers.record_backup(healthy, number + 1000)
    Leftover.objects.update(due_at=Now() - timedelta(minutes=1))
    there = make_healthy(
        services.create_cluster(actor=bob.actor, request=ask(name="there", region="elsewhere")).cluster
    )
    backup = make_backup(there, state=BackupState.REMOVING.value)
    leftovers.record_backup(there, 1000)
    pass_time()
    region.calls.clear()
    region.faults["drop_backup"] = [RegionUnreachable("The store does not answer.")] * 99
    sweeper.tidy_stores()
    assert region.verbs() == ["drop_backup"], "the clock waits for a silent region once in a pass"
    backup.refresh_from_db()
    assert backup.state == BackupState.REMOVED
    assert [entry.state for entry in ledger(there)] == [LeftoverState.GONE]


@database
@pytest.mark.parametrize("error", [Permanent("The region has no backup store."), ValueError("of ours")])
def test_what_never_goes_holds_up_nothing_and_is_tried_ever_more_rarely(
    alice: Person, healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    many = sweeper.REMOVALS_AT_ONCE
    stuck = [make_backup(healthy, number=number, state=BackupState.REMOVING.value) for number in range(1, many + 1)]
    last = make_backup(healthy, number=many + 1, state=BackupState.REMOVING.value)
    went: list[int] = []

    def drop(ref: BackupRef) -> bool:
        if ref.number <= many:
            raise error
        went.append(ref.number)
        return True

    monkeypatch.setattr(region, "drop_backup", drop)
    for _ in range(2):
        sweeper.tidy_stores()
    assert went == [last.number]
    entries = ledger(healthy)
    assert [(entry.state, entry.attempts) for entry in entries] == [("removing", 1)] * len(stuck)
    assert all(entry.error_message for entry in entries)
    pass_time()
    sweeper.tidy_stores()
    assert {entry.attempts for entry in ledger(healthy)} == {2}


@database
def test_the_ledger_brings_a_removal_to_its_end(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = make_backup(healthy, number=5, state=BackupState.REMOVING.value)
    region.faults["drop_backup"] = [RegionUnreachable("The store does not answer.")]
    sweeper.tidy_stores()
    (entry,) = ledger(healthy)
    assert (entry.reference, entry.error_message) == ("5", "The store does not answer.")
    pass_time()
    sweeper.tidy_stores()
    backup.refresh_from_db()
    entry.refresh_from_db()
    assert (backup.state, entry.state) == (BackupState.REMOVED, LeftoverState.GONE)


@database
def test_a_large_backup_goes_bit_by_bit_and_soon(
    alice: Person, healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = make_backup(healthy, number=5, state=BackupState.REMOVING.value)
    monkeypatch.setattr(region, "drop_backup", lambda _ref: False)
    for _ in range(6):
        sweeper.tidy_stores()
        pass_time()
    (entry,) = ledger(healthy)
    assert entry.attempts == 0
    monkeypatch.undo()
    sweeper.tidy_stores()
    backup.refresh_from_db()
    assert backup.state == BackupState.REMOVED


# --- finds ------------------------------------------------------------------------------------------------------------


def in_store(cluster_id: UUID) -> Find:
    return Find(cluster_id, parts=(leftovers.IN_STORE,))


def test_the_local_inventory_uses_the_ledgers_words(tmp_path: Path) -> None:
    class Stored:
        def cluster_ids(self) -> set[UUID]:
            return {cluster_id}

    cluster_id, folder = uuid4(), RegionFolder(tmp_path)
    for needed in (folder.engines, folder.guards, folder.trash):
        needed.mkdir(parents=True)
    (find,) = take_inventory(folder, cast(Store, Stored()))
    assert find == in_store(cluster_id)


@database
def test_the_kept_backups_of_a_deleted_cluster_are_no_find(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    Cluster.objects.filter(pk=healthy.pk).update(delete_after=Now())
    turn_until_rest(healthy)
    region.strays.append(in_store(healthy.pk))
    sweeper.take_inventories()
    assert ledger(healthy) == []
    region.strays[:] = [replace(in_store(healthy.pk), parts=("The process 7, java.", leftovers.IN_STORE))]
    sweeper.take_inventories()
    (entry,) = ledger(healthy)
    assert entry.state == LeftoverState.FOUND, "backups do not explain a process"
    leftovers.remove(actor=OPERATOR, leftover_id=entry.pk)
    sweeper.tidy_stores()
    region.strays[:] = [in_store(healthy.pk)]
    sweeper.take_inventories()
    assert [entry.state for entry in ledger(healthy)] == [LeftoverState.GONE]
    backup.refresh_from_db()
    assert backup.state == BackupState.COMPLETED


@database
def test_what_a_copy_left_in_the_store_is_no_find_while_it_is_being_removed(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    copy = services.drill_backup(actor=alice.actor, backup_id=backed_up(alice, healthy).pk).cluster
    for _ in range(3):
        turn_until_rest(copy)
    assert fresh(copy).deleted_at is not None
    region.strays.append(in_store(copy.pk))
    sweeper.take_inventories()
    assert [entry.kind for entry in ledger(copy)] == [LeftoverKind.BACKUP]


@database
def test_backups_whose_numbers_nobody_knows_keep_a_removal_open_until_they_are_gone(
    region: PretendRegion, elsewhere: PretendRegion
) -> None:
    stray = Find(uuid4(), parts=("The folder", leftovers.IN_STORE))
    region.strays.append(stray)
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=stray.cluster_id)
    leftovers.remove(actor=OPERATOR, leftover_id=entry.pk)
    for _ in range(3):
        sweeper.tidy_stores()
        region.strays[:] = [in_store(stray.cluster_id)]
        sweeper.take_inventories()
        pass_time()
    entry = Leftover.objects.get(cluster_id=stray.cluster_id)
    assert entry.state == LeftoverState.REMOVING
    assert f"remove the folder {stray.cluster_id}/ from the store" in entry.error_message
    region.strays.clear()
    sweeper.take_inventories()
    sweeper.tidy_stores()
    entry.refresh_from_db()
    assert entry.state == LeftoverState.GONE


@database
def test_only_the_removal_itself_ends_a_removal(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    """The fence is what keeps a turn that overslept from starting it again."""
    stray = Find(uuid4(), parts=("The folder",))
    region.strays.append(stray)
    sweeper.take_inventories()
    leftovers.remove(actor=OPERATOR, leftover_id=Leftover.objects.get(cluster_id=stray.cluster_id).pk)
    region.strays.clear()
    sweeper.take_inventories()
    assert Leftover.objects.get(cluster_id=stray.cluster_id).state == LeftoverState.REMOVING
    sweeper.tidy_stores()
    assert region.epochs[stray.cluster_id] == sweeper.LAST_EPOCH


# --- adoption ---------------------------------------------------------------------------------------------------------


def lose_row(cluster: Cluster, *, with_backups: bool = True) -> None:
    """The row is gone, as from a database that was restored from an older copy."""
    audience = cluster.audience
    Cluster.objects.filter(pk=cluster.pk).update(data_source=None)
    Operation.objects.filter(cluster=cluster).delete()
    if with_backups:
        Backup.objects.filter(cluster=cluster).delete()
    cluster.delete()
    audience.delete()


def adopt(cluster_id: UUID) -> Cluster:
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=cluster_id, state=LeftoverState.FOUND)
    foreseen, _ = leftovers.adoption_of(entry)
    row = leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)
    assert foreseen is not None
    assert (foreseen.lifecycle, foreseen.data_source_id is None) == (row.lifecycle, row.data_source_id is None)
    return Cluster.objects.select_related("audience", "region", "plan_type", "release", "data_source").get(pk=row.pk)


@database
def test_the_card_restarts_nothing(healthy: Cluster) -> None:
    desired = selectors.desired_of(healthy, lifecycle=Lifecycle.RUNNING)
    assert desired.card["lifecycle"] == "running"
    assert replace(desired, card={}).digest == desired.digest


@database
def test_adopting_remembers_the_backup_that_the_data_began_with(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    copy = made(alice, ask(name="copy", channel="next", from_backup=backup.pk))
    wished = selectors.turn_subject(copy.pk).desired.data
    lose_row(fresh(copy))
    region.calls.clear()
    adopted = adopt(copy.pk)
    assert adopted.data_source_id == backup.pk
    turn(adopted, times=2)
    assert selectors.turn_subject(copy.pk).desired.data == wished
    assert (fresh(adopted).hold, region.calls) == ("", [])


@database
def test_adopting_makes_the_backups_row_again_when_it_was_lost_too(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    turn_until_rest(healthy)
    wished = selectors.turn_subject(healthy.pk).desired.data
    assert wished.source == BackupRef(healthy.pk, backup.number)
    lose_row(fresh(healthy))
    region.calls.clear()
    adopted = adopt(healthy.pk)
    turn(adopted, times=2)
    assert selectors.turn_subject(healthy.pk).desired.data == wished
    assert (fresh(adopted).hold, region.calls) == ("", [])
    again = Backup.objects.get(cluster=healthy.pk)
    assert (again.number, again.state, again.organization) == (backup.number, BackupState.FAILED, alice.organization)


@database
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "does not name the backup"),
        ("nonsense", "does not name the backup"),
        (f"{uuid4()}/7", "adopt that one first"),
        ("of another organization", "adopt that one first"),
    ],
)
def test_data_of_unknown_origin_is_not_adopted_and_goes_on(
    alice: Person,
    charlie: Person,
    healthy: Cluster,
    region: PretendRegion,
    elsewhere: PretendRegion,
    source: str,
    sentence: str,
) -> None:
    if source == "of another organization":
        source = f"{made(charlie, ask(name='theirs')).pk}/7"
    card = {**region.clusters[healthy.pk].card, "data_epoch": "3", "data_source": source}
    region.clusters[healthy.pk].card = card
    lose_row(fresh(healthy))
    sweeper.take_inventories()
    entry = Leftover.objects.get(cluster_id=healthy.pk)
    with pytest.raises(Conflict, match=sentence):
        leftovers.adopt(actor=OPERATOR, leftover_id=entry.pk)
    assert region.is_running(healthy.pk)
    assert not Cluster.objects.filter(pk=healthy.pk).exists()


@database
@pytest.mark.parametrize("lifecycle", ["suspended", "deleted"])
def test_what_was_at_rest_is_adopted_at_rest(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion, lifecycle: str
) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    region.clusters[healthy.pk].card = {**region.clusters[healthy.pk].card, "lifecycle": lifecycle}
    lose_row(fresh(healthy))
    region.calls.clear()
    adopted = adopt(healthy.pk)
    turn(adopted, times=3)
    row = fresh(adopted)
    assert (row.lifecycle, row.hold, region.calls) == (Lifecycle.SUSPENDED, "", [])


@database
def test_a_card_from_before_the_engine_was_stopped_starts_nothing(
    alice: Person, healthy: Cluster, region: PretendRegion, elsewhere: PretendRegion
) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    region.clusters[healthy.pk].card = {**region.clusters[healthy.pk].card, "lifecycle": "running"}
    lose_row(fresh(healthy))
    region.calls.clear()
    adopted = adopt(healthy.pk)
    turn(adopted, times=3)
    assert (fresh(adopted).hold, region.calls) == (Hold.SET_BACK, [])
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert fresh(adopted).hold == "", "wish and region agree"


# --- drills -----------------------------------------------------------------------------------------------------------


@database
def test_an_organization_has_one_drill_at_a_time(
    alice: Person, charlie: Person, healthy: Cluster, other: Cluster, region: PretendRegion
) -> None:
    first, second = make_backup(healthy), make_backup(other)
    theirs = make_backup(made(charlie, ask(name="theirs")))
    copy = services.drill_backup(actor=alice.actor, backup_id=first.pk).cluster
    refused = refusal(services.drill_backup, actor=alice.actor, backup_id=second.pk)
    assert refused.code == "change_under_way"
    assert "only one is at a time" in refused.message
    services.drill_backup(actor=charlie.actor, backup_id=theirs.pk)
    for _ in range(3):
        turn_until_rest(copy)
    services.drill_backup(actor=alice.actor, backup_id=second.pk)


@database
def test_a_scheduled_drill_waits_for_another_ones_end(
    alice: Person, healthy: Cluster, other: Cluster, region: PretendRegion
) -> None:
    backups = [make_backup(healthy), make_backup(other)]
    Cluster.objects.filter(pk__in=[healthy.pk, other.pk]).update(drill_every_days=7)
    Cluster.objects.filter(pk=healthy.pk).update(drill_due_at=Now() - timedelta(minutes=1))
    Cluster.objects.filter(pk=other.pk).update(drill_due_at=Now())
    assert schedules.start_due_drills() == 1
    assert schedules.start_due_drills() == 0
    waits_until = fresh(other).drill_due_at
    assert waits_until is not None
    assert waits_until > datetime.now(UTC)
    copy = Cluster.objects.get(drill_of=backups[0])
    for _ in range(3):
        turn_until_rest(copy)
    Cluster.objects.filter(pk=other.pk).update(drill_due_at=Now())
    assert schedules.start_due_drills() == 1
    assert Cluster.objects.filter(drill_of=backups[1]).count() == 1


def committed_backup(person: Person, name: str = "orders") -> Backup:
    request = ask(name=name, region="local")
    return make_backup(make_healthy(services.create_cluster(actor=person.actor, request=request).cluster))


@pytest.fixture
def bury(committed: Person) -> Iterator[None]:
    """Leave nobody a drill that looks open."""
    yield
    Cluster.objects.filter(organization=committed.organization).update(deleted_at=Now(), due_at=None)


@pytest.mark.usefixtures("bury")
def test_two_drills_at_once_are_one(committed: Person) -> None:
    proven = [committed_backup(committed, name) for name in ("a", "b")]
    results = race([lambda pk=one.pk: services.drill_backup(actor=committed.actor, backup_id=pk) for one in proven])  # type: ignore[misc]
    assert sorted(result.code if result else "" for result in results) == ["", "change_under_way"]
    copies = Cluster.objects.filter(organization=committed.organization, drill_of__isnull=False)
    assert copies.count() == 1


@pytest.mark.usefixtures("bury")
def test_giving_up_a_drill_does_not_undo_a_proof_of_that_moment(committed: Person) -> None:
    backup = committed_backup(committed)
    copy = services.drill_backup(actor=committed.actor, backup_id=backup.pk).cluster
    Cluster.objects.filter(pk=copy.pk).update(created_at=Now() - timedelta(hours=2))
    concluded = threading.Event()

    def conclude() -> None:
        with transaction.atomic():
            row = Cluster.objects.select_for_update(of=("self",), no_key=True).get(pk=copy.pk)
            drills.conclude(row, datetime.now(UTC))
            concluded.set()
            time.sleep(1.0)  # the other one has looked by now, and waits for what is not committed yet

    def give_up() -> None:
        assert concluded.wait(30)
        schedules.end_stale_drills()

    assert race([conclude, give_up]) == [None, None]
    backup.refresh_from_db()
    assert (backup.verified_at is not None, backup.error_message) == (True, "")


# --- schedules --------------------------------------------------------------------------------------------------------


@database
def test_a_kill_between_claim_and_wish_loses_no_backup(
    alice: Person, healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, backup_every_hours=24)
    due_at = fresh(healthy).backup_due_at

    def killed(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(schedules, "back_up_cluster", killed)
    with pytest.raises(KeyboardInterrupt):
        schedules.start_due_backups()
    assert fresh(healthy).backup_due_at == due_at
    monkeypatch.undo()
    assert schedules.start_due_backups() == 1
    assert Backup.objects.filter(cluster=healthy, state=BackupState.WANTED).count() == 1


@database
def test_a_refused_backup_has_its_turn_an_hour_later(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, backup_every_hours=24)
    Cluster.objects.filter(pk=healthy.pk).update(conditions=[])
    assert schedules.start_due_backups() == 0
    due_at = fresh(healthy).backup_due_at
    assert due_at is not None
    assert timedelta(minutes=50) < due_at - datetime.now(UTC) < timedelta(minutes=70)
    assert not Backup.objects.filter(cluster=healthy).exists()


# --- the watch --------------------------------------------------------------------------------------------------------


def test_the_watch_forgets_what_was_removed(tmp_path: Path) -> None:
    region, cluster_id = RegionFolder(tmp_path), uuid4()
    for needed in (region.engines, region.guards, region.trash, region.waiting, region.releases):
        needed.mkdir(parents=True)
    broker = region.cluster(cluster_id).broker(0)
    broker.path.mkdir()
    broker.restore.write_text(json.dumps({"phase": "Fetched.", "is_over": True}))
    waiting = region.waiting / str(cluster_id)
    waiting.write_text("sha")
    watch = Watch(region, lambda _: None)
    assert set(watch._round()) == {cluster_id}
    assert set(watch._progress) == {broker, cluster_id}
    shutil.rmtree(broker.path)
    waiting.unlink()
    watch._scan_at = 0.0
    assert set(watch._round()) == set()
    assert watch._progress == {}
