"""The planner: tables for the cases people argue about, properties for all the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.planner import (
    Action,
    CloseCluster,
    LetGo,
    PrepareRelease,
    Rebalance,
    RemoveCluster,
    Rescale,
    RestoreData,
    RetireBrokers,
    StartEngine,
    StopEngine,
    TakeBackup,
    Wait,
    foresee,
    is_steady,
    plan,
)
from provisioning.spec import (
    STOP_GRACE_SECONDS,
    BackupRef,
    DesiredCluster,
    DesiredData,
    DesiredRelease,
    DesiredSize,
    Lifecycle,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
    Work,
)
from provisioning.states import StepKind

RELEASE = DesiredRelease("8.5.8", "io.camunda:camunda-zeebe:8.5.8:tar.gz", "ab" * 32, "Main", serves_rest=False)
NEXT = replace(RELEASE, version="8.6.0", sha256="cd" * 32)
ROLLING = replace(NEXT, rolls_from=("8.5.8",))
SIZE = DesiredSize(brokers=1, partitions=1, replication_factor=1, memory_mib=640, heap_mib=160, disk_mib=1024)
THREE = DesiredSize(brokers=3, partitions=3, replication_factor=3, memory_mib=640, heap_mib=160, disk_mib=1024)
FOUR = replace(THREE, brokers=4)
BACKUP = BackupRef(UUID(int=2), 7)


def desired(lifecycle: Lifecycle = Lifecycle.RUNNING, *, audience: str = "a/1", **overrides: Any) -> DesiredCluster:
    wish = DesiredCluster(UUID(int=1), 1, lifecycle, RELEASE, SIZE, audience=audience, host_name="a.example")
    return replace(wish, **overrides)


def of_three(**overrides: Any) -> DesiredCluster:
    return desired(**{"size": THREE, **overrides})


DIGEST = desired().digest
DIGEST_OF_THREE = of_three().digest
WELL = ObservedBroker(0, running=True, digest=DIGEST, release="8.5.8", answers=True, healthy=True)
HEALTHY = ObservedCluster(exists=True, brokers=(WELL,), available=True, release=ReleaseState.READY)
STOPPED = ObservedCluster(exists=True, brokers=(ObservedBroker(0, digest=DIGEST),), release=ReleaseState.READY)
NOTHING = ObservedCluster()
NODES = (0, 1, 2)


def seen(*brokers: ObservedBroker, **overrides: Any) -> ObservedCluster:
    """Three brokers, or those given, all well unless told otherwise."""
    everybody = brokers or tuple(well(node) for node in NODES)
    fields = {"exists": True, "available": True, "members": NODES, "release": ReleaseState.READY, **overrides}
    return ObservedCluster(brokers=everybody, **fields)


def well(node: int, **overrides: Any) -> ObservedBroker:
    return replace(WELL, node=node, digest=DIGEST_OF_THREE, **overrides)


def down(node: int, **overrides: Any) -> ObservedBroker:
    return ObservedBroker(node, digest=DIGEST_OF_THREE, release="8.5.8", **overrides)


def one(**overrides: Any) -> ObservedCluster:
    """The healthy cluster of one broker, with that broker changed."""
    return replace(HEALTHY, brokers=(replace(WELL, **overrides),))


# --- one broker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (NOTHING, PrepareRelease()),
        (replace(NOTHING, release=ReleaseState.FAILED), PrepareRelease()),
        (replace(NOTHING, release=ReleaseState.PREPARING), Wait(StepKind.PREPARE_RELEASE)),
        (replace(NOTHING, release=ReleaseState.READY), StartEngine((0,))),
        (STOPPED, StartEngine((0,))),
        (replace(HEALTHY, available=False), Wait(StepKind.AWAIT_HEALTHY)),
        (HEALTHY, None),
        (one(digest="old"), StopEngine((0,))),
        (one(stopping=True, stopping_seconds=1), Wait(StepKind.STOP_ENGINE)),
        (one(stopping=True, stopping_seconds=STOP_GRACE_SECONDS), StopEngine((0,))),
    ],
)
def test_a_running_wish_takes_the_next_single_step(observed: ObservedCluster, expected: Action | None) -> None:
    assert plan(desired(), observed) == expected


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (NOTHING, None),
        (STOPPED, None),
        (HEALTHY, StopEngine((0,))),
        (one(digest="old"), StopEngine((0,))),
        (replace(STOPPED, entrance=True), StopEngine(())),
        (replace(STOPPED, entrance=False), None),
    ],
)
def test_a_suspended_wish_only_stops(observed: ObservedCluster, expected: Action | None) -> None:
    assert plan(desired(Lifecycle.SUSPENDED), observed) == expected


@pytest.mark.parametrize(
    ("observed", "expected"), [(NOTHING, CloseCluster()), (STOPPED, RemoveCluster()), (HEALTHY, RemoveCluster())]
)
def test_a_deleted_wish_removes_until_nothing_is_left(observed: ObservedCluster, expected: Action) -> None:
    assert plan(desired(Lifecycle.DELETED), observed) == expected


def test_an_engine_that_must_be_replaced_serves_until_its_successor_can_start() -> None:
    serving = replace(one(digest="old"), release=ReleaseState.ABSENT)
    assert plan(desired(), serving) == PrepareRelease()
    assert plan(desired(), replace(serving, release=ReleaseState.PREPARING)) == Wait(StepKind.PREPARE_RELEASE)
    assert plan(desired(), replace(serving, release=ReleaseState.READY)) == StopEngine((0,))


def test_a_healthy_engine_is_left_alone_when_its_release_folder_is_gone() -> None:
    assert plan(desired(), replace(HEALTHY, release=ReleaseState.ABSENT)) is None


# --- several brokers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (replace(NOTHING, release=ReleaseState.READY), StartEngine(NODES)),
        (seen(), None),
        (seen(entrance=True), None),
        (seen(entrance=False), StartEngine(())),
        (seen(well(0), down(1), well(2)), StartEngine((1,))),
        (seen(well(0), well(1, healthy=False), well(2)), Wait(StepKind.AWAIT_HEALTHY)),
        (seen(available=False), Wait(StepKind.AWAIT_HEALTHY)),
        (seen(is_balanced=False), Rebalance()),
    ],
)
def test_three_brokers_run_together(observed: ObservedCluster, expected: Action | None) -> None:
    assert plan(of_three(), observed) == expected


def test_brokers_are_replaced_one_by_one_and_only_while_all_the_others_are_well() -> None:
    wish = of_three(audience="a/2")
    ahead = well(2, release="8.5.8")
    assert plan(wish, seen()) == StopEngine((2,), StepKind.ROLL_BROKERS)
    stopping = seen(well(0), well(1), well(2, stopping=True, healthy=False))
    assert plan(wish, stopping) == Wait(StepKind.ROLL_BROKERS)
    assert plan(wish, seen(well(0), well(1), down(2))) == StartEngine((2,), StepKind.ROLL_BROKERS)
    renewed = replace(ahead, digest=wish.digest)
    booting = seen(well(0), well(1), replace(renewed, healthy=False))
    assert plan(wish, booting) == Wait(StepKind.ROLL_BROKERS)
    assert plan(wish, seen(well(0), well(1), renewed)) == StopEngine((1,), StepKind.ROLL_BROKERS)
    lost = seen(well(0), down(1), renewed)
    assert plan(wish, lost) == StartEngine((1,), StepKind.ROLL_BROKERS), "a second one was taken away"


def test_a_release_that_cannot_work_beside_the_former_one_replaces_all_brokers_at_once() -> None:
    assert plan(of_three(release=NEXT), seen()) == StopEngine(NODES)
    assert plan(of_three(release=ROLLING), seen()) == StopEngine((2,), StepKind.ROLL_BROKERS)
    half = seen(well(0, stopping=True), down(1), down(2))
    assert plan(of_three(release=NEXT), half) == Wait(StepKind.STOP_ENGINE), "the first started beside the last"


def test_a_release_that_is_taken_back_ends_only_the_broker_that_tried_it() -> None:
    """A stop of all would be an outage, and would put a copy from before beside brokers that have said yes since."""
    tried = replace(well(2), digest="later", release="8.6.0", healthy=False)
    assert plan(of_three(), seen(well(0), well(1), tried)) == StopEngine((2,), StepKind.ROLL_BROKERS)
    stopping = replace(tried, stopping=True)
    assert plan(of_three(), seen(well(0), well(1), stopping)) == Wait(StepKind.ROLL_BROKERS)
    flickering = seen(well(0), well(1, healthy=False), stopping)
    assert plan(of_three(), flickering) == Wait(StepKind.ROLL_BROKERS), "one bad look stopped all that serve"
    ended = replace(tried, running=False, answers=False)
    assert plan(of_three(), seen(well(0), well(1), ended)) == StartEngine((2,), StepKind.ROLL_BROKERS)
    joining = well(3, healthy=False)
    assert plan(of_three(size=FOUR), seen(well(0), well(1), tried, joining)) == StopEngine((2,), StepKind.ROLL_BROKERS)


@pytest.mark.parametrize(
    "others",
    [
        (well(0), well(1, healthy=False)),
        (well(0), down(1)),
        (well(0), replace(well(1), stopping=True)),
        (well(0), replace(well(1), digest="old")),
        (well(0), replace(well(1), digest="later", release="8.6.0")),
    ],
)
def test_all_are_replaced_when_those_that_cannot_work_beside_them_are_many_or_the_others_not_well(
    others: tuple[ObservedBroker, ...],
) -> None:
    tried = replace(well(2), digest="later", release="8.6.0")
    running = tuple(one.node for one in (*others, tried) if one.running)
    assert plan(of_three(), seen(*others, tried)) == StopEngine(running)


def test_a_sick_broker_is_replaced_first_and_alone() -> None:
    """Else it would keep all from being replaced, be it that it is sick of just what the change would mend."""
    wish = of_three(audience="a/2")
    renewed = replace(well(2), digest=wish.digest)
    sick = well(0, healthy=False)
    assert plan(wish, seen(sick, well(1), well(2))) == StopEngine((0,), StepKind.ROLL_BROKERS)
    assert plan(wish, seen(sick, well(1), well(2), available=False)) == StopEngine((0,), StepKind.ROLL_BROKERS)
    assert plan(wish, seen(sick, well(1), renewed)) == StopEngine((0,), StepKind.ROLL_BROKERS)
    assert plan(of_three(release=ROLLING), seen(sick, well(1), well(2))) == StopEngine((0,), StepKind.ROLL_BROKERS)
    two = seen(sick, well(1, healthy=False), well(2))
    assert plan(wish, two) == Wait(StepKind.ROLL_BROKERS), "a second one was taken away"
    current = seen(well(0), well(1), replace(renewed, healthy=False))
    assert plan(wish, current) == Wait(StepKind.ROLL_BROKERS), "one of those that serve was taken away"
    assert plan(wish, seen(available=False)) == Wait(StepKind.ROLL_BROKERS)
    joining = seen(well(0), well(1), well(2), well(3, healthy=False))
    assert plan(replace(wish, size=FOUR), joining) == StopEngine((3,), StepKind.ROLL_BROKERS)


LATER = of_three(release=ROLLING)


@pytest.mark.parametrize(
    ("wish", "observed"),
    [
        (LATER, seen(entrance=False, release=ReleaseState.PREPARING)),
        (LATER, seen(entrance=False)),
        (of_three(release=NEXT), seen(entrance=False)),
        (of_three(), seen(well(0), down(1), well(2), entrance=False)),
        (of_three(), seen(well(0), down(1), well(2), entrance=False, release=ReleaseState.ABSENT)),
        (of_three(), seen(well(0), well(1), well(2, stopping=True), entrance=False)),
        (of_three(data=DesiredData(5, BACKUP)), seen(entrance=False, data=Work.RUNNING)),
    ],
)
def test_a_lost_entrance_is_opened_again_whatever_else_is_under_way(
    wish: DesiredCluster, observed: ObservedCluster
) -> None:
    assert plan(wish, observed) == StartEngine((), StepKind.START_ENGINE)
    assert plan(wish, replace(observed, entrance=True)) != StartEngine((), StepKind.START_ENGINE)


def test_an_entrance_is_not_opened_while_all_brokers_end() -> None:
    ending = seen(*(well(node, stopping=True) for node in NODES), entrance=False)
    assert plan(of_three(release=NEXT), ending) == Wait(StepKind.STOP_ENGINE)


def test_a_new_broker_is_started_before_the_engine_is_told_of_it() -> None:
    wish = of_three(size=FOUR)
    assert plan(wish, seen()) == StartEngine((3,))
    joined = [well(node) for node in NODES]
    assert plan(wish, seen(*joined, well(3, answers=False, healthy=False))) == Wait(StepKind.AWAIT_HEALTHY)
    assert plan(wish, seen(*joined, well(3, healthy=False))) == Rescale()
    assert plan(wish, seen(*joined, well(3, healthy=False), is_rescaling=True)) == Wait(StepKind.RESCALE)
    assert plan(wish, seen(*joined, well(3), members=(0, 1, 2, 3))) is None


def test_a_broker_goes_only_when_the_engine_has_let_it_go() -> None:
    everybody = [well(node) for node in range(4)]
    assert plan(of_three(), seen(*everybody, members=(0, 1, 2, 3))) == Rescale()
    dead = seen(*everybody[:3], down(3), members=(0, 1, 2, 3))
    assert plan(of_three(), dead) == StartEngine((3,)), "what it holds has to be handed over"
    assert plan(of_three(), seen(*everybody)) == RetireBrokers((3,))
    assert plan(of_three(), seen(*everybody[:3], down(3))) == RetireBrokers((3,))


def test_an_engine_that_does_not_say_whom_it_counts_on_has_let_nobody_go() -> None:
    everybody = [well(node) for node in range(4)]
    assert plan(of_three(), seen(*everybody, members=())) == Wait(StepKind.AWAIT_HEALTHY)
    assert plan(of_three(), seen(*everybody[:3], down(3), members=())) == Wait(StepKind.AWAIT_HEALTHY)
    # A single broker is not asked, and the region asks it before it removes anything.
    left = replace(HEALTHY, brokers=(WELL, ObservedBroker(1)))
    assert plan(desired(), left) == RetireBrokers((1,))


# --- data -------------------------------------------------------------------------------------------------------------

RESTORED = of_three(data=DesiredData(5, BACKUP))


def stale(**overrides: Any) -> ObservedCluster:
    """Three brokers that work on what was before a restore."""
    return seen(*(well(node, has_wished_data=False) for node in NODES), **overrides)


def test_the_former_data_is_served_until_all_of_the_wished_is_there() -> None:
    assert plan(RESTORED, stale(data=Work.ABSENT)) == RestoreData()
    assert plan(RESTORED, stale(data=Work.RUNNING)) == Wait(StepKind.RESTORE_DATA)
    assert plan(RESTORED, stale(data=Work.FAILED)) == RestoreData()
    assert plan(RESTORED, stale(data=Work.ABSENT, release=ReleaseState.ABSENT)) == PrepareRelease()
    assert plan(RESTORED, stale()) == StopEngine(NODES)
    ended = seen(*(down(node, has_wished_data=False) for node in NODES), available=False)
    assert plan(RESTORED, ended) == StartEngine(NODES, StepKind.START_ENGINE)


def test_no_broker_on_former_data_runs_beside_one_on_the_wished() -> None:
    mixed = seen(well(0), well(1, has_wished_data=False), down(2))
    action = plan(RESTORED, mixed)
    assert isinstance(action, StopEngine)
    assert 1 in action.nodes


def test_what_was_kept_is_let_go_when_all_is_well() -> None:
    assert plan(of_three(), seen(keeps_former=True)) == LetGo()
    assert plan(of_three(), seen(keeps_former=True, available=False)) == Wait(StepKind.AWAIT_HEALTHY)


def test_a_backup_is_taken_by_a_healthy_engine() -> None:
    wish = of_three(backup=BACKUP)
    assert plan(wish, seen()) == TakeBackup()
    assert plan(wish, seen(backup=Work.RUNNING)) == Wait(StepKind.TAKE_BACKUP)
    assert plan(wish, seen(backup=Work.FAILED)) == TakeBackup()
    assert plan(wish, seen(backup=Work.DONE)) is None
    assert plan(wish, seen(available=False)) == Wait(StepKind.AWAIT_HEALTHY)
    assert plan(wish, seen(well(0), down(1), well(2))) == StartEngine((1,))


# --- foreseen ---------------------------------------------------------------------------------------------------------

NEW = (StepKind.PREPARE_RELEASE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)
REPLACED = (StepKind.STOP_ENGINE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)


@pytest.mark.parametrize(
    ("wish", "observed", "steps"),
    [
        (desired(), NOTHING, NEW),
        (of_three(), NOTHING, NEW),
        (desired(), STOPPED, (StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)),
        (desired(audience="a/2"), HEALTHY, REPLACED),
        (of_three(audience="a/2"), seen(), (StepKind.ROLL_BROKERS, StepKind.AWAIT_HEALTHY)),
        (desired(Lifecycle.SUSPENDED), HEALTHY, (StepKind.STOP_ENGINE,)),
        (desired(Lifecycle.DELETED), HEALTHY, (StepKind.REMOVE, StepKind.CLOSE)),
        (desired(), HEALTHY, ()),
        (of_three(size=FOUR), seen(), (StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY, StepKind.RESCALE)),
        (
            of_three(),
            seen(*(well(node) for node in range(4)), members=(0, 1, 2, 3)),
            (StepKind.RESCALE, StepKind.RETIRE_BROKERS),
        ),
        (desired(release=NEXT), HEALTHY, (*REPLACED, StepKind.LET_GO)),
        (of_three(release=NEXT), seen(), (*REPLACED, StepKind.LET_GO)),
        (of_three(release=ROLLING), seen(), (StepKind.ROLL_BROKERS, StepKind.AWAIT_HEALTHY, StepKind.LET_GO)),
        (of_three(backup=BACKUP), seen(), (StepKind.TAKE_BACKUP,)),
        (RESTORED, stale(data=Work.ABSENT), (StepKind.RESTORE_DATA, *REPLACED, StepKind.LET_GO)),
    ],
)
def test_steps_are_foreseen(wish: DesiredCluster, observed: ObservedCluster, steps: tuple[StepKind, ...]) -> None:
    assert foresee(wish, observed) == steps


def test_what_is_foreseen_ends_where_it_is_not_known_what_a_broker_was_started_with() -> None:
    unknown = seen(replace(well(0), digest="", healthy=False), well(1, healthy=False), well(2), available=False)
    assert foresee(of_three(), unknown) == (StepKind.ROLL_BROKERS, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)


def test_what_is_foreseen_ends_while_a_broker_that_is_replaced_is_stopping() -> None:
    tried = replace(well(2, stopping=True), digest="later", release="8.6.0")
    replaced = seen(well(0), well(1), well(2, stopping=True, healthy=False))
    assert foresee(of_three(audience="a/2"), replaced) == (StepKind.ROLL_BROKERS, StepKind.AWAIT_HEALTHY)
    assert StepKind.STOP_ENGINE not in foresee(of_three(), seen(well(0), well(1), tried))


def test_a_digest_is_the_one_that_engines_on_this_machine_were_started_with() -> None:
    """Else every engine would be restarted by nothing but a new Flowplane."""
    assert DIGEST == "9ea500f23625498b"
    assert of_three(size=FOUR).digest == DIGEST_OF_THREE


# --- properties -------------------------------------------------------------------------------------------------------

MAX_NODES = 4
WISHES = st.builds(
    desired,
    st.sampled_from(Lifecycle),
    size=st.sampled_from([SIZE, THREE, FOUR]),
    release=st.sampled_from([RELEASE, NEXT, ROLLING]),
    data=st.sampled_from([DesiredData(), DesiredData(5, BACKUP)]),
    backup=st.sampled_from([None, BACKUP]),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[DesiredCluster, ObservedCluster]:
    """A wish and any sight at all, however it may have come about."""
    wish = draw(WISHES)
    broker = st.builds(
        ObservedBroker,
        node=st.just(0),
        running=st.booleans(),
        stopping=st.booleans(),
        stopping_seconds=st.floats(0, 100),
        digest=st.sampled_from(["", "old", wish.digest]),
        release=st.sampled_from(["", "8.5.8", "8.6.0"]),
        answers=st.booleans(),
        healthy=st.booleans(),
        has_wished_data=st.booleans(),
    )
    nodes = draw(st.sets(st.integers(0, MAX_NODES - 1)))
    brokers = tuple(replace(draw(broker), node=node) for node in sorted(nodes))
    sight = st.builds(
        ObservedCluster,
        exists=st.just(bool(nodes)),
        brokers=st.just(brokers),
        entrance=st.sampled_from([None, True, False]),
        available=st.booleans(),
        members=st.sampled_from([(), *{tuple(sorted(nodes)), tuple(wish.nodes)}]),
        is_rescaling=st.booleans(),
        is_balanced=st.booleans(),
        release=st.sampled_from(ReleaseState),
        data=st.sampled_from(Work),
        backup=st.sampled_from(Work),
        keeps_former=st.booleans(),
    )
    return wish, draw(sight)


def world_after(action: Action, wish: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    """A world in which every action works and every wait ends; written apart from the planner's own foresight."""
    brokers = {broker.node: broker for broker in observed.brokers}
    match action:
        case StartEngine(nodes):
            brokers |= {
                node: ObservedBroker(node, running=True, digest=wish.digest, release=wish.release.version)
                for node in nodes
            }
            entrance = None if observed.entrance is None else True
            return with_brokers(observed, brokers, exists=True, entrance=entrance, available=False)
        case StopEngine(nodes):
            brokers |= {node: replace(brokers[node], running=False, stopping=False) for node in nodes}
            entrance = observed.entrance and any(broker.running for broker in brokers.values())
            return with_brokers(observed, brokers, available=False, entrance=entrance)
        case RetireBrokers(nodes):
            return with_brokers(observed, {node: one for node, one in brokers.items() if node not in nodes})
        case Rescale() | Wait(StepKind.RESCALE):
            return replace(observed, members=tuple(wish.nodes), is_rescaling=False)
        case RemoveCluster():
            return ObservedCluster(release=observed.release)
        case _:
            return world_in_time(action.step, observed, brokers)


