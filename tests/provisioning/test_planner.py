"""The planner: tables for the cases people argue about, properties for all the others."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.planner import (
    Action,
    CloseCluster,
    PrepareRelease,
    RemoveCluster,
    StartEngine,
    StopEngine,
    Wait,
    foresee,
    plan,
)
from provisioning.spec import (
    STOP_GRACE_SECONDS,
    DesiredCluster,
    DesiredRelease,
    DesiredSize,
    Lifecycle,
    ObservedCluster,
    ReleaseState,
)
from provisioning.states import StepKind

RELEASE = DesiredRelease("8.5.8", "io.camunda:camunda-zeebe:8.5.8:tar.gz", "ab" * 32, "Main", serves_rest=False)
SIZE = DesiredSize(brokers=1, partitions=1, replication_factor=1, memory_mib=640, heap_mib=160, disk_mib=1024)


def desired(lifecycle: Lifecycle = Lifecycle.RUNNING, *, audience: str = "a/1") -> DesiredCluster:
    return DesiredCluster(UUID(int=1), 1, lifecycle, RELEASE, SIZE, audience=audience, host_name="a.example")


DIGEST = desired().digest
HEALTHY = ObservedCluster(exists=True, running=True, digest=DIGEST, available=True, release=ReleaseState.READY)
STOPPED = ObservedCluster(exists=True, digest=DIGEST, release=ReleaseState.READY)
NOTHING = ObservedCluster()


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (NOTHING, PrepareRelease()),
        (replace(NOTHING, release=ReleaseState.FAILED), PrepareRelease()),
        (replace(NOTHING, release=ReleaseState.PREPARING), Wait(StepKind.PREPARE_RELEASE)),
        (replace(NOTHING, release=ReleaseState.READY), StartEngine()),
        (STOPPED, StartEngine()),
        (replace(HEALTHY, available=False), Wait(StepKind.AWAIT_HEALTHY)),
        (HEALTHY, None),
        (replace(HEALTHY, digest="old"), StopEngine()),
        (replace(HEALTHY, stopping=True, stopping_seconds=1), Wait(StepKind.STOP_ENGINE)),
        (replace(HEALTHY, stopping=True, stopping_seconds=STOP_GRACE_SECONDS), StopEngine()),
    ],
)
def test_a_running_wish_takes_the_next_single_step(observed: ObservedCluster, expected: Action | None) -> None:
    assert plan(desired(), observed) == expected


@pytest.mark.parametrize(
    ("observed", "expected"),
    [(NOTHING, None), (STOPPED, None), (HEALTHY, StopEngine()), (replace(HEALTHY, digest="old"), StopEngine())],
)
def test_a_suspended_wish_only_stops(observed: ObservedCluster, expected: Action | None) -> None:
    assert plan(desired(Lifecycle.SUSPENDED), observed) == expected


@pytest.mark.parametrize(
    ("observed", "expected"), [(NOTHING, CloseCluster()), (STOPPED, RemoveCluster()), (HEALTHY, RemoveCluster())]
)
def test_a_deleted_wish_removes_until_nothing_is_left(observed: ObservedCluster, expected: Action) -> None:
    assert plan(desired(Lifecycle.DELETED), observed) == expected


def test_an_engine_that_must_be_replaced_serves_until_its_successor_can_start() -> None:
    serving = replace(HEALTHY, digest="old", release=ReleaseState.ABSENT)
    assert plan(desired(), serving) == PrepareRelease()
    assert plan(desired(), replace(serving, release=ReleaseState.PREPARING)) == Wait(StepKind.PREPARE_RELEASE)
    assert plan(desired(), replace(serving, release=ReleaseState.READY)) == StopEngine()


def test_a_healthy_engine_is_left_alone_when_its_release_folder_is_gone() -> None:
    assert plan(desired(), replace(HEALTHY, release=ReleaseState.ABSENT)) is None


@pytest.mark.parametrize(
    ("wish", "observed", "steps"),
    [
        (desired(), NOTHING, (StepKind.PREPARE_RELEASE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)),
        (desired(), STOPPED, (StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY)),
        (
            desired(audience="a/2"),
            HEALTHY,
            (StepKind.STOP_ENGINE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY),
        ),
        (desired(Lifecycle.SUSPENDED), HEALTHY, (StepKind.STOP_ENGINE,)),
        (desired(Lifecycle.DELETED), HEALTHY, (StepKind.REMOVE, StepKind.CLOSE)),
        (desired(), HEALTHY, ()),
    ],
)
def test_steps_are_foreseen(wish: DesiredCluster, observed: ObservedCluster, steps: tuple[StepKind, ...]) -> None:
    assert foresee(wish, observed) == steps


sights = st.builds(
    ObservedCluster,
    exists=st.booleans(),
    running=st.booleans(),
    stopping=st.booleans(),
    stopping_seconds=st.floats(0, 100),
    digest=st.sampled_from(["", "old", DIGEST]),
    available=st.booleans(),
    release=st.sampled_from(ReleaseState),
)
wishes = st.builds(desired, st.sampled_from(Lifecycle))


def world_after(action: Action, wish: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    """A world in which every action works and every wait ends; written apart from the planner's own foresight."""
    match action:
        case PrepareRelease() | Wait(StepKind.PREPARE_RELEASE):
            return replace(observed, release=ReleaseState.READY)
        case StartEngine():
            return replace(observed, exists=True, running=True, stopping=False, digest=wish.digest, available=False)
        case Wait(StepKind.AWAIT_HEALTHY):
            return replace(observed, available=True)
        case StopEngine() | Wait(StepKind.STOP_ENGINE):
            return replace(observed, running=False, stopping=False, available=False)
        case RemoveCluster():
            return ObservedCluster(release=observed.release)
        case _:
            return observed


@given(wish=wishes, observed=sights)
def test_from_any_sight_the_loop_comes_to_rest_where_it_was_wished(
    wish: DesiredCluster, observed: ObservedCluster
) -> None:
    for _ in range(8):
        action = plan(wish, observed)
        if action is None or isinstance(action, CloseCluster):
            break
        observed = world_after(action, wish, observed)
    else:
        pytest.fail(f"still not converged: {observed}")
    match wish.lifecycle:
        case Lifecycle.RUNNING:
            assert observed.running
            assert observed.available
            assert observed.digest == wish.digest
        case Lifecycle.SUSPENDED:
            assert not observed.running
        case Lifecycle.DELETED:
            assert not observed.exists


@given(wish=wishes, observed=sights)
def test_an_engine_is_never_started_beside_a_running_one(wish: DesiredCluster, observed: ObservedCluster) -> None:
    if isinstance(plan(wish, observed), StartEngine):
        assert not observed.running
        assert wish.lifecycle is Lifecycle.RUNNING


@given(wish=wishes, observed=sights)
def test_data_is_only_removed_when_deletion_is_wished(wish: DesiredCluster, observed: ObservedCluster) -> None:
    if isinstance(plan(wish, observed), RemoveCluster):
        assert wish.lifecycle is Lifecycle.DELETED
