"""Resizing, upgrading, backing up, restoring: on real rows and a region in memory, every way on and every way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from common.errors import ControlPlaneError, NotFound, Temporary
from provisioning import reconciler, selectors, services, wakeups
from provisioning.errors import JavaMissing, NoCapacity, RegionUnreachable
from provisioning.models import Backup, Channel, Cluster, Leftover, Operation, Region, Release
from provisioning.services import leftovers, schedules
from provisioning.states import (
    BackupReason,
    BackupState,
    OperationKind,
    OperationState,
    Phase,
    StepKind,
    StepState,
)
from provisioning.verdicts import Verdict
from tenants.paging import Page
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.test_reconciler import latest, make_due, turn_until_rest

pytestmark = pytest.mark.django_db
PAGE = Page(limit=50)


@pytest.fixture
def three(alice: Person, region: PretendRegion) -> Cluster:
    """A healthy cluster of three brokers on 8.5.8, on a channel that goes on to 8.6.0."""
    return made(alice, ask(name="three", plan_type="resilient", channel="next", release="8.5.8"))


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    """A healthy cluster of one broker on 8.5.8."""
    return made(alice, ask(channel="next", release="8.5.8"))


def made(person: Person, request: Any) -> Cluster:
    cluster = services.create_cluster(actor=person.actor, request=request).cluster
    turn_until_rest(cluster)
    cluster.refresh_from_db()
    assert cluster.was_healthy
    return cluster


def backed_up(person: Person, cluster: Cluster) -> Backup:
    services.back_up_cluster(actor=person.actor, cluster_id=cluster.pk)
    turn_until_rest(cluster)
    return Backup.objects.filter(cluster=cluster, state=BackupState.COMPLETED).latest("number")


def refusal(change: Callable[..., Any], **arguments: Any) -> ControlPlaneError:
    with pytest.raises(ControlPlaneError) as caught:
        change(**arguments)
    return caught.value


def fresh(cluster: Cluster) -> Cluster:
    return Cluster.objects.get(pk=cluster.pk)


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_broker_more_is_started_joined_and_counted(alice: Person, three: Cluster, region: PretendRegion) -> None:
    region.calls.clear()
    services.resize_cluster(actor=alice.actor, cluster_id=three.pk, plan_type="resilient-4")
    turn_until_rest(three)
    assert region.verbs() == ["start", "rescale", "rebalance"]
    assert region.clusters[three.pk].members == (0, 1, 2, 3)
    operation = latest(three, alice)
    assert operation.state is OperationState.SUCCEEDED
    assert {step.state for step in operation.steps} == {StepState.DONE}


def test_a_broker_less_is_let_go_first_and_then_removed(alice: Person, three: Cluster, region: PretendRegion) -> None:
    services.resize_cluster(actor=alice.actor, cluster_id=three.pk, plan_type="resilient-4")
    turn_until_rest(three)
    region.calls.clear()
    services.resize_cluster(actor=alice.actor, cluster_id=three.pk, plan_type="resilient")
    turn_until_rest(three)
    assert region.verbs() == ["rescale", "retire"]
    assert sorted(region.clusters[three.pk].brokers) == [0, 1, 2]


@pytest.mark.parametrize(
    ("verb", "change", "wish"),
    [
        ("delete", services.request_deletion, {"purge": True}),
        ("retire", services.resize_cluster, {"plan_type": "resilient"}),
        ("let_go", services.upgrade_cluster, {"release": "8.6.0", "without_backup": True}),
    ],
)
def test_what_goes_bit_by_bit_is_not_stuck_for_being_asked_for_again(
    alice: Person,
    region: PretendRegion,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    change: Callable[..., Operation],
    wish: dict[str, Any],
) -> None:
    cluster = made(
        alice, ask(plan_type="resilient-4" if verb == "retire" else "small", channel="next", release="8.5.8")
    )
    monkeypatch.setattr(region, verb, lambda *_, **__: False)
    change(actor=alice.actor, cluster_id=cluster.pk, **wish)
    turn_until_rest(cluster)
    operation = latest(cluster, alice)
    assert next(step for step in operation.steps if step.state is StepState.RUNNING).attempts > 3
    assert operation.verdict is Verdict.PROGRESSING


@pytest.mark.parametrize(
    ("is_watched", "seconds"),
    [(False, reconciler.REMOVE_AGAIN_SECONDS), (True, reconciler.REMOVE_WATCHED_AGAIN_SECONDS)],
)
def test_a_removal_that_takes_its_time_is_not_hurried(
    alice: Person,
    healthy: Cluster,
    region: PretendRegion,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_watched: bool,
    seconds: float,
) -> None:
    monkeypatch.setattr(region, "delete", lambda *_, **__: False)
    monkeypatch.setattr(wakeups, "is_watched", lambda slug: is_watched and slug == healthy.region_id)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    for _ in range(2):
        make_due(healthy)
        assert not reconciler.turn(healthy.pk)
        assert latest(healthy, alice).waits_for == "What there is of the cluster is being removed."
        row = fresh(healthy)
        assert row.due_at is not None
        assert row.seen_at is not None
        waits = (row.due_at - row.seen_at).total_seconds()
        assert seconds <= waits < seconds + 20


def test_other_partitions_are_refused_with_a_sentence(alice: Person, three: Cluster, healthy: Cluster) -> None:
    refused = refusal(services.resize_cluster, actor=alice.actor, cluster_id=healthy.pk, plan_type="medium")
    assert refused.code == "path_blocked"
    assert "1 broker with 3 partitions" in refused.message
    assert "fixes the number of partitions" in refused.message
    refused = refusal(services.resize_cluster, actor=alice.actor, cluster_id=three.pk, plan_type="small")
    assert "3 brokers with 3 partitions, 3 copies of each" in refused.message
    assert fresh(three).plan_type_id == "resilient"


def test_a_resize_that_finds_no_room_can_be_called_off(alice: Person, three: Cluster, region: PretendRegion) -> None:
    region.faults["start"] = [NoCapacity("Memory is short.")] * 9
    operation = services.resize_cluster(actor=alice.actor, cluster_id=three.pk, plan_type="resilient-4")
    make_due(three)
    reconciler.turn(three.pk)
    assert selectors.operation(alice.actor, operation.pk).can_cancel
    services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    region.faults.clear()
    turn_until_rest(three)
    assert fresh(three).plan_type_id == "resilient"
    assert selectors.cluster(alice.actor, three.pk).phase is Phase.HEALTHY


# --- brokers one by one -----------------------------------------------------------------------------------------------


def test_revoking_access_replaces_three_brokers_one_by_one(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    region.calls.clear()
    operation = services.revoke_access(actor=alice.actor, cluster_id=three.pk)
    for _ in range(20):
        make_due(three)
        reconciler.turn(three.pk)
        brokers = region.clusters[three.pk].brokers.values()
        assert sum(broker.running for broker in brokers) >= 2
        assert selectors.cluster(alice.actor, three.pk).is_available
    assert region.verbs() == ["stop", "start"] * 3 + ["rebalance"]
    operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED


def test_a_dead_broker_of_three_is_started_again_alone(alice: Person, three: Cluster, region: PretendRegion) -> None:
    region.calls.clear()
    region.kill(three.pk, node=1)
    make_due(three)
    reconciler.turn(three.pk)
    assert region.verbs() == ["start"]
    assert selectors.cluster(alice.actor, three.pk).is_available


# --- upgrade ----------------------------------------------------------------------------------------------------------


def test_an_upgrade_takes_a_backup_first(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.calls.clear()
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    kinds = [StepKind(step.kind) for step in operation.steps.all()]
    assert kinds[0] is StepKind.TAKE_BACKUP
    turn_until_rest(healthy)
    assert region.verbs() == ["back_up", "stop", "start", "let_go"]
    assert region.clusters[healthy.pk].brokers[0].release == "8.6.0"
    row = fresh(healthy)
    assert (row.release_id, row.former_release_id, row.is_on_trial) == ("8.6.0", None, False)
    backup = Backup.objects.get(cluster=healthy)
    assert (backup.state, backup.reason, backup.release_id) == ("completed", "before_upgrade", "8.5.8")
    assert latest(healthy, alice).state is OperationState.SUCCEEDED


def test_the_former_release_serves_until_the_backup_is_complete(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.slow = True
    services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    for _ in range(3):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    region.kill(healthy.pk)
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert region.clusters[healthy.pk].brokers[0].release == "8.5.8", "it was upgraded before its backup was complete"


@pytest.mark.parametrize("cluster_fixture", ["healthy", "three"])
def test_an_engine_that_does_not_run_on_the_new_release_goes_back(
    alice: Person, region: PretendRegion, cluster_fixture: str, request: pytest.FixtureRequest
) -> None:
    cluster: Cluster = request.getfixturevalue(cluster_fixture)
    region.crashing_release = "8.6.0"
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=cluster.pk, release="8.6.0")
    for _ in range(40):
        make_due(cluster)
        reconciler.turn(cluster.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "upgrade_failed")
    assert "goes back to 8.5.8" in operation.error_message
    row = fresh(cluster)
    assert (row.release_id, row.former_release_id, row.is_on_trial) == ("8.5.8", None, False)
    assert selectors.cluster(alice.actor, cluster.pk).phase is Phase.HEALTHY
    brokers = region.clusters[cluster.pk].brokers.values()
    assert {broker.release for broker in brokers} == {"8.5.8"}
    assert not any(broker.former for broker in brokers)


def test_an_upgrade_that_fails_half_way_stays_where_it_is_and_serves(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=three.pk, release="8.6.0")
    while region.clusters[three.pk].brokers[2].release != "8.6.0":
        make_due(three)
        reconciler.turn(three.pk)
    make_due(three)
    reconciler.turn(three.pk)
    region.crashing_release = "8.6.0"
    for _ in range(12):
        make_due(three)
        reconciler.turn(three.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "upgrade_failed")
    assert "no way back but the backup" in operation.error_message
    view = selectors.cluster(alice.actor, three.pk)
    assert view.is_available
    assert view.row.former_release_id == "8.5.8"
    assert not selectors.operation(alice.actor, operation.pk).can_cancel
    region.crashing_release = ""
    services.retry_operation(actor=alice.actor, operation_id=operation.pk)
    turn_until_rest(three)
    operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED
    assert {broker.release for broker in region.clusters[three.pk].brokers.values()} == {"8.6.0"}
    assert fresh(three).former_release_id is None


def test_a_backup_that_fails_ends_the_upgrade_before_it_began(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.calls.clear()
    region.failing.add("backup")
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    for _ in range(5):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "backup_failed")
    assert fresh(healthy).release_id == "8.5.8"
    assert region.verbs() == ["back_up"]
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
    assert Leftover.objects.filter(cluster_id=healthy.pk, kind="backup").count() == 1


def test_an_upgrade_goes_back_in_time_also_when_nobody_recorded_its_start(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    """As when its worker died just then, and the region keeps the engine's process up without its ever being well."""
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0", without_backup=True)
    region.after["start"] = [Temporary("The answer was lost.")]
    while region.after["start"]:
        region.slow = not region.clusters[healthy.pk].brokers[0].running
        make_due(healthy)
        reconciler.turn(healthy.pk)
    assert fresh(healthy).trial_ends_at is None
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert fresh(healthy).trial_ends_at is not None
    Cluster.objects.filter(pk=healthy.pk).update(trial_ends_at=Now() - timedelta(seconds=1))
    make_due(healthy)
    reconciler.turn(healthy.pk)
    region.slow = False
    turn_until_rest(healthy)
    operation.refresh_from_db()
    assert operation.error_code == "upgrade_failed"
    assert region.clusters[healthy.pk].brokers[0].release == "8.5.8"


