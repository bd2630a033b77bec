"""A worker dies at every step of every lifecycle, before and after each thing it does: always the same end.

The scenarios are told as wishes; which actions they lead to is read off the planner, and an action of the planner's
that no scenario comes by fails this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args
from unittest.mock import patch

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from common.errors import Permanent
from provisioning import executor, planner, services
from provisioning import selectors as read
from provisioning.backends.base import ClusterBackend
from provisioning.models import Backup, Cluster, Leftover, Operation, Region
from provisioning.planner import Wait
from provisioning.services import TurnOutcome
from provisioning.states import OperationState
from tenants.models import AuditEvent
from tests.factories import Person, make_person
from tests.provisioning.backends.faults.test_kills import WISHES as ON_SIMULATED_PODS
from tests.provisioning.backends.test_kubernetes_kills import WISHES as ON_REAL_ENGINES
from tests.provisioning.conftest import ask
from tests.provisioning.kills import (
    Point,
    act_as_system,
    copying,
    deletion_after_window,
    die_in_turn,
    drilling,
    facts_of,
    from_healthy,
    is_over,
    restoring,
    resumption,
    shrinking,
    take_turn,
)
from tests.provisioning.shared_region import SharedRegion

MOST_TURNS = 60


@dataclass
class Stage:
    """A person with committed rows and a region in a file."""

    person: Person
    region: SharedRegion

    def create(self, **overrides: Any) -> Operation:
        request = ask(region="killing", channel="next", release="8.5.8", **overrides)
        return services.create_cluster(actor=self.person.actor, request=request)

    def healthy(self, **overrides: Any) -> Cluster:
        return self.run(self.create(name="base", **overrides).cluster)

    def run(self, cluster: Cluster) -> Cluster:
        """Take turns until nothing is left to do."""
        for _ in range(MOST_TURNS):
            if is_over(take_turn(cluster.pk), cluster):
                break
        else:
            pytest.fail("the cluster did not come to rest")
        cluster.refresh_from_db()
        return cluster

    def backed_up(self, **overrides: Any) -> Backup:
        cluster = self.healthy(**overrides)
        services.back_up_cluster(actor=self.person.actor, cluster_id=cluster.pk)
        self.run(cluster)
        return Backup.objects.get(cluster=cluster)

    def ask(self, service: Callable[..., Operation], cluster: Cluster, **wish: Any) -> Operation:
        return service(actor=self.person.actor, cluster_id=cluster.pk, **wish)


@dataclass(frozen=True)
class Scenario:
    """A lifecycle: from what it starts, and the wish whose fulfilment is disturbed."""

    name: str
    wish: Callable[[Stage], Operation]


def undeletion(stage: Stage) -> Operation:
    cluster = stage.healthy()
    stage.ask(services.request_deletion, cluster)
    take_turn(cluster.pk)
    return stage.ask(services.restore_cluster, cluster)


def going_back(stage: Stage) -> Operation:
    cluster = stage.healthy()
    with stage.region.opened() as region:
        region.crashing_release = "8.6.0"
    return stage.ask(services.upgrade_cluster, cluster, release="8.6.0")


def calling_off(stage: Stage) -> Operation:
    operation = stage.ask(services.upgrade_cluster, stage.healthy(), release="8.6.0", without_backup=True)
    for _ in range(2):
        take_turn(operation.cluster_id)
    return services.cancel_operation(actor=stage.person.actor, operation_id=operation.pk)


SCENARIOS = [
    Scenario("create", lambda stage: stage.create()),
    Scenario("create three brokers", lambda stage: stage.create(plan_type="resilient")),
    Scenario("suspend", from_healthy(services.suspend_cluster)),
    Scenario("resume", resumption),
    Scenario("revoke access", from_healthy(services.revoke_access)),
    Scenario("revoke access broker by broker", from_healthy(services.revoke_access, "resilient")),
    Scenario("a broker more", from_healthy(services.resize_cluster, "resilient", plan_type="resilient-4")),
    Scenario("a broker less", shrinking),
    Scenario("more memory", from_healthy(services.resize_cluster, plan_type="small-plus")),
    Scenario("upgrade", from_healthy(services.upgrade_cluster, release="8.6.0")),
    Scenario("upgrade three brokers", from_healthy(services.upgrade_cluster, "resilient", release="8.6.0")),
    Scenario("upgrade that goes back", going_back),
    Scenario("upgrade called off", calling_off),
    Scenario("back up", from_healthy(services.back_up_cluster)),
    Scenario("restore a backup", restoring("small")),
    Scenario("restore a backup of three brokers", restoring("resilient")),
    Scenario("copy", copying),
    Scenario("drill", drilling),
    Scenario("delete", deletion_after_window),
    Scenario("delete at once", from_healthy(services.request_deletion, purge=True)),
    Scenario("undelete", undeletion),
]


@pytest.fixture
def stage(django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Callable[[], Stage]]:
    """`stage()` sets a new one: committed rows, nothing due when the test is over."""
    people: list[Person] = []
    with django_db_blocker.unblock():
        act_as_system()
        Region.objects.update_or_create(
            slug="killing", defaults={"name": "Killing", "backend": "killing", "domain": "k.example", "is_open": True}
        )

        def make() -> Stage:
            people.append(make_person())
            folder = tmp_path / f"region-{len(people)}"
            folder.mkdir()
            region = SharedRegion(folder)
            executor.BACKENDS["killing"] = lambda _slug: cast(ClusterBackend, region)
            executor.backend_of.cache_clear()
            return Stage(people[-1], region)

        yield make
        owned = [person.organization.pk for person in people]
        Cluster.objects.filter(organization__in=owned).update(due_at=None)
        Leftover.objects.filter(organization__in=owned).update(due_at=None)
        Backup.objects.filter(organization__in=owned, state="removing").update(state="removed")
        Region.objects.filter(slug="killing").update(is_open=False)
        executor.BACKENDS.pop("killing", None)  # whoever has set no stage has put none there
        executor.backend_of.cache_clear()
        connection.close()


@dataclass(frozen=True)
class End:
    """All that may be told of how a wish came out."""

    in_region: dict[str, Any]
    cluster: tuple[Any, ...]
    operations: tuple[tuple[str, str, str], ...]
    audit: tuple[str, ...]


def end_of(stage: Stage, cluster: Cluster) -> End:
    cluster.refresh_from_db()
    rows = Operation.objects.for_organization(stage.person.organization.pk).order_by("created_at")
    events = AuditEvent.objects.for_organization(stage.person.organization.pk).order_by("at")
    return End(
        in_region=facts_of(stage.region, cluster.pk),
        cluster=(
            cluster.lifecycle, cluster.deleted_at is not None, cluster.release_id, cluster.former_release_id,
            cluster.plan_type_id, cluster.is_on_trial, cluster.observed_generation >= cluster.spec_generation,
        ),
        operations=tuple((row.kind, row.state, row.error_code) for row in rows),
        audit=tuple(event.action for event in events),
    )  # fmt: skip


@dataclass(frozen=True)
class Way:
    """The turns that a wish leads to when nothing happens, and its end."""

    turns: list[TurnOutcome]
    end: End

    @property
    def actions(self) -> set[type]:
        """The kinds of what was done on it."""
        return {type(turn.action) for turn in self.turns if turn.executed or turn.action == planner.CloseCluster()}


WAYS: dict[str, Way] = {}


def undisturbed(stage: Callable[[], Stage], scenario: Scenario) -> Way:
    """Go the scenario's way, once for all tests of this module."""
    if scenario.name not in WAYS:
        there = stage()
        cluster = scenario.wish(there).cluster
        turns: list[TurnOutcome] = []
        while not turns or not is_over(turns[-1], cluster):
            turns.append(take_turn(cluster.pk))
            assert len(turns) < MOST_TURNS
        WAYS[scenario.name] = Way(turns, end_of(there, cluster))
    return WAYS[scenario.name]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_worker_that_dies_anywhere_changes_nothing(
    stage: Callable[[], Stage], scenario: Scenario, request: pytest.FixtureRequest
) -> None:
    way = undisturbed(stage, scenario)
    for index, point in kills(way.turns, SCENARIOS.index(scenario), everywhere=request.config.getoption("every_kill")):
        there = stage()
        cluster = scenario.wish(there).cluster
        for _ in range(index):
            take_turn(cluster.pk)
        die_in_turn(cluster.pk, point)
        there.run(cluster)
        assert end_of(there, cluster) == way.end, f"killed {point} of {way.turns[index].action}"


