"""Several brokers as processes: all or none, one of each, killed at every step. Sleeping programs stand in for Java."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest

from common.errors import Permanent, Temporary
from provisioning.backends.engine import admin
from provisioning.backends.engine.admin import EngineAdmin
from provisioning.backends.engine.door import Answer, Limits
from provisioning.backends.engine.health import Topology, read_topology
from provisioning.backends.engine.origins import Contents, Origin
from provisioning.backends.local import LocalBackend, admission, ending, restoring, starting, watch
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.contents import read_contents, write_contents
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, Ports
from provisioning.backends.local.record import EngineRecord, running
from provisioning.backends.local.release import Releases
from provisioning.backends.local.stop_all import stop_all
from provisioning.errors import NoCapacity, PortTaken, RegionUnreachable
from provisioning.spec import BackupRef, DesiredCluster, DesiredData, Lifecycle, ReleaseState
from tests.provisioning.backends.conftest import (
    SMALL,
    TRIO,
    LocalStage,
    desired_release,
    environment_of,
    ignores_termination,
    wait_until,
)
from tests.provisioning.backends.contract import PATIENCE_SECONDS, await_sight, find, follow

# 640 MiB for each broker, and what the entrance takes.
ROOM_FOR_THREE_MIB = 3 * TRIO.memory_mib + admission.ENTRANCE_MIB


@dataclass
class Standins:
    """A region in which a sleeping program is started in place of each broker."""

    stage: LocalStage

    @property
    def backend(self) -> LocalBackend:
        return self.stage.backend

    def folder(self, desired: DesiredCluster) -> ClusterFolder:
        return self.stage.region.cluster(desired.cluster_id)

    def start(self, desired: DesiredCluster, *nodes: int) -> None:
        self.backend.start(desired, nodes or desired.nodes, epoch=self.stage.next_epoch())

    def stop(self, desired: DesiredCluster, *nodes: int) -> None:
        self.backend.stop(desired, nodes or desired.nodes, epoch=self.stage.next_epoch())

    def records(self, desired: DesiredCluster) -> dict[int, EngineRecord]:
        folder = self.folder(desired)
        found = {broker.node: running(broker) for broker in folder.brokers()}
        return {node: record for node, record in found.items() if record is not None}

    def with_settings(self, **overrides: object) -> LocalBackend:
        return LocalBackend(replace(self.stage.settings, **overrides))  # type: ignore[arg-type]


@pytest.fixture
def standins(empty_stage: LocalStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standins]:
    """Every release counts as ready, and runs a program that sleeps."""
    home = empty_stage.settings.region_home
    sleeper = home / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec /bin/sleep 300\n")
    sleeper.chmod(0o755)
    program = Program(sleeper, home, "x.Main")
    monkeypatch.setattr(Releases, "program", lambda *_: program)
    monkeypatch.setattr(Releases, "state", lambda *_: (ReleaseState.READY, ""))
    stage = LocalStage(replace(empty_stage.settings, engine_user=None, memory_budget_mib=10_000))
    yield Standins(stage)
    stop_all(home, grace_seconds=5)


# --- starting ---------------------------------------------------------------------------------------------------------


def test_three_brokers_get_folders_ports_locks_and_records_of_their_own_and_one_entrance(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    folder, records = standins.folder(cluster), standins.records(cluster)
    entrance = running(folder.entrance)
    assert entrance is not None
    blocks = [record.ports.first for record in (*records.values(), entrance)]

    assert list(records) == [0, 1, 2]
    assert len(set(blocks)) == 4
    assert folder.broker(0).path == folder.path
    assert [broker.path.name for broker in folder.brokers()[1:]] == ["broker-1", "broker-2"]
    assert sorted(path.name.removeprefix(f"{cluster.cluster_id}.") for path in folder.locks()) == [
        "1.lock", "2.lock", "entrance.lock", "lock",
    ]  # fmt: skip
    assert f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{entrance.identity.pid}/status").read_text()
    assert environment_of(entrance) == {"LANG": "C.UTF-8"}


def test_each_broker_knows_its_number_and_all_the_others(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    records = standins.records(cluster)
    contacts = ",".join(f"127.0.0.1:{record.ports.internal}" for record in records.values())

    for node, record in records.items():
        variables = environment_of(record)
        assert variables["ZEEBE_BROKER_CLUSTER_NODEID"] == str(node)
        assert variables["ZEEBE_BROKER_CLUSTER_CLUSTERSIZE"] == "3"
        assert variables["ZEEBE_BROKER_CLUSTER_PARTITIONSCOUNT"] == "3"
        assert variables["ZEEBE_BROKER_CLUSTER_REPLICATIONFACTOR"] == "3"
        assert variables["ZEEBE_BROKER_CLUSTER_INITIALCONTACTPOINTS"] == contacts
        assert variables["ZEEBE_BROKER_CLUSTER_CLUSTERNAME"] == str(cluster.cluster_id)
        assert variables["ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH"] == str(cluster.cluster_id)


def test_clients_are_led_to_all_brokers_and_to_rest_where_it_is_served(standins: Standins) -> None:
    old = standins.stage.resilient()
    new = replace(standins.stage.resilient(), release=desired_release("8.6.0"))
    for cluster in (old, new):
        standins.start(cluster)
    routes = [json.loads(standins.folder(one).entrance.routes.read_text())["routes"] for one in (old, new)]
    ends = [standins.backend.observe(one).endpoint for one in (old, new)]

    assert [len(one) for one in routes] == [1, 2]
    assert routes[0][0]["to"] == [record.ports.grpc for record in standins.records(old).values()]
    assert routes[1][1]["to"] == [record.ports.rest for record in standins.records(new).values()]
    assert [end.grpc if end else "" for end in ends] == [f"localhost:{one[0]['listen']}" for one in routes]
    assert [end.rest if end else "" for end in ends] == ["", f"https://localhost:{routes[1][1]['listen']}"]


def test_a_start_of_three_without_room_for_all_starts_none_and_leaves_nothing(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    short = standins.with_settings(memory_budget_mib=ROOM_FOR_THREE_MIB - 1)

    with pytest.raises(NoCapacity, match=f"these 3 brokers need {ROOM_FOR_THREE_MIB} MiB") as memory:
        short.start(cluster, cluster.nodes, epoch=1)
    first = standins.stage.settings.ports.start
    with pytest.raises(NoCapacity, match="Ports are short") as ports:
        standins.with_settings(ports=range(first, first + 19)).start(cluster, cluster.nodes, epoch=1)
    huge = replace(cluster, size=replace(TRIO, disk_mib=10**9))
    with pytest.raises(NoCapacity, match="needs 3000000512 MiB") as disk:
        standins.backend.start(huge, huge.nodes, epoch=1)

    assert [one.value.details["resource"] for one in (memory, ports, disk)] == ["memory", "ports", "disk"]
    assert not standins.folder(cluster).path.exists()
    assert not standins.folder(cluster).locks()
    standins.with_settings(memory_budget_mib=ROOM_FOR_THREE_MIB).start(cluster, cluster.nodes, epoch=1)
    assert len(standins.records(cluster)) == 3


def test_what_runs_counts_and_only_what_starts_is_asked_for(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    tight = standins.with_settings(memory_budget_mib=ROOM_FOR_THREE_MIB)
    tight.start(cluster, cluster.nodes, epoch=1)
    kill(standins, cluster, 1)

    tight.start(cluster, [1], epoch=1)
    with pytest.raises(NoCapacity, match="this engine needs 640 MiB"):
        tight.start(replace(cluster, size=replace(TRIO, brokers=4)), [3], epoch=1)
    assert list(standins.records(cluster)) == [0, 1, 2]


def kill(standins: Standins, cluster: DesiredCluster, node: int) -> None:
    record = standins.records(cluster)[node]
    record.identity.signal(signal.SIGKILL)
    assert record.identity.wait(5)


def test_a_port_of_one_broker_that_another_program_took_holds_all_back(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    taken = standins.records(cluster)[2].ports.rest
    standins.stop(cluster)
    wait_until(lambda: not standins.records(cluster))

    with closing(socket.create_server(("127.0.0.1", taken))), pytest.raises(PortTaken, match=f"Port {taken} belongs"):
        standins.start(cluster)
    assert not standins.records(cluster)


@pytest.mark.parametrize("launches", [0, 1, 2, 3])
def test_a_start_that_is_killed_between_two_launches_is_completed_by_the_next(
    standins: Standins, launches: int
) -> None:
    cluster = standins.stage.resilient()
    child = os.fork()
    if child == 0:
        with patch.object(starting, "run_launcher", dying_after(launches, starting.run_launcher)):
            standins.start(cluster)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    before = standins.records(cluster)

    standins.start(cluster)
    after = standins.records(cluster)

    assert status == signal.SIGKILL
    assert list(before) == list(range(launches))
    assert list(after) == [0, 1, 2]
    assert all(after[node] == record for node, record in before.items())
    assert standins.backend.observe(cluster).entrance
    assert [standins.stage.count_engines(cluster.cluster_id, node) for node in range(3)] == [1, 1, 1]


def dying_after(count: int, call: Callable[..., None]) -> Callable[..., None]:
    left = [count]

    def run(*arguments: object) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        call(*arguments)

    return run


def test_a_broker_whose_data_is_missing_is_not_started_on_an_empty_folder_and_holds_the_others_back(
    standins: Standins,
) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    standins.stop(cluster)
    wait_until(lambda: not standins.records(cluster))
    shutil.rmtree(standins.folder(cluster).broker(1).data)

    with pytest.raises(RegionUnreachable, match="put the folder back"):
        standins.start(cluster)
    assert not standins.records(cluster)


def test_a_broker_that_lost_its_record_holds_the_others_back_and_is_not_doubled(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    lost = standins.records(cluster)[1]
    standins.folder(cluster).broker(1).record.unlink()
    kill(standins, cluster, 0)

    with pytest.raises(RegionUnreachable, match="runs already"):
        standins.start(cluster)
    assert list(standins.records(cluster)) == [2]
    assert standins.backend.delete(cluster.cluster_id, epoch=standins.stage.next_epoch())
    assert not lost.is_running()


def test_an_engine_from_before_there_were_several_brokers_is_adopted_as_it_runs(standins: Standins) -> None:
    wish = standins.stage.desired(
        cluster_id=UUID(int=1),
        size=replace(SMALL, disk_mib=1024),
        audience=f"{UUID(int=1)}/1",
        host_name=f"{UUID(int=1)}.local.flowplane.localhost",
    )
    standins.start(wish)
    folder = standins.folder(wish)
    make_old(folder)
    before = running(folder.broker(0))

    sight = standins.backend.observe(wish)
    standins.start(wish)

    # As the digest was before there were several brokers: nothing has to restart.
    assert wish.digest == "46b91ec556d86f44"
    assert sight.broker(0).digest == wish.digest
    assert sight.broker(0).has_wished_data
    assert sight.broker(0).release == "8.5.8"
    assert sight.entrance is None
    assert running(folder.broker(0)) == before
    standins.stop(wish)
    wait_until(lambda: not standins.records(wish))
    standins.start(wish)
    assert read_contents(folder.broker(0)) == Contents(Origin(0, None, "8.5.8"))


def make_old(folder: ClusterFolder) -> None:
    """Take away what earlier versions did not write."""
    broker = folder.broker(0)
    record = json.loads(broker.record.read_text())
    broker.record.write_text(json.dumps({key: record[key] for key in record.keys() - {"brokers", "store"}}))
    for path in (folder.card, broker.contents):
        path.unlink()


# --- stopping, and the entrance ---------------------------------------------------------------------------------------


def test_the_entrance_stays_while_a_broker_runs_and_closes_with_the_last(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)

    standins.stop(cluster, 2, 1)
    two_stopped = standins.backend.observe(cluster)
    standins.stop(cluster, 0)
    all_stopped = await_sight(standins.backend, cluster, lambda sight: not sight.running and not sight.entrance)

    assert two_stopped.entrance
    assert all_stopped.last_exit == ""
    assert all_stopped.endpoint == two_stopped.endpoint


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first round the watch looks at nothing for longer than we wait: only a process's own end wakes it."""
    for name in ("SCAN_SECONDS", "LOOK_SECONDS", "LOOK_SOON_SECONDS"):
        monkeypatch.setattr(watch, name, PATIENCE_SECONDS + 20)


