"""The planner drives real brokers from wish to wish: what each verb leaves must be what the next one expects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

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
    plan,
)
from provisioning.spec import BackupRef, DesiredCluster, DesiredData, Lifecycle
from tests.provisioning.backends.conftest import LocalStage, desired_release
from tests.provisioning.backends.contract import client

PATIENCE_SECONDS = 240.0


@pytest.fixture
def cluster(local_stage: LocalStage) -> Iterator[DesiredCluster]:
    """A cluster of three brokers, removed afterwards."""
    desired = local_stage.resilient()
    yield desired
    local_stage.backend.delete(desired.cluster_id, epoch=local_stage.next_epoch())


def reach(stage: LocalStage, desired: DesiredCluster) -> list[str]:
    """Take turns until nothing is left to do; the steps on the way."""
    steps: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (action := plan(desired, stage.backend.observe(desired))) is not None:
        if not steps or steps[-1] != action.step.value:
            steps.append(action.step.value)
        if isinstance(action, CloseCluster):
            break
        assert time.monotonic() < deadline, f"{steps}, still {stage.backend.observe(desired)}"
        execute(stage, action, desired)
        time.sleep(0.1)
    return steps


def execute(stage: LocalStage, action: Action, desired: DesiredCluster) -> None:
    backend, epoch = stage.backend, stage.next_epoch()
    match action:
        case PrepareRelease():
            backend.prepare(desired.release)
        case StartEngine(nodes):
            backend.start(desired, nodes, epoch=epoch)
        case StopEngine(nodes):
            backend.stop(desired, nodes, epoch=epoch)
        case RetireBrokers(nodes):
            backend.retire(desired, nodes, epoch=epoch)
        case RemoveCluster():
            backend.delete(desired.cluster_id, epoch=epoch)
        case Rescale():
            backend.rescale(desired, epoch=epoch)
        case Rebalance():
            backend.rebalance(desired, epoch=epoch)
        case TakeBackup():
            backend.back_up(desired, epoch=epoch)
        case RestoreData():
            backend.restore(desired, epoch=epoch)
        case LetGo():
            backend.let_go(desired, epoch=epoch)
        case Wait() | CloseCluster():
            pass


@pytest.mark.engine
@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_the_planner_leads_three_brokers_through_their_life(local_stage: LocalStage, cluster: DesiredCluster) -> None:
    stage, token = local_stage, local_stage.issuer.token(cluster.audience)
    created = reach(stage, cluster)
    with client(stage, stage.backend.observe(cluster)) as engine:
        engine.deploy_waiting(token)
        for number in range(20):
            engine.create_waiting(token, number)

    four = replace(cluster, size=replace(cluster.size, brokers=4))
    grown, shrunk = reach(stage, four), reach(stage, cluster)
    backup = BackupRef(cluster.cluster_id, int(time.time()))
    backed_up = reach(stage, replace(cluster, backup=backup))
    upgraded = replace(cluster, release=desired_release("8.6.0"))
    stage.prepare(upgraded.release)
    rolled = reach(stage, upgraded)
    restored = replace(upgraded, data=DesiredData(1, backup))
    fetched = reach(stage, restored)
    suspended = reach(stage, replace(restored, lifecycle=Lifecycle.SUSPENDED))
    resumed = reach(stage, restored)
    with client(stage, stage.backend.observe(restored)) as engine:
        done = engine.finish_waiting(token, set(range(20)))
    deleted = reach(stage, replace(restored, lifecycle=Lifecycle.DELETED))

    assert created == ["start_engine", "await_healthy"]
    assert grown[0] == "start_engine"
    assert "rescale" in grown
    assert shrunk[0] == "rescale"
    assert shrunk[-1] == "retire_brokers"
    assert backed_up == ["take_backup"]
    assert rolled[0] == "roll_brokers"
    assert "stop_engine" not in rolled
    assert rolled[-1] == "let_go"
    assert fetched[:3] == ["restore_data", "stop_engine", "start_engine"]
    assert fetched[-1] == "let_go"
    assert suspended == ["stop_engine"]
    assert resumed[0] == "start_engine"
    assert done == set(range(20))
    assert deleted == ["remove", "close"]