def test_an_upgrade_that_is_not_well_in_time_goes_back(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    for _ in range(3):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    region.slow = True
    for _ in range(3):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    assert fresh(healthy).trial_ends_at is not None
    Cluster.objects.filter(pk=healthy.pk).update(trial_ends_at=Now() - timedelta(seconds=1))
    region.clusters[healthy.pk].brokers[0].healthy = False
    Region.objects.filter(pk="pretend").update(silent_since=Now())
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert fresh(healthy).release_id == "8.6.0", "the time of a silence is given back first"
    Region.objects.filter(pk="pretend").update(silent_since=None)
    make_due(healthy)
    reconciler.turn(healthy.pk)
    region.slow = False
    region.finish()
    turn_until_rest(healthy)
    operation.refresh_from_db()
    assert operation.error_code == "upgrade_failed"
    assert region.clusters[healthy.pk].brokers[0].release == "8.5.8"


def test_an_upgrade_can_be_called_off_until_it_is_well(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.slow = True
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    make_due(healthy)
    reconciler.turn(healthy.pk)
    services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    region.slow = False
    region.finish()
    turn_until_rest(healthy)
    row = fresh(healthy)
    assert (row.release_id, row.former_release_id, row.is_on_trial) == ("8.5.8", None, False)
    assert region.clusters[healthy.pk].brokers[0].release == "8.5.8"
    assert Backup.objects.get(cluster=healthy).state == BackupState.FAILED


def test_a_java_that_is_missing_for_the_new_release_leaves_the_former_one(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.faults["stop"] = [JavaMissing("There is no Java.")]
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    turn_until_rest(healthy)
    operation.refresh_from_db()
    assert operation.error_code == "java_missing"
    assert fresh(healthy).release_id == "8.5.8"
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


@pytest.mark.parametrize(
    ("release", "code", "words"),
    [
        ("8.5.8", "", ""),
        ("9.9.9", "invalid_spec", "no release “9.9.9” on the channel"),
        ("8.4.0", "path_blocked", "can only follow"),
    ],
)
def test_blocked_paths_are_refused(alice: Person, healthy: Cluster, release: str, code: str, words: str) -> None:
    older = Release.objects.get(pk="8.5.8")
    older.pk, older.upgrades_from = "8.4.0", []
    older.save(force_insert=True)
    Channel.objects.get(pk="next").releases.add(older)
    if not code:
        before = Operation.objects.filter(cluster=healthy).count()
        services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release=release)
        assert Operation.objects.filter(cluster=healthy).count() == before
        return
    refused = refusal(services.upgrade_cluster, actor=alice.actor, cluster_id=healthy.pk, release=release)
    assert refused.code == code
    assert words in refused.message


def test_a_release_never_goes_back(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    turn_until_rest(healthy)
    refused = refusal(services.upgrade_cluster, actor=alice.actor, cluster_id=healthy.pk, release="8.5.8")
    assert "never goes back" in refused.message


def test_a_licence_that_does_not_cover_the_stage_refuses_the_upgrade(alice: Person, healthy: Cluster) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, stage="prod")
    refused = refusal(services.upgrade_cluster, actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    assert refused.code == "licence_refuses"


def test_nothing_else_is_accepted_while_an_upgrade_is_under_way(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    for change in (services.suspend_cluster, services.revoke_access, services.back_up_cluster):
        assert refusal(change, actor=alice.actor, cluster_id=healthy.pk).code == "change_under_way"
    resize = refusal(services.resize_cluster, actor=alice.actor, cluster_id=healthy.pk, plan_type="small")
    assert resize.code == "change_under_way"
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, name="renamed")
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    turn_until_rest(healthy)
    assert fresh(healthy).deleted_at is not None


def test_an_engine_that_is_not_healthy_is_neither_backed_up_nor_upgraded(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    named = {"actor": alice.actor, "cluster_id": healthy.pk}
    assert refusal(services.back_up_cluster, **named).code == "not_available"
    assert refusal(services.upgrade_cluster, **named, release="8.6.0").code == "not_available"


# --- backups ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_an_operation_of_one_step(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    assert (backup.brokers, backup.partitions, backup.release_id) == (1, 1, "8.5.8")
    assert backup.finished_at is not None
    operation = latest(healthy, alice)
    assert (operation.kind, operation.state) == (OperationKind.BACK_UP, OperationState.SUCCEEDED)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_a_failed_backup_can_be_tried_again_under_a_new_number(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.failing.add("backup")
    operation = services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    for _ in range(3):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    view = selectors.operation(alice.actor, operation.pk)
    assert (view.state, view.error_code, view.can_retry) == (OperationState.FAILED, "backup_failed", True)
    region.failing.clear()
    services.retry_operation(actor=alice.actor, operation_id=operation.pk)
    turn_until_rest(healthy)
    first, second = Backup.objects.filter(cluster=healthy).order_by("number")
    assert (first.state, second.state) == (BackupState.FAILED, BackupState.COMPLETED)
    assert second.number > first.number


def test_a_backup_that_is_called_off_is_cleared_away_later(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.slow = True
    operation = services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    make_due(healthy)
    reconciler.turn(healthy.pk)
    ended = services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    assert (ended.pk, ended.state) == (operation.pk, OperationState.CANCELLED)
    entry = Leftover.objects.get(cluster_id=healthy.pk)
    assert entry.reference == str(Backup.objects.get(cluster=healthy).number)
    assert leftovers.claim_due(5, ttl=timedelta(minutes=1)) == [], "the engine may still be writing it"


def test_of_scheduled_backups_the_newest_are_kept(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    asked = backed_up(alice, healthy)
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, backup_every_hours=1, backups_kept=2)
    rows = Backup.objects.filter(cluster=healthy, reason=BackupReason.SCHEDULED).order_by("number")
    for number in range(4):
        Cluster.objects.filter(pk=healthy.pk).update(backup_due_at=Now())
        assert schedules.start_due_backups() == 1
        assert schedules.start_due_backups() == 0, "a period ran twice"
        turn_until_rest(healthy)
        if number == 1:
            rows.filter(pk=rows.latest("number").pk).update(verified_at=Now())
    states = [row.state for row in rows]
    assert states == ["removing", "completed", "completed", "completed"], "the one that was proven stays as well"
    asked.refresh_from_db()
    assert asked.state == BackupState.COMPLETED


def test_a_worker_whose_clock_is_off_by_an_hour_does_all_in_its_order(
    alice: Person, healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, numbers = time.time, []
    for hours in (1, -1, 0):
        monkeypatch.setattr(time, "time", lambda hours=hours: right() + 3600 * hours)
        monkeypatch.setattr(timezone, "now", lambda hours=hours: datetime.now(UTC) + timedelta(hours=hours))
        numbers.append(backed_up(alice, healthy).number)
        services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
        turn_until_rest(healthy)
        services.resume_cluster(actor=alice.actor, cluster_id=healthy.pk)
        turn_until_rest(healthy)
        assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
    assert numbers == sorted(set(numbers)), "the engine refuses a number that does not rise"
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    row = fresh(healthy)
    assert row.delete_after is not None
    assert (row.delete_after - operation.created_at).total_seconds() == pytest.approx(
        settings.UNDO_WINDOW_SECONDS, abs=5
    )


@pytest.mark.parametrize(
    ("field", "value"), [("backup_every_hours", 1000), ("backups_kept", 0), ("drill_every_days", 999)]
)
def test_a_schedule_has_bounds(alice: Person, healthy: Cluster, field: str, value: int) -> None:
    refused = refusal(services.update_cluster, actor=alice.actor, cluster_id=healthy.pk, **{field: value})
    assert refused.code == "invalid_spec"
    assert refused.details["field"] == field


def test_a_cluster_that_is_busy_is_backed_up_later(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, backup_every_hours=1)
    services.revoke_access(actor=alice.actor, cluster_id=healthy.pk)
    assert schedules.start_due_backups() == 0
    turn_until_rest(healthy)
    assert schedules.start_due_backups() == 1


# --- restore ----------------------------------------------------------------------------------------------------------


def test_a_restore_puts_the_backup_in_place_of_what_is_there(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, three)
    region.calls.clear()
    services.restore_backup(actor=alice.actor, cluster_id=three.pk, backup_id=backup.pk)
    turn_until_rest(three)
    assert region.verbs()[:4] == ["restore", "stop", "start", "rebalance"]
    row = fresh(three)
    assert row.data_source_id == backup.pk
    assert {broker.data_epoch for broker in region.clusters[three.pk].brokers.values()} == {row.data_epoch}
    assert not row.is_on_trial
    assert latest(three, alice).state is OperationState.SUCCEEDED


def test_a_restore_that_fails_has_harmed_nothing(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    region.failing.add("restore")
    region.calls.clear()
    operation = services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    for _ in range(5):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "restore_failed")
    assert operation.error_message == "The backup cannot be read."
    assert region.verbs() == ["restore"]
    row = fresh(healthy)
    assert (row.data_epoch, row.data_source_id, row.is_on_trial) == (0, None, False)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_restored_data_on_which_the_engine_does_not_run_is_taken_back(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    operation = services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    for _ in range(3):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    region.crash_on_start = True
    region.clusters[healthy.pk].brokers[0].running = False
    for _ in range(12):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    operation.refresh_from_db()
    assert operation.error_code == "restore_failed"
    region.crash_on_start = False
    turn_until_rest(healthy)
    assert region.clusters[healthy.pk].brokers[0].data_epoch == 0
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_a_copy_starts_on_another_clusters_backup(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    region.calls.clear()
    copy = made(alice, ask(name="copy", channel="next", from_backup=backup.pk))
    assert region.verbs() == ["restore", "start"]
    assert (copy.data_epoch, copy.data_source_id, copy.release_id) == (1, backup.pk, "8.5.8")
    entry = Leftover.objects.get(cluster_id=copy.pk)
    assert (entry.kind, entry.reference) == ("backup", str(backup.number)), "the copied log takes that backup again"


def test_a_copy_may_rehearse_the_next_release(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    copy = made(alice, ask(name="copy", channel="next", release="8.6.0", from_backup=backup.pk))
    assert copy.release_id == "8.6.0"


def test_a_backup_fits_its_own_layout_only(alice: Person, healthy: Cluster, three: Cluster) -> None:
    backup = backed_up(alice, healthy)
    named = {"actor": alice.actor, "cluster_id": three.pk, "backup_id": backup.pk}
    refused = refusal(services.restore_backup, **named)
    assert refused.code == "backup_not_usable"
    assert "was taken of 1 partition, and the size “resilient” has 3 partitions" in refused.message


def test_a_copy_may_have_more_brokers_and_copies(alice: Person, region: PretendRegion) -> None:
    backup = backed_up(alice, made(alice, ask(plan_type="medium")))
    copy = made(alice, ask(name="copy", plan_type="resilient", from_backup=backup.pk))
    assert sorted(region.clusters[copy.pk].brokers) == [0, 1, 2]


def test_another_organizations_backup_is_not_there(
    alice: Person, charlie: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    other = made(charlie, ask(name="other", channel="next", release="8.5.8"))
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (services.restore_backup, {"cluster_id": other.pk, "backup_id": backup.pk}),
        (services.create_cluster, {"request": ask(name="theft", channel="next", from_backup=backup.pk)}),
        (services.drill_backup, {"backup_id": backup.pk}),
        (services.delete_backup, {"backup_id": backup.pk}),
        (services.restore_backup, {"cluster_id": other.pk, "backup_id": uuid4()}),
    ]
    for change, arguments in calls:
        with pytest.raises(NotFound):
            change(actor=charlie.actor, **arguments)


# --- drills -----------------------------------------------------------------------------------------------------------


def test_a_drill_proves_a_backup_and_leaves_nothing(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    operation = services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    copy = operation.cluster
    assert copy.pk not in [view.row.pk for view in selectors.clusters_of(alice.actor, PAGE).items]
    for _ in range(3):
        turn_until_rest(copy)
    backup.refresh_from_db()
    assert backup.verified_at is not None
    assert backup.recovery_seconds is not None
    assert backup.recovery_seconds > 0
    assert backup.loss_seconds is not None
    assert fresh(copy).deleted_at is not None
    assert copy.pk not in region.clusters
    assert backup.state == BackupState.COMPLETED


def test_a_drill_that_fails_says_so_at_the_backup(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backup = backed_up(alice, healthy)
    region.failing.add("restore")
    copy = services.drill_backup(actor=alice.actor, backup_id=backup.pk).cluster
    for _ in range(3):
        turn_until_rest(copy)
    backup.refresh_from_db()
    assert backup.verified_at is None
    assert "The last drill failed. The backup cannot be read." in backup.error_message
    assert fresh(copy).deleted_at is not None


def test_a_drill_takes_no_place_of_the_plans(alice: Person, healthy: Cluster, three: Cluster) -> None:
    backup = backed_up(alice, healthy)
    services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    refused = refusal(services.drill_backup, actor=alice.actor, backup_id=backup.pk)
    assert refused.code == "change_under_way"
    assert refusal(services.create_cluster, actor=alice.actor, request=ask(name="third")).code == "entitlement_exceeded"


def test_drills_come_round_on_the_newest_backup(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    backed_up(alice, healthy)
    newest = backed_up(alice, healthy)
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, drill_every_days=1)
    assert schedules.start_due_drills() == 0
    Cluster.objects.filter(pk=healthy.pk).update(drill_due_at=Now())
    assert schedules.start_due_drills() == 1
    assert schedules.start_due_drills() == 0
    copy = Cluster.objects.get(drill_of=newest)
    Cluster.objects.filter(pk=copy.pk).update(created_at=Now() - timedelta(hours=2))
    assert schedules.end_stale_drills() == 1
    newest.refresh_from_db()
    assert "not healthy within an hour" in newest.error_message


# --- removal ----------------------------------------------------------------------------------------------------------


def test_backups_outlive_their_cluster_unless_it_is_purged(
    alice: Person, healthy: Cluster, three: Cluster, region: PretendRegion
) -> None:
    kept, purged = backed_up(alice, healthy), backed_up(alice, three)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    Cluster.objects.filter(pk=healthy.pk).update(delete_after=Now())
    services.request_deletion(actor=alice.actor, cluster_id=three.pk, purge=True)
    for cluster in (healthy, three):
        turn_until_rest(cluster)
        assert fresh(cluster).deleted_at is not None
    kept.refresh_from_db()
    purged.refresh_from_db()
    assert (kept.state, purged.state) == (BackupState.COMPLETED, BackupState.REMOVING)
    names = [f"Backup {one.number} of {one.created_at:%Y-%m-%d %H:%M} UTC" for one in (kept, purged)]
    assert receipt_of(healthy) == {"removed": ["Broker 0"], "kept": [names[0]]}
    assert receipt_of(three) == {"removed": ["Broker 0", "Broker 1", "Broker 2", names[1]], "kept": []}


def receipt_of(cluster: Cluster) -> object:
    return cluster.operations.get(kind=OperationKind.DELETE).receipt


def test_the_receipt_is_written_before_anything_goes_and_once(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=three.pk, purge=True)
    region.after["delete"] = [RegionUnreachable("The region does not answer.")]
    make_due(three)
    reconciler.turn(three.pk)
    assert three.pk not in region.clusters, "the removal went through, and its turn does not know"
    assert fresh(three).deleted_at is None
    whole = {"removed": ["Broker 0", "Broker 1", "Broker 2"], "kept": []}
    assert receipt_of(three) == whole
    turn_until_rest(three)
    assert fresh(three).deleted_at is not None
    assert receipt_of(three) == whole


def test_nothing_is_removed_before_it_is_written_down(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    region.faults["belongings"] = [RegionUnreachable("The region does not answer.")]
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert healthy.pk in region.clusters
    turn_until_rest(healthy)
    assert healthy.pk not in region.clusters
    assert receipt_of(healthy) == {"removed": ["Broker 0"], "kept": []}