def world_in_time(step: StepKind, observed: ObservedCluster, brokers: dict[int, ObservedBroker]) -> ObservedCluster:
    match step:
        case StepKind.PREPARE_RELEASE:
            return replace(observed, release=ReleaseState.READY)
        case StepKind.RESTORE_DATA:
            return replace(observed, data=Work.DONE)
        case StepKind.TAKE_BACKUP:
            return replace(observed, backup=Work.DONE)
        case StepKind.REBALANCE:
            return replace(observed, is_balanced=True)
        case StepKind.LET_GO:
            return replace(observed, keeps_former=False)
        case _:
            settled = {
                node: replace(one, running=one.running and not one.stopping, stopping=False, answers=True, healthy=True)
                for node, one in brokers.items()
            }
            running = tuple(node for node, one in settled.items() if one.running)
            return with_brokers(observed, settled, available=bool(running), members=observed.members or running)


def with_brokers(observed: ObservedCluster, brokers: dict[int, ObservedBroker], **overrides: Any) -> ObservedCluster:
    return replace(observed, brokers=tuple(brokers[node] for node in sorted(brokers)), **overrides)


@given(worlds())
def test_from_any_sight_the_loop_comes_to_rest_where_it_was_wished(
    world: tuple[DesiredCluster, ObservedCluster],
) -> None:
    wish, observed = world
    for _ in range(40):
        action = plan(wish, observed)
        if action is None or isinstance(action, CloseCluster):
            break
        observed = world_after(action, wish, observed)
    else:
        pytest.fail(f"still not converged: {observed}")
    match wish.lifecycle:
        case Lifecycle.RUNNING:
            assert is_steady(wish, observed)
            assert {one.node for one in observed.brokers} == set(wish.nodes)
            assert all(one.running and one.digest == wish.digest for one in observed.brokers)
            assert all(one.has_wished_data for one in observed.brokers)
            assert observed.data is Work.DONE
            assert not observed.keeps_former
        case Lifecycle.SUSPENDED:
            assert not observed.running
        case Lifecycle.DELETED:
            assert not observed.exists