# The cluster itself, its brokers and its entrance, and then how each broker is.
FIRST_ROUND = 1 + 4 + 3


@pytest.mark.usefixtures("one_look")
def test_an_entrance_that_died_is_noticed_at_once_and_opened_again_with_nothing_else(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    before = standins.records(cluster)
    entrance = running(standins.folder(cluster).entrance)
    assert entrance is not None
    with follow(standins.backend) as changes:
        await_news(changes, FIRST_ROUND)
        threading.Timer(0.3, entrance.identity.signal, [signal.SIGKILL]).start()
        assert next(changes) == cluster.cluster_id
        while standins.backend.observe(cluster).entrance:
            assert next(changes) == cluster.cluster_id
    standins.backend.start(cluster, [], epoch=standins.stage.next_epoch())

    assert standins.backend.observe(cluster).entrance
    assert standins.records(cluster) == before


def test_an_entrance_is_opened_alone_without_the_release_or_memory_for_a_broker(
    standins: Standins, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    kill(standins, cluster, 1)
    before = standins.records(cluster)
    entrance = running(standins.folder(cluster).entrance)
    assert entrance is not None
    entrance.identity.signal(signal.SIGKILL)
    assert entrance.identity.wait(5)

    def is_not_ready(*_: object) -> Program:
        raise Temporary("The release is not ready.")

    monkeypatch.setattr(Releases, "program", is_not_ready)
    full = standins.with_settings(memory_budget_mib=1)
    later = replace(cluster, release=desired_release("8.6.0"), data=DesiredData(1, BackupRef(cluster.cluster_id, 5)))
    full.start(later, [], epoch=standins.stage.next_epoch())

    sight = standins.backend.observe(cluster)
    assert sight.entrance
    assert [one.running for one in sight.brokers] == [True, False, True]
    assert standins.records(cluster) == before


def await_news(changes: Iterator[UUID], count: int) -> None:
    """Take the first changes, which tell of what there is already."""
    for _ in range(count):
        next(changes)


def test_an_entrance_alone_is_stopped_too(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    for node in range(3):
        kill(standins, cluster, node)
    left = standins.backend.observe(cluster)
    standins.backend.stop(cluster, [], epoch=standins.stage.next_epoch())

    assert left.entrance
    await_sight(standins.backend, cluster, lambda sight: not sight.entrance)


@pytest.mark.usefixtures("one_look")
def test_every_brokers_end_is_noticed_at_once_and_named(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    with follow(standins.backend) as changes:
        await_news(changes, FIRST_ROUND)
        for node in (2, 0):
            threading.Timer(0.2, kill, [standins, cluster, node]).start()
            assert next(changes) == cluster.cluster_id
            while standins.backend.observe(cluster).broker(node).running:
                assert next(changes) == cluster.cluster_id
    sight = standins.backend.observe(cluster)

    assert [broker.node for broker in sight.brokers if broker.running] == [1]
    assert sight.last_exit in {
        f"Broker {number} of 3 ended without being told to: its process was killed, or gave up." for number in (1, 3)
    }


def test_a_region_is_stopped_with_all_brokers_and_entrances(standins: Standins) -> None:
    clusters = [standins.stage.resilient(), standins.stage.desired()]
    for cluster in clusters:
        standins.start(cluster)

    assert stop_all(standins.stage.settings.region_home) == 4
    for cluster in clusters:
        sight = standins.backend.observe(replace(cluster, lifecycle=Lifecycle.SUSPENDED))
        assert not sight.running
        assert not sight.entrance
        assert sight.last_exit == ""


# --- deletion and retirement ------------------------------------------------------------------------------------------


def test_deletion_ends_every_process_of_a_cluster_with_its_notes_or_without(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    folder = standins.folder(cluster)
    entrance = running(folder.entrance)
    assert entrance is not None
    processes = [*standins.records(cluster).values(), entrance]
    folder.broker(1).record.unlink()
    folder.broker(2).record.write_text("{damaged")
    folder.entrance.record.unlink()

    assert standins.backend.delete(cluster.cluster_id, epoch=standins.stage.next_epoch())

    assert not any(process.is_running() for process in processes)
    assert not folder.path.exists()
    assert folder.locks() == [folder.broker(0).lock]
    assert not standins.backend.observe(cluster).exists


def retiring(standins: Standins, cluster: DesiredCluster, members: tuple[int, ...]) -> Any:
    """Have the engine, which is not there, count on these brokers."""
    answer = (Ports(1), Topology(1, members))
    return patch.object(LocalBackend, "_ask_topology", lambda *_, **__: answer)


@pytest.mark.parametrize("step", range(5))
def test_a_retirement_that_is_killed_anywhere_is_seen_and_finished_by_the_next(standins: Standins, step: int) -> None:
    three = standins.stage.resilient()
    four = replace(three, size=replace(TRIO, brokers=4))
    standins.start(four)
    broker = standins.folder(three).broker(3)
    (broker.data / "segment").write_text("data")
    standins.stop(four, 3)
    wait_until(lambda: running(broker) is None)
    child = os.fork()
    if child == 0:
        with retiring(standins, three, (0, 1, 2)), dying_in_retirement(step):
            standins.backend.retire(three, [3], epoch=standins.stage.next_epoch())
        os._exit(0)
    os.waitpid(child, 0)
    while 3 in [one.node for one in standins.backend.observe(three).brokers]:
        with retiring(standins, three, (0, 1, 2)):
            standins.backend.retire(three, [3], epoch=10**6)

    assert not broker.path.exists()
    assert not broker.lock.exists()
    assert not list(standins.stage.region.trash.iterdir())
    assert list(standins.records(three)) == [0, 1, 2]
    targets = json.loads(standins.folder(three).entrance.routes.read_text())["routes"][0]["to"]
    assert len(targets) == 3
    # The number can be used again, and begins with nothing.
    standins.backend.start(four, [3], epoch=10**6)
    assert not (broker.data / "segment").exists()


def dying_in_retirement(step: int) -> Any:
    """Kill this process at one of the things that a retirement does, after it or in the middle of a removal."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    targets: tuple[tuple[Any, str], ...] = (
        (Path, "rename"),
        (Path, "unlink"),
        (ending, "remove"),
        (starting, "write_routes"),
        (restoring, "end"),
    )
    return patch.object(targets[step][0], targets[step][1], die)


def test_a_broker_that_will_not_stop_is_retired_by_force_after_the_grace_period(
    standins: Standins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = standins.stage.settings.region_home / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do /bin/sleep 1; done\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(Releases, "program", lambda *_: Program(stubborn, stubborn.parent, "x.Main"))
    three = standins.stage.resilient()
    standins.start(replace(three, size=replace(TRIO, brokers=4)))
    broker = standins.folder(three).broker(3)
    wait_until(lambda: ignores_termination(standins.records(three)[3].identity))

    with retiring(standins, three, (0, 1, 2)):
        standins.backend.retire(three, [3], epoch=100)
        standins.backend.retire(three, [3], epoch=100)
        asked = standins.backend.observe(three).broker(3)
        note = json.loads(broker.stopping.read_text())
        broker.stopping.write_text(json.dumps({**note, "at": note["at"] - 31}))
        standins.backend.retire(three, [3], epoch=100)
        wait_until(lambda: running(broker) is None)
        standins.backend.retire(three, [3], epoch=100)

    assert asked.running
    assert asked.stopping
    assert not broker.path.exists()
    standins.backend.delete(three.cluster_id, epoch=101)


@pytest.mark.parametrize(
    ("members", "node", "sentence"),
    [
        ((0, 1, 2, 3), 3, "Broker 4 cannot be retired yet: the engine counts on it"),
        ((0, 1), 2, "Broker 3 cannot be retired yet: it is wished"),
        ((), 3, "The engine does not say which brokers it counts on"),
        ((), 0, "The engine does not say which brokers it counts on"),
    ],
)
def test_only_what_the_engine_let_go_and_nobody_wishes_is_retired(
    standins: Standins, members: tuple[int, ...], node: int, sentence: str
) -> None:
    cluster = standins.stage.resilient()
    standins.start(replace(cluster, size=replace(TRIO, brokers=4)))
    with retiring(standins, cluster, members), pytest.raises(Temporary, match=sentence):
        standins.backend.retire(cluster, [node], epoch=standins.stage.next_epoch())
    assert len(standins.records(cluster)) == 4


def test_without_any_brokers_answer_nothing_is_retired_rescaled_or_rebalanced(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    for ask in (standins.backend.rescale, standins.backend.rebalance):
        with pytest.raises(Temporary, match="No broker of the engine answers"):
            ask(cluster, epoch=standins.stage.next_epoch())
    with pytest.raises(Temporary, match="No broker of the engine answers"):
        standins.backend.retire(cluster, [3], epoch=standins.stage.next_epoch())


# --- a copy before an upgrade -----------------------------------------------------------------------------------------

MANY_FILES = 500


@pytest.fixture
def old_data(standins: Standins) -> tuple[DesiredCluster, BrokerFolder]:
    """A stopped engine whose data, of many files, was last opened by 8.5.8."""
    cluster = standins.stage.desired()
    standins.start(cluster)
    standins.stop(cluster)
    broker = standins.folder(cluster).broker(0)
    wait_until(lambda: running(broker) is None)
    for number in range(MANY_FILES):
        (broker.data / str(number)).write_text("content")
    return cluster, broker


def test_a_copy_is_kept_before_a_later_release_opens_the_data_and_the_caller_does_not_wait(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder]
) -> None:
    cluster, broker = old_data
    later = replace(cluster, release=desired_release("8.6.0"))
    standins.start(later)
    early = standins.backend.observe(later)
    wait_until(lambda: read_contents(broker).former is not None)

    assert early.running
    assert early.waits_for in {
        "The engine keeps a copy of its data, for going back.", "The engine's process runs and does not answer yet.",
    }  # fmt: skip
    assert read_contents(broker) == Contents(Origin(0, None, "8.6.0"), Origin(0, None, "8.5.8"))
    assert len(list(broker.former.iterdir())) == MANY_FILES
    assert not broker.copying.exists()
    assert standins.backend.observe(later).keeps_former


@pytest.mark.parametrize("delay_seconds", [0.0, 0.05, 0.2])
def test_a_copy_that_is_killed_half_way_is_no_copy_and_made_anew(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder], delay_seconds: float
) -> None:
    cluster, broker = old_data
    later = replace(cluster, release=desired_release("8.6.0"))
    standins.start(later)
    record = running(broker)
    assert record is not None
    time.sleep(delay_seconds)
    record.identity.signal(signal.SIGKILL)
    record.identity.wait(5)
    found = read_contents(broker)
    # What the killed one had begun still holds the lock; nothing starts before it has gone.
    wait_until(lambda: has_started(standins, later))
    wait_until(lambda: read_contents(broker).former is not None)

    assert found.former is None or len(list(broker.former.iterdir())) == MANY_FILES
    assert read_contents(broker) == Contents(Origin(0, None, "8.6.0"), Origin(0, None, "8.5.8"))
    assert len(list(broker.former.iterdir())) == len(list(broker.data.iterdir())) == MANY_FILES
    assert standins.stage.count_engines(cluster.cluster_id) == 1


def has_started(standins: Standins, cluster: DesiredCluster) -> bool:
    try:
        standins.start(cluster)
    except RegionUnreachable:
        return False
    return True


def test_starting_the_former_release_again_puts_the_copy_back(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder]
) -> None:
    cluster, broker = old_data
    later = replace(cluster, release=desired_release("8.6.0"))
    standins.start(later)
    wait_until(lambda: read_contents(broker).former is not None)
    (broker.data / "tried").write_text("by the later release")
    standins.stop(later)
    wait_until(lambda: running(broker) is None)
    standins.start(cluster)

    assert not (broker.data / "tried").exists()
    assert len(list(broker.data.iterdir())) == MANY_FILES
    assert not standins.backend.observe(cluster).keeps_former


def test_a_copy_that_cannot_be_made_ends_the_start_and_is_explained(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder]
) -> None:
    cluster, broker = old_data
    later = replace(cluster, release=desired_release("8.6.0"))
    with patch.object(starting.Start, "_place_data", without_scratch(starting.Start._place_data)):
        standins.start(later)
    ended = await_sight(standins.backend, later, lambda sight: not sight.running)

    assert ended.last_exit.endswith("no copy of its data could be kept, for going back.")
    assert read_contents(broker) == Contents(Origin(0, None, "8.5.8"))


def without_scratch(place: Callable[..., Contents]) -> Callable[..., Contents]:
    """Make the place of the copy a file, into which nothing can be copied."""

    def run(self: starting.Start, broker: BrokerFolder, placement: Any) -> Contents:
        contents = place(self, broker, placement)
        broker.copying.rmdir()
        broker.copying.write_text("in the way")
        return contents

    return run


def test_without_room_for_the_copy_nothing_is_started(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, broker = old_data
    later = replace(cluster, release=desired_release("8.6.0"))
    monkeypatch.setattr(admission, "used_mib", lambda _: 10**9)
    with patch.object(admission, "can_share_blocks", return_value=False), pytest.raises(NoCapacity, match="for copies"):
        standins.start(later)
    with patch.object(admission, "can_share_blocks", return_value=True):
        standins.start(later)
    assert running(broker) is not None


def test_a_later_releases_data_is_not_opened_by_an_earlier_one_without_a_copy(
    standins: Standins, old_data: tuple[DesiredCluster, BrokerFolder]
) -> None:
    cluster, broker = old_data
    write_contents(broker, Contents(Origin(0, None, "8.6.0")))

    with pytest.raises(Permanent, match=r"last opened by release 8\.6\.0, which release 8\.5\.8 cannot read"):
        standins.start(cluster)
    assert running(broker) is None


# --- data epochs over several brokers ---------------------------------------------------------------------------------


def test_brokers_are_not_started_beside_others_that_work_on_former_data(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    kill(standins, cluster, 2)
    restored = replace(cluster, data=DesiredData(1, BackupRef(cluster.cluster_id, 5)))

    with pytest.raises(Temporary, match="still work on the former data"):
        standins.start(restored, 2)
    assert list(standins.records(cluster)) == [0, 1]


def test_a_broker_that_joins_begins_with_nothing_and_counts_as_having_the_wished_data(standins: Standins) -> None:
    source = BackupRef(UUID(int=7), 5)
    cluster = replace(standins.stage.resilient(), data=DesiredData(1, source))
    for node in range(3):
        broker = standins.folder(cluster).broker(node)
        broker.path.mkdir(parents=True, exist_ok=True)
        broker.data.mkdir()
        write_contents(broker, Contents(Origin(1, source, "8.5.8")))
    standins.start(cluster)
    four = replace(cluster, size=replace(TRIO, brokers=4))
    before = standins.backend.observe(four)
    standins.start(four, 3)

    assert before.data.value == "done"
    assert before.broker(3).has_wished_data
    assert read_contents(standins.folder(four).broker(3)).data == Origin(1, source, "8.5.8")


def test_a_broker_that_begins_with_nothing_waits_for_the_others_and_holds_none_of_them_up(
    standins: Standins,
) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    standins.stop(cluster)
    wait_until(lambda: not standins.records(cluster))
    tried = standins.folder(cluster).broker(2)
    (tried.data / "tried").write_text("by a later release")
    tried.former.mkdir()
    write_contents(tried, Contents(Origin(0, None, "8.6.0"), Origin(0, None, "8.5.8")))

    # A copy is there, and older than what the others know of this broker: it is not put beside them.
    standins.start(cluster)
    first = standins.records(cluster)
    with pytest.raises(Temporary, match="Broker 3 of 3 begins with nothing, as soon as the others are well"):
        standins.start(cluster, 2)
    kept = (tried.data / "tried").exists()
    with patch.object(starting.Start, "_others_are_well", return_value=True):
        standins.start(cluster, 2)

    assert list(first) == [0, 1]
    assert kept
    assert list(standins.records(cluster)) == [0, 1, 2]
    assert list(tried.data.iterdir()) == []
    assert read_contents(tried) == Contents(Origin(0, None, "8.5.8"))
    assert not tried.former.exists()


def test_when_too_few_have_what_an_earlier_release_can_read_nobody_begins_with_nothing(standins: Standins) -> None:
    cluster = standins.stage.resilient()
    standins.start(cluster)
    standins.stop(cluster)
    wait_until(lambda: not standins.records(cluster))
    for node in (1, 2):
        write_contents(standins.folder(cluster).broker(node), Contents(Origin(0, None, "8.6.0")))

    with pytest.raises(Permanent, match="no data from before is kept"):
        standins.start(cluster)
    assert not standins.records(cluster)


# --- the inventory ----------------------------------------------------------------------------------------------------


def test_the_inventory_finds_processes_without_notes_and_folders_without_processes(standins: Standins) -> None:
    lost, stopped, removed = standins.stage.resilient(), standins.stage.desired(), standins.stage.desired()
    for cluster in (lost, stopped, removed):
        standins.start(cluster)
    pids = [record.identity.pid for record in standins.records(lost).values()]
    shutil.rmtree(standins.folder(lost).path)
    standins.stop(stopped)
    standins.stop(removed)
    wait_until(lambda: not standins.records(stopped) and not standins.records(removed))
    standins.folder(removed).path.rename(standins.stage.region.trash / f"{removed.cluster_id}.1")
    gone = standins.stage.desired()
    standins.folder(gone).fence.write_text(f"{5:020d}")
    standins.folder(gone).broker(0).lock.touch()

    found = {one.cluster_id: one for one in standins.backend.inventory()}

    assert all(any(f"The process {pid}, " in part for part in found[lost.cluster_id].parts) for pid in pids)
    assert found[lost.cluster_id].card == {}
    assert any("The folder" in part and "MiB" in part for part in found[stopped.cluster_id].parts)
    assert any("The ports" in part for part in found[stopped.cluster_id].parts)
    assert any("on its way out" in part for part in found[removed.cluster_id].parts)
    assert gone.cluster_id not in found
    assert standins.backend.delete(lost.cluster_id, epoch=10**6)
    wait_until(lambda: find(standins.stage, lost.cluster_id) is None)


def test_a_damaged_note_does_not_hide_the_rest(standins: Standins) -> None:
    damaged, other = standins.stage.desired(), standins.stage.desired()
    for cluster in (damaged, other):
        standins.start(cluster)
    for path in (standins.folder(damaged).card, standins.folder(damaged).broker(0).ports):
        path.write_text("{damaged")

    found = {one.cluster_id: one for one in standins.backend.inventory()}
    assert found.keys() >= {damaged.cluster_id, other.cluster_id}
    assert found[damaged.cluster_id].card == {}


def test_the_register_is_for_nobody_else_to_read(standins: Standins) -> None:
    assert standins.backend.read_register() == {}
    standins.backend.write_register({"clusters": 3})
    assert standins.stage.region.register.stat().st_mode & 0o777 == 0o600
    assert standins.backend.read_register() == {"clusters": 3}


# --- asking an engine -------------------------------------------------------------------------------------------------


class _Answers(HTTPServer):
    """An engine's management port that answers everything in one way."""

    status: int
    body: bytes

    @property
    def admin(self) -> EngineAdmin:
        return EngineAdmin(LoopbackDoor(self.server_address[1]))


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, _Answers)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def engine() -> Iterator[_Answers]:
    server = _Answers(("127.0.0.1", 0), _Handler)
    server.status, server.body = 202, b"{}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with closing(server.socket):
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (202, b"{}", None),
        (409, b'{"message": "Another change is pending"}', None),
        (400, b'{"message": "Number of brokers [2] is less than the replication factor [3]"}', Permanent),
        (500, b"not even JSON", Temporary),
        (503, b"", Temporary),
    ],
)
def test_what_an_engine_refuses_is_told_in_our_words(
    engine: _Answers, status: int, body: bytes, error: type[Exception] | None
) -> None:
    engine.status, engine.body = status, body
    if error is None:
        engine.admin.rescale([0, 1, 2], replication_factor=3)
        return
    with pytest.raises(error, match=r"^The engine refuses to work with that number of brokers\.$"):
        engine.admin.rescale([0, 1], replication_factor=3)


def test_an_engine_that_is_silent_is_for_another_turn() -> None:
    with pytest.raises(Temporary, match="does not answer"):
        EngineAdmin(LoopbackDoor(1)).rebalance()


@dataclass
class NotingDoor:
    """A door that notes for how long it is to wait."""

    door: LoopbackDoor
    noted: list[Limits] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None, *, limits: Limits) -> Answer | None:
        """See `Door`."""
        self.noted.append(limits)
        return self.door.ask(method, path, body, limits=limits)


def test_an_engine_that_hangs_on_its_store_leaves_a_turn_time_for_the_rest() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        door = NotingDoor(LoopbackDoor(silent.getsockname()[1]))
        with pytest.raises(Temporary, match="does not answer"):
            EngineAdmin(door).backup_state(5)
    assert door.noted == [admin.LIMITS]
    assert admin.LIMITS.connect + admin.LIMITS.read <= 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Topology(7, (0, 1, 2))),
        ({"lastChange": {"id": 1, "status": "COMPLETED"}}, Topology(7, (0, 1, 2))),
        ({"lastChange": {"id": 1, "status": "FAILED"}}, Topology(7, (0, 1, 2), has_failed=True)),
        ({"lastChange": {"id": 1, "status": "CANCELLED"}}, Topology(7, (0, 1, 2), has_failed=True)),
        ({"lastChange": None, "pendingChange": {"id": 1}}, Topology(7, (0, 1, 2), is_changing=True)),
    ],
)
def test_whom_an_engine_counts_on_and_what_became_of_the_last_change(
    engine: _Answers, change: dict[str, Any], expected: Topology
) -> None:
    states = [(0, "ACTIVE"), (1, "LEAVING"), (2, "JOINING"), (3, "LEFT")]
    brokers = [{"id": node, "state": state} for node, state in states]
    engine.status, engine.body = 200, json.dumps({"version": 7, "brokers": brokers, **change}).encode()

    assert read_topology(LoopbackDoor(engine.server_address[1])) == expected


@pytest.mark.parametrize(
    ("status", "body", "is_whole", "work"),
    [
        (200, {"state": "COMPLETED", "details": [{"state": "COMPLETED"}]}, True, "done"),
        (200, {"state": "IN_PROGRESS", "details": [{"state": "IN_PROGRESS"}]}, True, "running"),
        (
            200,
            {"state": "INCOMPLETE", "details": [{"state": "COMPLETED"}, {"state": "DOES_NOT_EXIST"}]},
            False,
            "running",
        ),
        (200, {"state": "INCOMPLETE", "details": [{"state": "COMPLETED"}, {"state": "FAILED"}]}, False, "failed"),
    ],
)
def test_a_backups_state_is_worked_out_from_its_parts(
    engine: _Answers, status: int, body: dict[str, Any], is_whole: bool, work: str
) -> None:
    engine.status, engine.body = status, json.dumps(body).encode()
    found = engine.admin.backup_state(5)

    assert found is not None
    assert (found.work.value, found.is_whole) == (work, is_whole)


def test_a_backup_that_is_not_there_is_none_and_a_used_number_is_told(engine: _Answers) -> None:
    engine.status = 404
    assert engine.admin.backup_state(5) is None
    engine.status = 409
    assert not engine.admin.begin_backup(5)
