"""The loop on real rows and a region in memory: what it does, what it survives, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from provisioning import planner, reconciler, selectors, services, wakeups
from provisioning.errors import Fenced, JavaMissing, NoCapacity, RegionUnreachable
from provisioning.models import Cluster, Operation
from provisioning.spec import ObservedBroker, ObservedCluster, ReleaseState
from provisioning.states import OPEN_STATES, ConditionType, OperationKind, OperationState, Phase, StepKind, StepState
from provisioning.verdicts import Verdict
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db


def turn_until_rest(cluster: Cluster, *, most: int = 30) -> None:
    """Take turns as the worker and the sweep would, with waiting times left out, until nothing is under way."""
    for _ in range(most):
        make_due(cluster)
        if not reconciler.turn(cluster.pk) and not cluster.operations.filter(state__in=OPEN_STATES).exists():
            return


def make_due(cluster: Cluster) -> None:
    past = Now() - timedelta(seconds=1)
    Cluster.objects.filter(pk=cluster.pk).update(due_at=past, start_after=F("start_after") - timedelta(minutes=10))


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


@pytest.fixture
def healthy(cluster: Cluster) -> Cluster:
    turn_until_rest(cluster)
    cluster.refresh_from_db()
    assert cluster.was_healthy
    return cluster


def latest(cluster: Cluster, person: Person) -> selectors.OperationView:
    row = Operation.objects.filter(cluster=cluster).latest("created_at")
    return selectors.operation(person.actor, row.pk)


def test_a_wish_becomes_a_healthy_engine(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    turn_until_rest(cluster)
    view = selectors.cluster(alice.actor, cluster.pk)
    assert view.phase is Phase.HEALTHY
    assert view.row.observed_generation == view.row.spec_generation == 1
    assert view.row.endpoint_grpc == f"{cluster.pk}.pretend.example:26500"
    assert region.verbs() == ["prepare", "start"]
    operation = latest(cluster, alice)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.percent == 100
    assert [step.state for step in operation.steps] == [StepState.DONE] * 3


def test_each_step_shows_while_it_is_waited_for(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    region.slow = True
    region.release_detail = "200 MB are being fetched"
    reconciler.turn(cluster.pk)
    make_due(cluster)
    reconciler.turn(cluster.pk)
    operation = latest(cluster, alice)
    assert operation.waits_for == "200 MB are being fetched"
    assert [step.state for step in operation.steps] == [StepState.RUNNING, StepState.PENDING, StepState.PENDING]
    assert operation.verdict is Verdict.PROGRESSING
    assert selectors.cluster(alice.actor, cluster.pk).phase is Phase.CREATING


def test_a_step_that_was_not_needed_counts_for_nothing(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    region.slow, region.release = True, ReleaseState.READY
    reconciler.turn(cluster.pk)
    operation = latest(cluster, alice)
    assert [step.state for step in operation.steps] == [StepState.SKIPPED, StepState.DONE, StepState.RUNNING]
    assert operation.percent < 50


def test_a_turn_that_finds_nothing_to_do_costs_two_statements_and_no_act(
    healthy: Cluster, region: PretendRegion
) -> None:
    region.calls.clear()
    make_due(healthy)
    with CaptureQueriesContext(connection) as queries:
        assert reconciler.turn(healthy.pk) is False
    assert len(queries) == 2, [query["sql"] for query in queries]
    assert region.calls == []


def test_a_cluster_that_is_not_due_costs_one_statement(healthy: Cluster, region: PretendRegion) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert reconciler.turn(healthy.pk) is False
    assert len(queries) == 1


def test_two_turns_never_hold_one_cluster(cluster: Cluster, region: PretendRegion) -> None:
    assert Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))
    make_due(cluster)
    assert not Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))


def test_an_overslept_turn_writes_nothing_and_does_nothing(cluster: Cluster, region: PretendRegion) -> None:
    assert Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))
    overslept = selectors.turn_subject(cluster.pk)
    Cluster.objects.filter(pk=cluster.pk).update(lease_expires_at=Now() - timedelta(seconds=1))
    turn_until_rest(cluster)
    before = Cluster.objects.filter(pk=cluster.pk).values().get()
    with pytest.raises(Fenced):
        region.start(overslept.desired, [0], epoch=overslept.row.lease_epoch)
    with pytest.raises(Fenced):
        services.record_turn(overslept, services.TurnOutcome(None, None, error_code="late", error_message="late"))
    assert Cluster.objects.filter(pk=cluster.pk).values().get() == before
    assert region.starts == 1


def test_a_turn_that_dies_is_taken_up_when_its_lease_ends(cluster: Cluster, region: PretendRegion) -> None:
    assert Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))
    row = Cluster.objects.get(pk=cluster.pk)
    assert row.due_at == row.lease_expires_at
    past = Now() - timedelta(seconds=1)
    Cluster.objects.filter(pk=cluster.pk).update(due_at=past, lease_expires_at=past)
    assert [pk for pk, _ in selectors.due_clusters(10)] == [cluster.pk]
    turn_until_rest(cluster)
    assert region.starts == 1


def test_a_wish_that_comes_during_a_turn_takes_its_place(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    make_due(healthy)
    assert Cluster.objects.claim(healthy.pk, ttl=timedelta(seconds=20))
    subject = selectors.turn_subject(healthy.pk)
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    with pytest.raises(Fenced):
        services.record_turn(subject, services.TurnOutcome(None, None, due_in_seconds=300))
    assert healthy.pk in [pk for pk, _ in selectors.due_clusters(10)]


def test_a_wake_up_that_comes_during_a_turn_is_not_lost(healthy: Cluster, region: PretendRegion) -> None:
    make_due(healthy)
    assert Cluster.objects.claim(healthy.pk, ttl=timedelta(seconds=20))
    subject = selectors.turn_subject(healthy.pk)
    wakeups.wake(healthy.pk)
    services.record_turn(subject, services.TurnOutcome(ObservedCluster(), None, due_in_seconds=300))
    assert healthy.pk in [pk for pk, _ in selectors.due_clusters(10)]


def test_missing_capacity_is_for_those_to_free_who_hold_some(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    def verdict() -> Verdict | None:
        region.faults["start"] = [NoCapacity("Memory: 640 MiB are needed and 100 MiB are free.", resource="memory")]
        make_due(cluster)
        reconciler.turn(cluster.pk)
        return latest(cluster, alice).verdict

    region.release = ReleaseState.READY
    assert verdict() is Verdict.NEEDS_US
    services.create_cluster(actor=alice.actor, request=ask(name="other"))
    assert verdict() is Verdict.NEEDS_YOU


def test_a_rename_does_not_end_a_stall(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    region.faults["prepare"] = [JavaMissing("There is no Java.")]
    reconciler.turn(cluster.pk)
    region.calls.clear()
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, name="renamed")
    make_due(cluster)
    reconciler.turn(cluster.pk)
    assert region.calls == []
    failed = Operation.objects.get(cluster=cluster, kind=OperationKind.CREATE)
    assert failed.state == OperationState.FAILED


@pytest.mark.parametrize("verb", ["observe", "prepare", "start"])
def test_a_temporary_failure_is_shown_and_tried_again(
    alice: Person, cluster: Cluster, region: PretendRegion, verb: str
) -> None:
    region.faults[verb] = [NoCapacity("Memory: 640 MiB are needed and 100 MiB are free.", resource="memory")]
    seen: list[tuple[Verdict | None, str]] = []
    for _ in range(3):
        make_due(cluster)
        reconciler.turn(cluster.pk)
        view = latest(cluster, alice)
        seen.append((view.verdict, view.waits_for))
    assert (Verdict.NEEDS_US, "Memory: 640 MiB are needed and 100 MiB are free.") in seen
    turn_until_rest(cluster)
    assert latest(cluster, alice).state is OperationState.SUCCEEDED
    assert region.starts == 1


def test_days_of_failures_are_one_more_failure(cluster: Cluster, region: PretendRegion) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(failures=2000)
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")]
    assert reconciler.turn(cluster.pk) is False
    row = Cluster.objects.get(pk=cluster.pk)
    assert row.failures == 2001
    assert row.due_at is not None
    assert row.seen_at is not None
    longest = reconciler.MAX_BACKOFF_SECONDS
    assert longest <= (row.due_at - row.seen_at).total_seconds() < 2 * longest


@pytest.mark.parametrize("verb", ["prepare", "start"])
def test_an_answer_lost_on_its_way_does_nothing_twice(cluster: Cluster, region: PretendRegion, verb: str) -> None:
    region.after[verb] = [RegionUnreachable("The region does not answer.")]
    turn_until_rest(cluster)
    assert region.starts == 1
    assert Cluster.objects.get(pk=cluster.pk).was_healthy


def test_no_answer_never_reads_as_absent(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.calls.clear()
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")]
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert region.calls == []
    view = selectors.cluster(alice.actor, healthy.pk)
    available = next(c for c in view.conditions if c.type is ConditionType.AVAILABLE)
    assert (available.status, available.reason) == ("Unknown", "RegionUnreachable")


def test_a_damaged_archive_stalls_until_somebody_retries(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    region.release, region.release_detail = ReleaseState.FAILED, "The archive is damaged."
    reconciler.turn(cluster.pk)
    region.release = ReleaseState.FAILED
    turn_until_rest(cluster)
    failed = latest(cluster, alice)
    assert (failed.state, failed.error_code) == (OperationState.FAILED, "release_unavailable")
    assert failed.error_message == "The archive is damaged."
    assert failed.verdict is Verdict.NEEDS_US
    assert failed.can_retry
    assert Cluster.objects.get(pk=cluster.pk).due_at is None
    region.calls.clear()
    Cluster.objects.filter(pk=cluster.pk).update(due_at=Now())
    reconciler.turn(cluster.pk)
    assert region.calls == []
    services.retry_operation(actor=alice.actor, operation_id=failed.id)
    turn_until_rest(cluster)
    assert latest(cluster, alice).state is OperationState.SUCCEEDED


def test_a_failure_that_a_later_change_replaced_offers_nothing_more(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    region.faults["prepare"] = [JavaMissing("There is no Java.")]
    reconciler.turn(cluster.pk)
    failed = latest(cluster, alice)
    assert (failed.can_retry, failed.can_cancel) == (True, True)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    replaced = selectors.operation(alice.actor, failed.id)
    assert (replaced.can_retry, replaced.can_cancel) == (False, False)


def test_a_release_that_is_gone_is_made_ready_again_in_a_step_of_its_own(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    services.resume_cluster(actor=alice.actor, cluster_id=healthy.pk)
    for _ in range(4):
        region.release, region.release_detail = ReleaseState.FAILED, "The archive is damaged."
        make_due(healthy)
        reconciler.turn(healthy.pk)
    failed = latest(healthy, alice)
    assert (failed.state, failed.error_code) == (OperationState.FAILED, "release_unavailable")
    assert next(iter(failed.steps)).kind is StepKind.PREPARE_RELEASE
    region.release = ReleaseState.ABSENT
    services.retry_operation(actor=alice.actor, operation_id=failed.id)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


@pytest.mark.parametrize(("age_seconds", "at_most"), [(0.0, 30), (1.5, 400)])
def test_an_engine_that_no_watch_looks_after_is_looked_at_often(
    healthy: Cluster, region: PretendRegion, age_seconds: float, at_most: float
) -> None:
    region.age_seconds = age_seconds
    make_due(healthy)
    reconciler.turn(healthy.pk)
    row = Cluster.objects.get(pk=healthy.pk)
    assert row.due_at is not None
    assert row.seen_at is not None
    assert (row.due_at - row.seen_at).total_seconds() < at_most


@pytest.mark.parametrize(
    ("clusters", "is_watched", "seconds"),
    [(1, True, 300), (10, True, 300), (1000, True, 14_000), (1, False, 20), (1000, False, 1400)],
)
def test_a_region_with_more_clusters_is_asked_no_more_often_for_those_at_rest(
    clusters: int, is_watched: bool, seconds: float
) -> None:
    sight = ObservedCluster(exists=True, brokers=(ObservedBroker(0, running=True),), look_requests=14)
    assert reconciler.resync_seconds(clusters, sight, is_watched=is_watched) == seconds


def test_a_dead_engine_is_started_again(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    region.kill(healthy.pk)
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert region.starts == 2
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_no_empty_engine_takes_the_place_of_one_that_is_gone_with_its_data(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    kept, acts = region.clusters.pop(healthy.pk), len(region.calls)
    turn_until_rest(healthy)
    assert len(region.calls) == acts
    healthy.refresh_from_db()
    assert "No empty engine is started" in str(healthy.conditions)
    region.clusters[healthy.pk] = kept
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_what_a_cluster_was_given_back_long_ago_does_not_take_the_place_of_what_is_gone(
    healthy: Cluster, region: PretendRegion
) -> None:
    Cluster.objects.filter(pk=healthy.pk).update(data_epoch=1)
    del region.clusters[healthy.pk]
    acts = len(region.calls)
    turn_until_rest(healthy)
    healthy.refresh_from_db()
    assert len(region.calls) == acts
    assert "All of this cluster is gone" in str(healthy.conditions)


def test_a_dead_engine_comes_back_by_itself_when_its_cause_is_mended(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.kill(healthy.pk)
    region.faults["start"] = [JavaMissing("There is no Java.")]
    make_due(healthy)
    reconciler.turn(healthy.pk)
    assert Cluster.objects.get(pk=healthy.pk).due_at is not None
    for _ in range(2):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_a_release_that_cannot_be_had_is_not_fetched_in_a_hot_loop(healthy: Cluster, region: PretendRegion) -> None:
    region.kill(healthy.pk)
    region.calls.clear()
    for _ in range(10):
        region.release, region.release_detail = ReleaseState.FAILED, "The archive is damaged."
        make_due(healthy)
        reconciler.turn(healthy.pk)
    row = Cluster.objects.get(pk=healthy.pk)
    assert len(region.calls) == 5, "only every other turn tries, and those are minutes apart"
    assert row.due_at is not None
    assert row.seen_at is not None


def test_an_engine_that_keeps_ending_is_started_ever_more_slowly(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    region.release, region.crash_on_start = ReleaseState.READY, True
    past = Now() - timedelta(seconds=1)
    waits = []
    for _ in range(4):
        Cluster.objects.filter(pk=cluster.pk).update(start_after=past, due_at=past)
        reconciler.turn(cluster.pk)
        row = Cluster.objects.get(pk=cluster.pk)
        assert row.start_after is not None
        assert row.seen_at is not None
        # Both were taken in this turn, one a moment after the other.
        waits.append(math.ceil((row.start_after - row.seen_at).total_seconds()))
    assert region.starts == 4
    assert waits == [2, 4, 8, 16]
    for _ in range(6):
        Cluster.objects.filter(pk=cluster.pk).update(due_at=past)
        reconciler.turn(cluster.pk)
    assert region.starts == 4
    Cluster.objects.filter(pk=cluster.pk).update(due_at=past)
    reconciler.turn(cluster.pk)
    view = latest(cluster, alice)
    assert view.error_code == "engine_keeps_ending"
    assert "The engine ended right after its start." in view.waits_for
    assert view.verdict is Verdict.NEEDS_US


def test_an_unexpected_error_neither_spins_nor_tells(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    region.faults["observe"] = [RuntimeError("secret detail")]
    reconciler.turn(cluster.pk)
    row = Cluster.objects.get(pk=cluster.pk)
    view = latest(cluster, alice)
    assert view.error_code == "internal"
    assert "secret detail" not in view.waits_for
    assert row.due_at is not None
    assert row.seen_at is not None
    assert (row.due_at - row.seen_at).total_seconds() > 200


@pytest.mark.parametrize(
    ("change", "phase", "verbs"),
    [
        (services.suspend_cluster, Phase.SUSPENDED, ["stop"]),
        (services.revoke_access, Phase.HEALTHY, ["stop", "start"]),
    ],
)
def test_changes_of_a_healthy_cluster(
    alice: Person, healthy: Cluster, region: PretendRegion, change: Callable[..., Any], phase: Phase, verbs: list[str]
) -> None:
    region.calls.clear()
    change(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is phase
    assert region.verbs() == verbs
    operation = latest(healthy, alice)
    assert operation.state is OperationState.SUCCEEDED
    assert {step.state for step in operation.steps} == {StepState.DONE}


def test_an_operation_without_steps_is_not_over_before_nothing_is_left_to_do(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    region.slow = True
    services.revoke_access(actor=alice.actor, cluster_id=healthy.pk)
    reconciler.turn(healthy.pk)
    operation = services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    faults: list[list[Exception]] = [[], [RegionUnreachable("The region does not answer.")]]
    for fault in faults:
        region.faults["observe"] = fault
        make_due(healthy)
        reconciler.turn(healthy.pk)
        operation.refresh_from_db()
        assert region.is_running(healthy.pk)
        assert operation.state == OperationState.RUNNING
    region.finish()
    turn_until_rest(healthy)
    operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED


def test_a_rename_does_not_end_what_is_under_way(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    creation = Operation.objects.get(cluster=cluster)
    renaming = services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, name="other")
    assert renaming.state == OperationState.SUCCEEDED
    for _ in range(3):
        region.release, region.release_detail = ReleaseState.FAILED, "The archive is damaged."
        make_due(cluster)
        reconciler.turn(cluster.pk)
    assert selectors.operation(alice.actor, creation.pk).can_retry
    services.retry_operation(actor=alice.actor, operation_id=creation.pk)
    region.release = ReleaseState.ABSENT
    for _ in range(5):
        make_due(cluster)
        reconciler.turn(cluster.pk)
    creation.refresh_from_db()
    assert creation.state == OperationState.SUCCEEDED


def test_suspend_and_resume_keep_the_cluster(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    services.resume_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
    assert "delete" not in region.verbs()


def test_deletion_rests_in_its_undo_window_and_then_removes_everything(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    for _ in range(4):
        make_due(healthy)
        reconciler.turn(healthy.pk)
    view = selectors.cluster(alice.actor, healthy.pk)
    assert view.phase is Phase.DELETION_SCHEDULED
    operation = latest(healthy, alice)
    assert operation.state is OperationState.RUNNING
    assert operation.verdict is Verdict.PROGRESSING
    assert "undo window" in operation.waits_for
    assert healthy.pk in region.clusters
    Cluster.objects.filter(pk=healthy.pk).update(delete_after=Now())
    turn_until_rest(healthy)
    assert healthy.pk not in region.clusters
    row = Cluster.objects.get(pk=healthy.pk)
    assert row.deleted_at is not None
    assert row.due_at is None, "a tombstone was to be looked at again"
    assert row.audience.closed_at is not None
    assert Operation.objects.filter(cluster=row, kind=OperationKind.DELETE).get().state == OperationState.SUCCEEDED


def test_a_wake_up_while_a_cluster_is_closed_leaves_nothing_overdue(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    reconciler.turn(healthy.pk)
    make_due(healthy)
    assert Cluster.objects.claim(healthy.pk, ttl=timedelta(seconds=20))
    subject = selectors.turn_subject(healthy.pk)
    wakeups.wake(healthy.pk)  # the watch sees the engine's end just now
    services.record_turn(subject, services.TurnOutcome(ObservedCluster(), planner.CloseCluster()))
    assert Cluster.objects.get(pk=healthy.pk).due_at is None, "readiness would count it as overdue for ever"


def test_a_deletion_can_be_undone_inside_its_window(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy, most=4)
    services.restore_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
    assert "delete" not in region.verbs()


def test_a_suspended_cluster_is_restored_as_suspended(alice: Person, healthy: Cluster, region: PretendRegion) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy, most=3)
    services.restore_cluster(actor=alice.actor, cluster_id=healthy.pk)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.SUSPENDED
    assert "start" not in region.verbs()[2:]


def test_delete_while_creating_leaves_nothing(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    region.slow = True
    reconciler.turn(cluster.pk)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    region.finish()
    turn_until_rest(cluster)
    assert region.clusters == {}
    created = Operation.objects.get(cluster=cluster, kind=OperationKind.CREATE)
    assert (created.state, created.error_code) == (OperationState.CANCELLED, "superseded")
    assert Cluster.objects.get(pk=cluster.pk).deleted_at is not None


def test_an_overslept_start_does_not_bring_a_tombstone_an_engine(
    alice: Person, cluster: Cluster, region: PretendRegion
) -> None:
    region.release = ReleaseState.READY
    overslept = Cluster.objects.claim(cluster.pk, ttl=timedelta(seconds=20))
    assert overslept is not None
    subject = selectors.subject_of(overslept)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    turn_until_rest(cluster)
    assert Cluster.objects.get(pk=cluster.pk).deleted_at is not None
    with pytest.raises(Fenced):
        region.start(subject.desired, [0], epoch=overslept.lease_epoch)
    assert region.clusters == {}


def test_cancelling_a_creation_leaves_nothing(alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    reconciler.turn(cluster.pk)
    undoing = services.cancel_operation(actor=alice.actor, operation_id=latest(cluster, alice).id)
    assert undoing.kind == OperationKind.DELETE
    turn_until_rest(cluster)
    assert region.clusters == {}


def test_show_plan_acts_on_nothing(cluster: Cluster, region: PretendRegion) -> None:
    subject, observed, action = reconciler.show_plan(cluster.pk)
    assert subject.row.pk == cluster.pk
    assert not observed.exists
    assert action is not None
    assert region.calls == []