@given(worlds())
def test_what_is_foreseen_ends(world: tuple[DesiredCluster, ObservedCluster]) -> None:
    steps = foresee(*world)
    assert len(steps) < 30


@given(worlds())
def test_an_engine_is_never_started_beside_a_running_one(world: tuple[DesiredCluster, ObservedCluster]) -> None:
    wish, observed = world
    if isinstance(action := plan(wish, observed), StartEngine):
        assert wish.lifecycle is Lifecycle.RUNNING
        if not action.nodes:
            assert observed.entrance is False
            assert any(one.running and not one.stopping for one in observed.brokers)
            return
        assert not any(observed.broker(node).running for node in action.nodes)
        assert observed.release is ReleaseState.READY
        assert observed.data is Work.DONE
        assert not any(one.running and not one.has_wished_data for one in observed.brokers if one.node in wish.nodes)


@given(worlds())
def test_one_broker_at_a_time_is_taken_from_a_serving_engine(world: tuple[DesiredCluster, ObservedCluster]) -> None:
    wish, observed = world
    action = plan(wish, observed)
    if isinstance(action, StopEngine) and action.step is StepKind.ROLL_BROKERS:
        fresh = [node for node in action.nodes if not observed.broker(node).stopping]
        assert len(fresh) <= 1
        if fresh:
            counted = set(observed.members or wish.nodes)
            others = [observed.broker(node) for node in counted - {*action.nodes}]
            assert all(one.running and one.healthy and not one.stopping for one in others)
            assert is_steady(wish, observed) or not observed.broker(fresh[0]).healthy or is_alien(wish, observed, fresh)
            assert wish.size.replication_factor > 1


def is_alien(wish: DesiredCluster, observed: ObservedCluster, nodes: list[int]) -> bool:
    """Whether these brokers are of a release that the wished one does not work beside."""
    fitting = {wish.release.version, *wish.release.rolls_from}
    return all(observed.broker(node).release not in fitting for node in nodes)


@given(worlds())
def test_data_is_only_removed_when_that_is_wished(world: tuple[DesiredCluster, ObservedCluster]) -> None:
    wish, observed = world
    action = plan(wish, observed)
    if isinstance(action, RemoveCluster):
        assert wish.lifecycle is Lifecycle.DELETED
    if isinstance(action, RetireBrokers):
        assert not set(action.nodes) & {*wish.nodes, *observed.members}
        assert observed.members or wish.size.brokers == 1
    if isinstance(action, LetGo):
        assert is_steady(wish, observed)