def kills(turns: list[TurnOutcome], number: int, *, everywhere: bool) -> Iterator[tuple[int, Point]]:
    """Where to kill: in every turn, at one point of it (another one in every scenario) or at all of them."""
    for index, turn in enumerate(turns):
        # A turn that asks nothing of the region can only die around its record.
        points = list(Point) if turn.executed and turn.action else [Point.BEFORE_RECORD, Point.AFTER_RECORD]
        for point in points if everywhere else [points[(index + number) % len(points)]]:
            yield index, point


def test_every_action_of_the_planners_is_somewhere_on_these_ways(stage: Callable[[], Stage]) -> None:
    done = set().union(*(undisturbed(stage, scenario).actions for scenario in SCENARIOS))
    assert set(get_args(planner.Action)) - {Wait} <= done


def test_every_lifecycle_is_on_a_real_kubernetes_as_well() -> None:
    assert {*ON_SIMULATED_PODS, *ON_REAL_ENGINES} >= {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_doing_every_action_twice_is_doing_it_once(stage: Callable[[], Stage], scenario: Scenario) -> None:
    expected = undisturbed(stage, scenario).end
    execute = executor.execute

    def twice(*arguments: Any, **named: Any) -> executor.Effect:
        execute(*arguments, **named)
        return execute(*arguments, **named)

    there = stage()
    cluster = scenario.wish(there).cluster
    with patch.object(executor, "execute", twice):
        there.run(cluster)
    assert end_of(there, cluster) == expected


VERBS = {
    planner.PrepareRelease: "prepare",
    planner.TakeBackup: "back_up",
    planner.RestoreData: "restore",
    planner.StartEngine: "start",
    planner.StopEngine: "stop",
    planner.Rescale: "rescale",
    planner.RetireBrokers: "retire",
    planner.Rebalance: "rebalance",
    planner.LetGo: "let_go",
    planner.RemoveCluster: "delete",
}


# What is not tried again but taken back, by itself: an upgrade, or a restore, that has a way back; a drill.
TAKEN_BACK = {
    "upgrade": {"back_up", "stop", "start", "let_go"},
    "upgrade three brokers": {"back_up", "stop", "start"},
    "upgrade that goes back": {"back_up", "stop", "start"},
    "restore a backup": {"stop", "restore", "start", "let_go"},
    "restore a backup of three brokers": {"stop", "restore", "start", "rebalance", "let_go"},
    "drill": {"restore", "start"},
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_action_that_fails_for_good_is_shown_and_comes_right_when_its_cause_is_mended(
    stage: Callable[[], Stage], scenario: Scenario
) -> None:
    assert set(VERBS) == set(get_args(planner.Action)) - {planner.Wait, planner.CloseCluster}
    way = undisturbed(stage, scenario)
    taken_back = TAKEN_BACK.get(scenario.name, set())
    verbs = {VERBS[type(turn.action)] for turn in way.turns if type(turn.action) in VERBS}
    assert taken_back <= verbs
    for verb in sorted(verbs):
        there = stage()
        wished = scenario.wish(there)
        cluster = wished.cluster
        with there.region.opened() as region:
            region.faults[verb] = [Permanent("It cannot be done.") for _ in range(99)]
        for _ in range(MOST_TURNS):
            take_turn(cluster.pk)
        # A drill has come out by the time its copy is removed, which is an operation of its own.
        failed = Operation.objects.filter(cluster=cluster).latest("created_at") if verb == "delete" else wished
        assert told_of(failed) == (OperationState.FAILED, "stalled", "It cannot be done."), verb
        with there.region.opened() as region:
            region.faults.clear()
        assert read.can_retry(failed) == (verb not in taken_back), verb
        if verb not in taken_back:
            services.retry_operation(actor=there.person.actor, operation_id=failed.pk)
        there.run(cluster)
        state, _, _ = told_of(failed)
        if verb not in taken_back:
            assert state == OperationState.SUCCEEDED, verb
            assert facts_of(there.region, cluster.pk) == way.end.in_region, verb
        else:
            assert state == OperationState.FAILED, verb
            assert_as_before(there, cluster)
        assert not cluster.is_on_trial


def told_of(operation: Operation) -> tuple[str, str, str]:
    """How an operation came out, as people are told."""
    operation.refresh_from_db()
    return operation.state, operation.error_code, operation.error_message


def assert_as_before(stage: Stage, cluster: Cluster) -> None:
    """It runs on the release that it had; a drill's copy is gone."""
    facts = facts_of(stage.region, cluster.pk)
    if cluster.drill_of_id is not None:
        assert (facts, cluster.deleted_at is not None) == ({}, True)
        return
    assert (cluster.release_id, cluster.former_release_id) == ("8.5.8", None)
    assert set(facts["brokers"].values()) == {(True, "8.5.8", None)}
