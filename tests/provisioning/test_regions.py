"""Regions: which takes a new cluster, what maintenance and draining mean for those that are there, who is silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from common.errors import Conflict, Permanent
from provisioning import executor, reconciler, selectors, services, sweeper
from provisioning.backends.base import ClusterBackend
from provisioning.errors import InvalidSpec, NoPlace, RegionUnreachable
from provisioning.models import Cluster, Operation, Region
from provisioning.services import regions, schedules
from provisioning.spec import ReleaseState
from provisioning.states import ConditionType, OperationState, RegionState
from tenants.actor import SYSTEM
from tests.factories import Person
from tests.provisioning.conftest import ask, make_clusters, put_on_plan
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup, make_healthy

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nothing_else")]

Make = Callable[..., PretendRegion]


@pytest.fixture
def make_region(region: PretendRegion) -> Make:
    """Another region in memory; the first one is there under the name `pretend`."""
    made: dict[str, PretendRegion] = {"pretend": region}
    executor.BACKENDS["pretend"] = made.__getitem__

    def make(slug: str, **fields: Any) -> PretendRegion:
        Region.objects.create(
            slug=slug, **{"name": slug.title(), "backend": "pretend", "domain": f"{slug}.example", **fields}
        )
        return made.setdefault(slug, PretendRegion(release=ReleaseState.READY))

    Region.objects.exclude(slug="pretend").update(is_open=False)
    return make


@pytest.fixture
def team(alice: Person) -> Person:
    """Somebody whose plan is not the limit."""
    put_on_plan(alice, "team")
    return alice


def say(slug: str = "pretend", **fields: Any) -> None:
    Region.objects.filter(pk=slug).update(**fields)


def named(slug: str = "pretend") -> Region:
    return Region.objects.get(pk=slug)


def create(person: Person, **overrides: Any) -> Operation:
    return services.create_cluster(actor=person.actor, request=ask(**overrides))


def work(cluster: Cluster, turns: int = 12) -> None:
    for _ in range(turns):
        Cluster.objects.filter(pk=cluster.pk).update(due_at=Now(), lease_expires_at=None)
        reconciler.turn(cluster.pk)
    cluster.refresh_from_db()


# --- How many there are ----------------------------------------------------------------------------------------------


def test_the_database_counts_whoever_writes(team: Person, region: PretendRegion) -> None:
    made = [create(team, name=name).cluster for name in "abc"]
    assert named().placed == 3
    make_clusters(team.organization, 4)
    assert named().placed == 7
    Cluster.objects.filter(pk=made[0].pk).update(deleted_at=Now())
    assert named().placed == 6
    Cluster.objects.filter(pk=made[0].pk).update(deleted_at=Now())
    assert named().placed == 6, "a tombstone is counted off once"
    Operation.objects.filter(cluster__region="pretend").delete()
    Cluster.objects.filter(region="pretend").delete()
    assert named().placed == 0


def test_a_dry_run_takes_no_place(team: Person, region: PretendRegion) -> None:
    services.preview(services.create_cluster, actor=team.actor, request=ask())
    assert named().placed == 0


def test_a_cluster_takes_its_place_until_nothing_is_left_of_it(team: Person, region: PretendRegion) -> None:
    say(max_clusters=1)
    cluster = create(team).cluster
    work(cluster)
    with pytest.raises(NoPlace, match="it is full"):
        create(team, name="next")
    services.request_deletion(actor=team.actor, cluster_id=cluster.pk, purge=True)
    with pytest.raises(NoPlace):
        create(team, name="next")
    work(cluster)
    assert cluster.deleted_at is not None
    create(team, name="next")


def test_a_deletion_ended_by_force_gives_its_place_back(team: Person, region: PretendRegion) -> None:
    cluster = create(team).cluster
    work(cluster)
    operation = services.request_deletion(actor=team.actor, cluster_id=cluster.pk, purge=True)
    Operation.objects.filter(pk=operation.pk).update(error_code="region_unreachable", error_message="No.")
    services.force_operation(actor=team.actor, operation_id=operation.pk)
    assert named().placed == 0


def test_a_drill_needs_a_place_too(team: Person, region: PretendRegion) -> None:
    backup = make_backup(make_healthy(create(team).cluster))
    say(max_clusters=1)
    with pytest.raises(NoPlace, match="full"):
        services.drill_backup(actor=team.actor, backup_id=backup.pk)
    say(max_clusters=2)
    services.drill_backup(actor=team.actor, backup_id=backup.pk)
    assert named().placed == 2


# --- Where a new one goes --------------------------------------------------------------------------------------------


def test_a_named_region_costs_no_statement_more_than_before(team: Person, region: PretendRegion) -> None:
    say(max_clusters=9)
    create(team, name="first")  # what is read once in a process

    def cost(**overrides: Any) -> int:
        with CaptureQueriesContext(connection) as queries:
            create(team, **overrides)
        return len([one for one in queries if "SAVEPOINT" not in (one["sql"] or "")])

    assert (cost(name="second"), cost(name="third", region="")) == (10, 11)


def test_without_a_name_the_emptiest_in_proportion_is_taken(team: Person, make_region: Make) -> None:
    say(max_clusters=4)
    make_region("berlin", max_clusters=2)
    found = [create(team, name=f"c{number}", region="").cluster.region_id for number in range(6)]
    assert found == ["berlin", "pretend", "pretend", "berlin", "pretend", "pretend"]
    with pytest.raises(NoPlace) as refused:
        create(team, name="one more", region="")
    assert "berlin: it is full" in refused.value.message
    assert "pretend: it is full" in refused.value.message
    assert "local: it takes no new clusters" in refused.value.message


def test_labels_choose_and_a_named_region_must_have_them(team: Person, make_region: Make) -> None:
    make_region("berlin", labels=["country=de", "class=gold"], max_clusters=10)
    make_region("munich", labels=["country=de"], max_clusters=100)
    assert create(team, name="a", region="", labels=("class=gold",)).cluster.region_id == "berlin"
    assert create(team, name="b", region="", labels=("country=de",)).cluster.region_id == "munich"
    with pytest.raises(InvalidSpec, match="cannot take this cluster: it is not class=gold"):
        create(team, name="c", region="munich", labels=("class=gold",))
    with pytest.raises(NoPlace, match="munich: it is not class=silver"):
        create(team, name="c", region="", labels=("class=silver",))
    with pytest.raises(InvalidSpec, match="is no label"):
        create(team, name="c", region="", labels=("gold",))


def test_a_region_that_is_silent_or_in_maintenance_is_passed_over_and_can_be_named(
    team: Person, make_region: Make
) -> None:
    make_region("berlin")
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    assert create(team, name="a", region="").cluster.region_id == "berlin"
    regions.note_silence("berlin", "No answer.")
    with pytest.raises(NoPlace, match=r"berlin: it has not answered since .* pretend: it has been in maintenance"):
        create(team, name="b", region="")
    assert create(team, name="b").cluster.region_id == "pretend"
    assert create(team, name="c", region="berlin").cluster.region_id == "berlin"


def test_a_backup_is_started_in_its_own_region_or_in_any_other(team: Person, make_region: Make) -> None:
    berlin = make_region("berlin", max_clusters=100)
    source = create(team).cluster
    work(source)
    backup = make_backup(source)
    near = create(team, name="near", region="", from_backup=backup.pk).cluster
    far = create(team, name="far", region="berlin", from_backup=backup.pk).cluster
    say(is_open=False)
    elsewhere = create(team, name="elsewhere", region="", from_backup=backup.pk).cluster
    assert [one.region_id for one in (near, far, elsewhere)] == ["pretend", "berlin", "berlin"]
    work(far)
    assert far.was_healthy
    assert "restore" in berlin.verbs()


# --- Maintenance -----------------------------------------------------------------------------------------------------


def test_in_maintenance_wishes_wait_with_a_sentence_and_nothing_is_touched(team: Person, region: PretendRegion) -> None:
    steady = create(team, name="steady").cluster
    work(steady)
    regions.begin_maintenance(actor=SYSTEM, slug="pretend", note="Kubernetes is renewed.")
    region.calls.clear()
    waiting = create(team, name="waiting")
    for cluster in (waiting.cluster, steady):
        work(cluster, turns=3)
    services.suspend_cluster(actor=team.actor, cluster_id=steady.pk)
    work(steady, turns=3)
    view = selectors.operation(team.actor, waiting.pk)
    assert (view.state, view.error_code) == (OperationState.RUNNING, "in_maintenance")
    since = f"{named().maintenance_since:%Y-%m-%d %H:%M}"
    assert view.waits_for.startswith(f"The region “Pretend” has been in maintenance since {since} UTC. Kubernetes is")
    assert region.is_running(steady.pk)
    for chore in (sweeper.keep_registers, sweeper.publish_keys, sweeper.tidy_stores, sweeper.take_inventories):
        chore()
    assert region.verbs() == []
    assert region.register == {}

    regions.end_maintenance(actor=SYSTEM, slug="pretend")
    for cluster in (waiting.cluster, steady):
        cluster.refresh_from_db()
        assert cluster.failures == 0
        work(cluster)
    assert waiting.cluster.was_healthy
    assert not region.is_running(steady.pk)
    waiting.refresh_from_db()
    assert waiting.state == OperationState.SUCCEEDED


def test_what_a_region_in_maintenance_says_wrongly_fails_nobody(team: Person, region: PretendRegion) -> None:
    operation = create(team)
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    region.faults["observe"] = [Permanent("Half an API server."), RegionUnreachable("No answer.")]
    for _ in range(2):
        work(operation.cluster, turns=1)
        view = selectors.operation(team.actor, operation.pk)
        assert (view.is_open, view.error_code, view.can_force) == (True, "in_maintenance", False)


def test_a_deletion_waits_as_well_and_cannot_be_ended_by_force(team: Person, region: PretendRegion) -> None:
    cluster = create(team).cluster
    work(cluster)
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    operation = services.request_deletion(actor=team.actor, cluster_id=cluster.pk, purge=True)
    work(cluster, turns=3)
    assert cluster.pk in region.clusters
    assert not selectors.operation(team.actor, operation.pk).can_force


def test_a_stalled_cluster_stays_stalled_and_its_broker_is_not_started(team: Person, region: PretendRegion) -> None:
    cluster = create(team).cluster
    work(cluster)
    region.faults["start"] = [Permanent("Refused.")]
    region.kill(cluster.pk)
    services.resize_cluster(actor=team.actor, cluster_id=cluster.pk, plan_type="small-plus")
    work(cluster, turns=3)
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    region.calls.clear()
    work(cluster, turns=3)
    assert region.verbs() == []
    stalled = [fact["status"] for fact in cluster.conditions if fact["type"] == ConditionType.STALLED]
    assert stalled == ["True"]


def test_scheduled_backups_wait_for_the_end(team: Person, region: PretendRegion) -> None:
    cluster = make_healthy(create(team).cluster)
    services.update_cluster(actor=team.actor, cluster_id=cluster.pk, backup_every_hours=1)
    regions.begin_maintenance(actor=SYSTEM, slug="pretend")
    assert schedules.start_due_backups() == 0
    regions.end_maintenance(actor=SYSTEM, slug="pretend")
    assert schedules.start_due_backups() == 1


@pytest.mark.parametrize(
    ("acts", "states"),
    [
        ((regions.begin_maintenance, regions.end_maintenance), (RegionState.MAINTENANCE, RegionState.OPEN)),
        ((regions.begin_draining, regions.end_draining), (RegionState.DRAINING, RegionState.OPEN)),
    ],
)
def test_each_act_is_done_once(
    region: PretendRegion, acts: tuple[Callable[..., Region], ...], states: tuple[RegionState, ...]
) -> None:
    with pytest.raises(Conflict):
        acts[1](actor=SYSTEM, slug="pretend")
    for act, state in zip(acts, states, strict=True):
        assert act(actor=SYSTEM, slug="pretend").state is state
        with pytest.raises(Conflict):
            act(actor=SYSTEM, slug="pretend")


# --- Draining --------------------------------------------------------------------------------------------------------


def test_a_draining_region_takes_nothing_new_and_serves_what_is_there(team: Person, region: PretendRegion) -> None:
    cluster = create(team).cluster
    work(cluster)
    regions.begin_draining(actor=SYSTEM, slug="pretend")
    with pytest.raises(InvalidSpec, match="has been emptied since"):
        create(team, name="next")
    services.suspend_cluster(actor=team.actor, cluster_id=cluster.pk)
    work(cluster)
    services.resume_cluster(actor=team.actor, cluster_id=cluster.pk)
    work(cluster)
    assert region.is_running(cluster.pk)


def test_a_region_that_was_closed_is_so_after_it_was_emptied(region: PretendRegion) -> None:
    say(is_open=False)
    regions.begin_draining(actor=SYSTEM, slug="pretend")
    assert regions.end_draining(actor=SYSTEM, slug="pretend").state is RegionState.CLOSED


def test_each_cluster_has_its_way_out(team: Person, make_region: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("plain", "backed up", "going", "resting")
    plain, kept, going, resting = (make_healthy(create(team, name=name).cluster) for name in names)
    backup = make_backup(kept)
    services.drill_backup(actor=team.actor, backup_id=backup.pk)
    services.request_deletion(actor=team.actor, cluster_id=going.pk)
    services.suspend_cluster(actor=team.actor, cluster_id=resting.pk)
    monkeypatch.setattr(settings, "BACKUP_STORE", {})
    assert "no backup store" in ways()["plain"]
    monkeypatch.setattr(settings, "BACKUP_STORE", {"bucket": "ours"})
    assert ways()["plain"] == "Not before another region takes new clusters."
    make_region("berlin")
    with CaptureQueriesContext(connection) as queries:
        found = ways()
    assert len(queries) == 3, "one of them is this test's own"
    assert found["plain"].startswith("Its owner backs it up, starts a new cluster on the backup in berlin")
    assert "once more" in found["backed up"]
    assert found["going"].startswith("By itself: it is removed after")
    assert found["resting"].startswith("Its owner resumes it, backs it up")
    assert next(way for name, way in found.items() if name.startswith("drill")).startswith("By itself: it is a copy")
    assert plain.region_id == "pretend"


def ways() -> dict[str, str]:
    return {one.row.name: one.way for one in regions.departures(named(), 10)}


# --- Silence ---------------------------------------------------------------------------------------------------------


def test_a_region_that_does_not_answer_is_noted_with_the_reason_and_comes_back(
    team: Person, region: PretendRegion
) -> None:
    cluster = create(team).cluster
    region.faults["read_register"] = [RegionUnreachable("The region does not answer.")] * 2
    region.faults["observe"] = [RegionUnreachable("The region does not answer.")] * 2
    sweeper.keep_registers()
    since = named().silent_since
    assert since is not None
    assert named().silence == "The region does not answer."
    region.calls.clear()
    sweeper.publish_keys()
    sweeper.take_inventories()
    assert region.verbs() == ["publish_keys"], "of a silent region only its register is asked for, and keys are tried"
    work(cluster, turns=1)
    message = selectors.operation(team.actor, cluster.operations.get().pk).error_message
    assert message == f"The region does not answer. This has been so since {since:%Y-%m-%d %H:%M} UTC."
    sweeper.keep_registers()
    assert named().silent_since == since
    Cluster.objects.filter(pk=cluster.pk).update(due_at=Now() + timedelta(minutes=5))
    sweeper.keep_registers()
    assert (named().silent_since, named().silence) == (None, "")
    assert named().answered_at is not None
    cluster.refresh_from_db()
    assert cluster.failures == 0
    assert cluster.due_at is not None
    assert Cluster.objects.filter(pk=cluster.pk, due_at__lt=Now() + timedelta(seconds=1)).exists()


def test_an_answer_is_written_only_when_it_is_news(region: PretendRegion) -> None:
    regions.note_answer(named())
    before = named().answered_at
    regions.note_answer(named())
    assert named().answered_at == before


def test_a_region_that_says_something_unexpected_is_no_trouble_of_the_others(make_region: Make) -> None:
    berlin = make_region("berlin")
    region = executor.backend_of("pretend", "pretend")
    assert isinstance(region, PretendRegion)
    region.faults["read_register"] = [ValueError("surprise")]
    sweeper.keep_registers()
    assert named().silence == "Something unexpected went wrong. The clock's log has it."
    assert named("berlin").silent_since is None
    assert berlin.register["beat"]


def test_who_is_late_counts_as_silent_and_is_not_asked_again_before(make_region: Make) -> None:
    make_region("berlin")
    may_answer, has_answered = threading.Event(), threading.Event()
    asked = []

    def question(backend: ClusterBackend) -> str:
        if backend is executor.backend_of("pretend", "pretend"):
            asked.append(backend)
            may_answer.wait(60)
            has_answered.set()
        return "here"

    def answers(seconds: float) -> dict[str, object]:
        found = sweeper.ask_all([named(), named("berlin")], question, seconds)
        return {region.slug: answer for region, answer in found}

    for _ in range(2):
        found = answers(5)
        assert isinstance(found["pretend"], RegionUnreachable)
        assert found["berlin"] == "here"
    assert len(asked) == 1
    may_answer.set()
    assert has_answered.wait(60)
    while isinstance(answers(60)["pretend"], RegionUnreachable):
        pass  # its thread is ending
    assert answers(60) == {"pretend": "here", "berlin": "here"}


def test_a_register_of_nonsense_is_no_trouble_of_the_others(make_region: Make) -> None:
    berlin = make_region("berlin")
    berlin.register = {"beat": "many"}
    sweeper.keep_registers()
    assert executor.backend_of("pretend", "pretend").read_register()["beat"]


def test_the_command_says_of_each_region_whether_it_can_be_used(
    make_region: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_region("berlin")
    check = partial(call_command, "check_regions", "pretend", "berlin")
    check()
    assert capsys.readouterr().out == "berlin: answers\npretend: answers\n"
    region = executor.backend_of("pretend", "pretend")
    assert isinstance(region, PretendRegion)
    region.faults["read_register"] = [RegionUnreachable("Renew the credentials.")]
    with pytest.raises(CommandError, match="1 of 2 regions cannot be used"):
        check()
    assert capsys.readouterr().out == "berlin: answers\npretend: Renew the credentials.\n"
    with pytest.raises(CommandError, match="no region “mars”"):
        call_command("check_regions", "mars")


def test_a_deletion_in_a_region_that_is_silent_can_still_be_ended_by_force(team: Person, region: PretendRegion) -> None:
    cluster = create(team).cluster
    work(cluster)
    operation = services.request_deletion(actor=team.actor, cluster_id=cluster.pk, purge=True)
    region.faults["observe"] = [RegionUnreachable("No answer.")]
    work(cluster, turns=1)
    assert selectors.operation(team.actor, operation.pk).can_force
