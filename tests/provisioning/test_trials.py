"""While a new release or restored data is on trial: the way back stays known, and healing goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from common.errors import Temporary
from provisioning import planner, reconciler, selectors, services
from provisioning.models import Backup, Cluster, Operation
from provisioning.services import installation, schedules
from provisioning.spec import ReleaseState
from provisioning.states import BackupState, Hold, OperationState, Phase, StepKind
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.test_changes import backed_up, fresh, made, refusal
from tests.provisioning.test_ledger import OPERATOR, turn
from tests.provisioning.test_reconciler import turn_until_rest

pytestmark = pytest.mark.django_db


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    return made(alice, ask(channel="next", release="8.5.8"))


@pytest.fixture
def three(alice: Person, region: PretendRegion) -> Cluster:
    return made(alice, ask(name="three", plan_type="resilient", channel="next", release="8.5.8"))


def code_of(change: Callable[..., Any], **arguments: Any) -> str:
    return refusal(change, **arguments).code


def restoring(person: Person, cluster: Cluster, region: PretendRegion) -> Operation:
    """A restore that is still fetching."""
    backup = backed_up(person, cluster)
    region.slow = True
    operation = services.restore_backup(actor=person.actor, cluster_id=cluster.pk, backup_id=backup.pk)
    turn(cluster, 2)
    return operation


def test_nothing_else_is_changed_while_a_restore_is_on_trial(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = restoring(alice, healthy, region)
    backup = Backup.objects.get(cluster=healthy)
    named: dict[str, Any] = {"actor": alice.actor, "cluster_id": healthy.pk}
    for change in (services.suspend_cluster, services.resume_cluster, services.revoke_access, services.back_up_cluster):
        assert code_of(change, **named) == "change_under_way"
    assert code_of(services.resize_cluster, **named, plan_type="small-plus") == "change_under_way"
    assert code_of(services.upgrade_cluster, **named, release="8.6.0") == "change_under_way"
    assert code_of(services.restore_backup, **named, backup_id=backup.pk) == "change_under_way"
    services.update_cluster(**named, name="renamed")
    services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    region.slow = False
    region.finish()
    turn_until_rest(healthy)
    assert (fresh(healthy).data_epoch, fresh(healthy).is_on_trial) == (0, False)


def test_a_second_restore_from_the_same_backup_goes_back_to_the_first(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    turn_until_rest(healthy)
    first = fresh(healthy)
    region.failing.add("restore")
    again = services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    turn(healthy, 5)
    again.refresh_from_db()
    assert (again.state, again.error_code) == (OperationState.FAILED, "restore_failed")
    row = fresh(healthy)
    assert (row.data_epoch, row.data_source_id) == (first.data_epoch, backup.pk)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_a_deletion_takes_the_trial_back_and_undoing_it_finds_what_was_before(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.slow = True
    services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    turn(healthy, 2)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    row = fresh(healthy)
    assert (row.release_id, row.former_release_id, row.is_on_trial) == ("8.5.8", None, False)
    region.slow = False
    region.finish()
    turn(healthy, 4)
    services.restore_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert region.clusters[healthy.pk].brokers[0].release == "8.5.8"
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


@pytest.mark.parametrize("kind", ["restore", "upgrade"])
def test_there_is_no_way_back_once_what_was_kept_for_it_may_be_gone(
    alice: Person, healthy: Cluster, region: PretendRegion, kind: str
) -> None:
    backup = backed_up(alice, healthy)
    # The region lets go, and its answer is lost.
    region.after["let_go"] = [Temporary("The answer was lost.")]
    if kind == "restore":
        services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    else:
        services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    while region.after["let_go"]:
        turn(healthy)
    operation = Operation.objects.filter(cluster=healthy).latest("created_at")
    assert operation.state == OperationState.RUNNING
    assert code_of(services.cancel_operation, actor=alice.actor, operation_id=operation.pk) == "not_cancellable"
    turn_until_rest(healthy)
    operation.refresh_from_db()
    row = fresh(healthy)
    assert operation.state == OperationState.SUCCEEDED
    assert (row.former_release_id, row.is_on_trial) == (None, False)


def test_a_backup_that_fails_does_not_end_the_healing(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.failing.add("backup")
    operation = services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn(healthy, 3)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "backup_failed")
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
    assert fresh(healthy).due_at is not None
    region.clusters[healthy.pk].brokers[0].running = False
    turn_until_rest(healthy)
    assert region.is_running(healthy.pk)


def half_upgraded(person: Person, three: Cluster, region: PretendRegion) -> Operation:
    """One broker of three is on the new release and does not get well there: no way back, and no way on."""
    operation = services.upgrade_cluster(actor=person.actor, cluster_id=three.pk, release="8.6.0")
    while region.clusters[three.pk].brokers[2].release != "8.6.0":
        turn(three)
    turn(three)
    region.crashing_release = "8.6.0"
    turn(three, 12)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "upgrade_failed")
    return operation


def test_a_failed_upgrade_still_has_its_ended_brokers_started_again(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    half_upgraded(alice, three, region)
    region.crashing_release = ""
    brokers = region.clusters[three.pk].brokers
    for broker in brokers.values():
        broker.running = broker.running and broker is not brokers[1]
    Cluster.objects.filter(pk=three.pk).update(start_after=None)
    turn(three, 2)
    assert brokers[1].running
    view = selectors.cluster(alice.actor, three.pk)
    assert any(fact.type == "Stalled" and fact.status == "True" for fact in view.conditions), "the change was resumed"


def test_what_lies_around_an_engine_that_is_not_well_is_put_right_after_a_failure_too(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    """Who may reach it, above all; no broker is touched for that."""
    half_upgraded(alice, three, region)
    known = region.clusters[three.pk]
    for broker in known.brokers.values():
        broker.healthy = False
    known.entrance, starts = False, known.starts
    turn(three)
    assert (known.entrance, known.starts) == (True, starts)


def test_an_entrance_that_is_opened_again_is_no_start_of_the_engine(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    region.slow = True
    services.upgrade_cluster(actor=alice.actor, cluster_id=three.pk, release="8.6.0", without_backup=True)
    region.release = ReleaseState.PREPARING
    region.clusters[three.pk].entrance = False
    turn(three, 2)
    row = fresh(three)
    assert region.clusters[three.pk].entrance
    assert (row.start_attempts, row.start_after, row.trial_ends_at) == (0, None, None)


def test_a_failed_upgrade_can_be_retried_with_a_new_limit_or_left_by_a_restore(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    operation = half_upgraded(alice, three, region)
    assert code_of(services.suspend_cluster, actor=alice.actor, cluster_id=three.pk) == "change_under_way"
    services.retry_operation(actor=alice.actor, operation_id=operation.pk)
    assert fresh(three).trial_ends_at is not None
    turn(three, 12)
    region.crashing_release = ""
    backup = Backup.objects.get(cluster=three, state=BackupState.COMPLETED)
    services.restore_backup(actor=alice.actor, cluster_id=three.pk, backup_id=backup.pk)
    turn_until_rest(three)
    row = fresh(three)
    assert (row.release_id, row.former_release_id, row.is_on_trial) == ("8.6.0", None, False)
    assert {one.data_epoch for one in region.clusters[three.pk].brokers.values()} == {row.data_epoch}


def test_a_rolling_upgrade_that_waits_for_a_sick_broker_can_be_called_off(
    alice: Person, three: Cluster, region: PretendRegion
) -> None:
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=three.pk, release="8.6.0", without_backup=True)
    for broker in region.clusters[three.pk].brokers.values():
        broker.healthy = False
    region.slow = True
    turn(three, 3)
    step = operation.steps.get(kind=StepKind.ROLL_BROKERS)
    assert (step.state, step.attempts) == ("running", 0)
    services.cancel_operation(actor=alice.actor, operation_id=operation.pk)
    assert fresh(three).release_id == "8.5.8"


def test_a_parked_upgrade_is_retried_with_its_backup(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.slow = True
    operation = services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    past = Now() - timedelta(seconds=1)
    Cluster.objects.filter(pk=healthy.pk).update(deaths=9, due_at=past, lease_expires_at=past)
    reconciler.turn(healthy.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "worker_keeps_dying")
    region.slow = False
    services.retry_operation(actor=alice.actor, operation_id=operation.pk)
    turn_until_rest(healthy)
    assert Backup.objects.filter(cluster=healthy, state=BackupState.COMPLETED).count() == 1
    assert region.clusters[healthy.pk].brokers[0].release == "8.6.0"


# --- force and the breaker --------------------------------------------------------------------------------------------


def test_force_waits_for_the_undo_window_and_for_the_operator(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    region.faults["stop"] = [Temporary("It does not answer.") for _ in range(9)]
    turn(healthy)
    assert code_of(services.force_operation, actor=alice.actor, operation_id=operation.pk) == "not_forceable"
    operation.steps.update(state="done")
    assert selectors.operation(alice.actor, operation.pk).can_force
    Cluster.objects.filter(pk=healthy.pk).update(hold=Hold.SET_BACK)
    assert not selectors.operation(alice.actor, operation.pk).can_force


def test_an_operators_word_explains_a_removal_that_nobody_asked_for(
    alice: Person, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "MAX_UNEXPLAINED_REMOVALS", 1)
    lost = [made(alice, ask(name=name)) for name in ("first", "second")]
    for cluster in lost:
        # That it was once to be deleted, and then was not, explains nothing today.
        services.request_deletion(actor=alice.actor, cluster_id=cluster.pk)
        services.restore_cluster(actor=alice.actor, cluster_id=cluster.pk)
        turn_until_rest(cluster)
    Cluster.objects.filter(pk__in=[one.pk for one in lost]).update(lifecycle="deleted", delete_after=None)
    first, second = lost
    turn(first, 2)
    assert (fresh(first).hold, first.pk in region.clusters) == (Hold.UNEXPLAINED, True)
    turn(second)
    installation.release_hold(actor=OPERATOR, cluster=fresh(first))
    turn(first, 4)
    assert first.pk not in region.clusters
    turn(second, 2)
    assert (fresh(second).hold, second.pk in region.clusters) == (Hold.UNEXPLAINED, True)


def test_a_held_cluster_is_not_closed_before_the_operator_has_looked(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    del region.clusters[healthy.pk]
    Cluster.objects.filter(pk=healthy.pk).update(hold=Hold.SET_BACK)
    turn(healthy, 2)
    operation.refresh_from_db()
    assert (fresh(healthy).deleted_at, operation.state) == (None, OperationState.RUNNING)
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn(healthy, 2)
    operation.refresh_from_db()
    assert fresh(healthy).deleted_at is not None
    assert operation.state == OperationState.SUCCEEDED


def test_a_mistake_that_was_mended_is_released_without_a_removal(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    Cluster.objects.filter(pk=healthy.pk).update(hold=Hold.UNEXPLAINED)
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn_until_rest(healthy)
    assert not Operation.objects.filter(cluster=healthy, kind="delete").exists()
    assert region.is_running(healthy.pk)


def test_an_engine_on_a_later_release_than_is_wished_goes_on(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.upgrade_cluster(actor=alice.actor, cluster_id=healthy.pk, release="8.6.0")
    turn_until_rest(healthy)
    region.calls.clear()
    # What a restore of an older account database makes of it, and an operator who releases it without a look.
    Cluster.objects.filter(pk=healthy.pk).update(release="8.5.8", hold=Hold.SET_BACK)
    installation.release_hold(actor=OPERATOR, cluster=fresh(healthy))
    turn(healthy, 3)
    assert region.calls == []
    assert region.is_running(healthy.pk)
    _, _, action = reconciler.show_plan(healthy.pk)
    assert isinstance(action, planner.StopEngine), "it is wished, and not done"


# --- who may, and what follows ----------------------------------------------------------------------------------------


def test_ending_a_change_needs_the_right_to_begin_it(
    alice: Person, bob: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = restoring(alice, healthy, region)
    assert code_of(services.cancel_operation, actor=bob.actor, operation_id=operation.pk) == "not_permitted"
    deletion = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    Operation.objects.filter(pk=deletion.pk).update(state=OperationState.FAILED, error_code="internal")
    assert code_of(services.retry_operation, actor=bob.actor, operation_id=deletion.pk) == "not_permitted"


def test_undoing_a_deletion_finds_a_suspended_cluster_suspended(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    backup = backed_up(alice, healthy)
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    services.restore_cluster(actor=alice.actor, cluster_id=healthy.pk)
    row = fresh(healthy)
    assert (row.lifecycle, row.data_epoch) == ("suspended", 0)


def test_a_dry_run_of_calling_a_backup_off_says_that_it_would_end(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    operation = services.back_up_cluster(actor=alice.actor, cluster_id=healthy.pk)
    foreseen = services.preview(services.cancel_operation, actor=alice.actor, operation_id=operation.pk)
    assert (foreseen.changes, foreseen.is_reversible) == ({"state": ["pending", "cancelled"]}, False)
    operation.refresh_from_db()
    assert operation.state == OperationState.PENDING


def test_a_cluster_of_which_nothing_was_asked_answers_a_change_that_changes_nothing(
    alice: Person, healthy: Cluster
) -> None:
    """As one that was adopted."""
    Operation.objects.filter(cluster=healthy).delete()
    told = services.resume_cluster(actor=alice.actor, cluster_id=healthy.pk)
    assert (told.state, told.kind) == (OperationState.SUCCEEDED, "update")


def test_a_backup_that_a_wish_needs_is_not_removed_meanwhile(alice: Person, healthy: Cluster) -> None:
    backup = backed_up(alice, healthy)
    with CaptureQueriesContext(connection) as queries:
        services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    assert any("provisioning_backup" in one["sql"] and "FOR NO KEY UPDATE" in one["sql"] for one in queries)


def test_one_cluster_that_cannot_be_served_by_the_schedule_keeps_nobody_back(
    alice: Person, bob: Person, healthy: Cluster, region: PretendRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made(alice, ask(name="other", channel="next", release="8.5.8"))
    Cluster.objects.filter(pk=healthy.pk).update(backup_every_hours=1, backup_due_at=Now() - timedelta(hours=2))
    Cluster.objects.filter(pk=other.pk).update(backup_every_hours=1, backup_due_at=Now())
    begin = services.back_up_cluster

    def stumble(**arguments: Any) -> Any:
        if arguments["cluster_id"] == healthy.pk:
            raise RuntimeError("nobody thought of this")
        return begin(**arguments)

    monkeypatch.setattr(schedules, "back_up_cluster", stumble)
    assert schedules.start_due_backups() == 1
    assert schedules.start_due_backups() == 0, "it is first in line for ever"
    assert Operation.objects.filter(cluster=other, kind="back_up").count() == 1
