"""The local backend: the contract on a real engine, and what only processes of one machine can get wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest
import urllib3
from cryptography import x509

from common.errors import Temporary
from provisioning.backends.engine.origins import Contents, Origin
from provisioning.backends.local import LocalBackend
from provisioning.backends.local.admission import admit
from provisioning.backends.local.configuration import DISK_WATERMARK_MIB
from provisioning.backends.local.contents import write_contents
from provisioning.backends.local.fetch import Preparation, unpack
from provisioning.backends.local.files import on_disk
from provisioning.backends.local.layout import ClusterFolder, Ports
from provisioning.backends.local.process import Identity, find_holders, identity_of, own_identity
from provisioning.backends.local.record import SIGHT_FRESH_SECONDS, EngineRecord
from provisioning.backends.local.release import by_hand
from provisioning.backends.local.stop_all import stop_all
from provisioning.backends.local.tls import KeyPairFiles
from provisioning.backends.local.watch import LOOK_SECONDS
from provisioning.errors import JavaMissing, NoCapacity, PortTaken, RegionUnreachable, ReleaseUnavailable
from provisioning.spec import (
    BackupRef,
    DesiredCluster,
    DesiredData,
    DesiredRelease,
    Lifecycle,
    ObservedCluster,
    ReleaseState,
)
from tests.provisioning.backends.conftest import (
    PATIENCE_SECONDS,
    SMALL,
    TRIO,
    LocalStage,
    desired_release,
    environment_of,
    ignores_termination,
    wait_until,
)
from tests.provisioning.backends.contract import BackendContract, await_sight, client, persist, start

LAUNCHER = Path(sys.modules[LocalBackend.__module__].__file__ or "").with_name("launch.py")
ACCEPTED_STATUSES = range(200, 400)


# Five engines one after the other in the longest: each wait in it has our patience.
@pytest.mark.timeout(900)
class TestLocalBackend(BackendContract):
    """The contract."""

    @pytest.fixture(scope="class")
    @classmethod
    def stage(cls, local_stage: LocalStage) -> LocalStage:
        return local_stage

    def test_observing_several_brokers_beside_a_running_watch_asks_them_nothing(
        self, stage: LocalStage, trio: DesiredCluster
    ) -> None:
        sight = seen_unasked(
            stage.backend, trio, lambda sight: sight.members == (0, 1, 2) and sight.healthy_partitions == 3
        )

        assert 0 < sight.age_seconds < SIGHT_FRESH_SECONDS
        # However often a busy machine holds the watch up: left alone it is in time.
        assert 2 * LOOK_SECONDS < SIGHT_FRESH_SECONDS


class Asked(Exception):
    """An engine was asked."""


@dataclass
class Seen(Exception):
    """What was waited for."""

    sight: ObservedCluster


def seen_unasked(
    backend: LocalBackend, desired: DesiredCluster, is_so: Callable[[ObservedCluster], bool]
) -> ObservedCluster:
    """What an observation beside a running watch tells that asks no engine, once it is so.

    A watch that a busy machine held up has left nothing fresh for a moment, so it is observed in each of its rounds.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS

    def observe(_: float) -> None:
        assert time.monotonic() < deadline
        with (
            suppress(Asked),
            patch("provisioning.backends.engine.health.look_at", side_effect=Asked),
            patch("provisioning.backends.engine.health.read_topology", side_effect=Asked),
        ):
            sight = backend.observe(desired)
            if is_so(sight):
                raise Seen(sight)

    with closing(backend.changes(observe)) as changes, pytest.raises(Seen) as seen:
        for _ in changes:
            pass
    return seen.value.sight


# --- access, on both releases -----------------------------------------------------------------------------------------


REST_PATHS = (
    "/v1/topology", "/v2/topology", "/v2/license", "/v2/process-instances", "/v2/jobs/activation", "/v2/nothing",
    "/v1/user-tasks/1/completion", "/", "/nothing", "/error", "/login", "/actuator", "/actuator/health",
    "/actuator/partitions", "/health", "/ready", "/startup", "/metrics", "/swagger", "/swagger-ui.html",
    "/swagger-ui/index.html", "/v3/api-docs", "/webjars/any", "/index.html", "//v2/topology", "/v2/topology/",
    "/v2%2ftopology", "/;any/v2/topology", "/nothing/../v2/topology",
)  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("version", ["8.5.8", "8.6.0"])
def test_without_its_own_token_nothing_answers_on_grpc_or_any_rest_path(local_stage: LocalStage, version: str) -> None:
    stage = LocalStage(local_stage.settings, version=version)
    stage.prepare(desired_release(version))
    cluster = stage.desired()
    sight = start(stage, cluster)
    ports = read_record(stage, cluster).ports
    bad_tokens = stage.issuer.bad_tokens(cluster.audience)
    good_token = stage.issuer.token(cluster.audience)
    rest = RestDoor(ports.rest, stage.authority)

    with client(stage, sight) as engine:
        assert {name: engine.ask(token) for name, token in bad_tokens.items()} == dict.fromkeys(
            bad_tokens, "UNAUTHENTICATED"
        )
        assert engine.ask(good_token) == "OK"
    for token in bad_tokens.values():
        for path in REST_PATHS:
            for method in ("GET", "POST", "OPTIONS"):
                status, body = rest.ask(method, path, token)
                assert status not in ACCEPTED_STATUSES, f"{method} {path} answered {status}"
                assert b"brokers" not in body
    assert (
        rest.ask("GET", "/v2/topology" if sight.endpoint and sight.endpoint.rest else "/v1/topology", good_token)[0]
        == 200
    )
    assert bool(sight.endpoint and sight.endpoint.rest) is (version == "8.6.0")
    assert_only_loopback_listens(read_record(stage, cluster))
    persist(stage.backend.delete, cluster.cluster_id, epoch=stage.next_epoch())


class RestDoor:
    """The engine's REST port over TLS; trusts one authority."""

    def __init__(self, port: int, authority: Path) -> None:
        self._base = f"https://localhost:{port}"
        self._http = urllib3.PoolManager(ca_certs=str(authority), retries=False, timeout=60)

    def ask(self, method: str, path: str, token: str | None) -> tuple[int, bytes]:
        """Status and body of one request."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answer = self._http.request(
            method, self._base + path, headers=headers, body=b"{}" if method == "POST" else None, redirect=False
        )
        return answer.status, answer.data


def assert_only_loopback_listens(record: EngineRecord) -> None:
    """Every TCP port of the engine is bound to loopback; of UDP there is the one that ADR 4 names."""
    sockets = {str(path.readlink()) for path in Path(f"/proc/{record.identity.pid}/fd").iterdir() if path.is_symlink()}
    listening = {
        address
        for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07"))
        for address in bound_addresses(record.identity.pid, table, state, sockets)
    }
    assert {port for _, port in listening} == set(record.ports.all)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert {port for host, port in listening if host not in loopback} == {record.ports.internal}


def bound_addresses(pid: int, table: str, state: str, sockets: set[str]) -> Iterator[tuple[str, int]]:
    for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == state and f"socket:[{words[9]}]" in sockets:
            host, _, port = words[1].partition(":")
            yield host, int(port, 16)


# --- one engine per identity ------------------------------------------------------------------------------------------


def read_record(stage: LocalStage, cluster: DesiredCluster, node: int = 0) -> EngineRecord:
    record = EngineRecord.read(stage.region.cluster(cluster.cluster_id).broker(node))
    assert record is not None
    return record


def order_for(folder: ClusterFolder, argv: list[str], *, epoch: int) -> dict[str, object]:
    """An order to the launcher, for a program in place of an engine."""
    record = {"digest": "d", "epoch": epoch, "ports": 1, "memory_mib": 1, "serves_rest": False, "starts": 1}
    return {
        "lock": str(folder.broker(0).lock),
        "fence": str(folder.fence),
        "record_file": str(folder.broker(0).record),
        "record": {**record, "last_exit": ""},
        "user": None,
        "console": str(folder.path / "console.log"),
        "folder": str(folder.path),
        "argv": argv,
        "env": {},
    }


def launch(order: dict[str, object]) -> dict[str, str]:
    ran = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER)], input=json.dumps(order), capture_output=True, text=True, check=True
    )
    answer: dict[str, str] = json.loads(ran.stdout)
    return answer


@pytest.fixture
def folder(empty_stage: LocalStage) -> ClusterFolder:
    """A laid-down cluster whose fence stands at 5."""
    folder = empty_stage.region.cluster(empty_stage.desired().cluster_id)
    folder.path.mkdir()
    folder.fence.write_text(f"{5:020d}")
    return folder


@pytest.fixture
def sleeper(folder: ClusterFolder) -> Iterator[EngineRecord]:
    """A sleeping process that was launched in place of an engine."""
    assert launch(order_for(folder, ["/bin/sleep", "60"], epoch=5)) == {"outcome": "started"}
    record = EngineRecord.read(folder.broker(0))
    assert record is not None
    yield record
    record.identity.signal(signal.SIGKILL)
    record.identity.wait(5)


def test_the_launched_process_is_the_one_on_record_and_nobodys_child(
    folder: ClusterFolder, sleeper: EngineRecord
) -> None:
    status = Path(f"/proc/{sleeper.identity.pid}/status").read_text()

    assert sleeper.is_running()
    wait_until(lambda: Path(f"/proc/{sleeper.identity.pid}/comm").read_text().strip() == "sleep")
    assert f"PPid:\t{os.getpid()}\n" not in status
    assert os.getsid(sleeper.identity.pid) != os.getsid(0)
    assert Path(f"/proc/{sleeper.identity.pid}/environ").read_bytes() == b""


def test_while_the_engine_lives_a_second_launch_ends_at_its_lock(folder: ClusterFolder, sleeper: EngineRecord) -> None:
    answer = launch(order_for(folder, ["/bin/sleep", "60"], epoch=5))

    assert answer == {"outcome": "locked"}
    assert EngineRecord.read(folder.broker(0)) == sleeper


def test_twenty_launches_at_once_leave_one_process(folder: ClusterFolder) -> None:
    answers: list[str] = []
    order = order_for(folder, ["/bin/sleep", "60"], epoch=5)
    threads = [threading.Thread(target=lambda: answers.append(launch(order)["outcome"])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = EngineRecord.read(folder.broker(0))
    assert record is not None
    record.identity.signal(signal.SIGKILL)

    assert sorted(answers) == ["locked"] * 19 + ["started"]


def test_a_launch_that_was_overtaken_on_its_way_is_fenced_at_the_lock(folder: ClusterFolder) -> None:
    answer = launch(order_for(folder, ["/bin/sleep", "60"], epoch=4))

    assert answer == {"outcome": "fenced"}
    assert not folder.broker(0).record.exists()


def test_a_launcher_that_fails_between_lock_and_exec_leaves_the_lock_free(folder: ClusterFolder) -> None:
    failed = launch(order_for(folder, ["/nowhere/java"], epoch=5))
    record = EngineRecord.read(folder.broker(0))
    again = launch(order_for(folder, ["/bin/true"], epoch=5))

    assert failed["outcome"] == "failed"
    assert "/nowhere/java" in failed["reason"] or "No such file" in failed["reason"]
    assert record is not None
    assert not record.is_running()
    assert again == {"outcome": "started"}


def test_a_launcher_that_was_killed_while_it_held_the_lock_leaves_it_free(
    empty_stage: LocalStage, folder: ClusterFolder
) -> None:
    # The console is a pipe without a reader, so the launcher stops there: record written, not yet an engine.
    os.mkfifo(folder.path / "console.log")
    stuck = threading.Thread(target=launch, args=[order_for(folder, ["/bin/sleep", "60"], epoch=5)])
    stuck.start()
    record = await_record(folder)
    observed = empty_stage.backend.observe(empty_stage.desired(cluster_id=folder.cluster_id))
    record.identity.signal(signal.SIGKILL)
    stuck.join(10)
    (folder.path / "console.log").unlink()

    assert observed.running
    assert launch(order_for(folder, ["/bin/true"], epoch=5)) == {"outcome": "started"}


def await_record(folder: ClusterFolder) -> EngineRecord:
    wait_until(lambda: EngineRecord.read(folder.broker(0)) is not None)
    record = EngineRecord.read(folder.broker(0))
    assert record is not None
    return record


def test_a_reused_pid_reads_as_ended_and_is_never_signalled(folder: ClusterFolder, sleeper: EngineRecord) -> None:
    now = sleeper.identity
    earlier = Identity(now.pid, now.start_time - 1, now.boot_id)
    other_boot = Identity(now.pid, now.start_time, "another boot")

    for stranger in (earlier, other_boot):
        assert not stranger.is_alive()
        assert not stranger.signal(signal.SIGKILL)
        assert stranger.wait(0)
    assert now.is_alive()


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    identity = identity_of(child.pid)
    assert identity is not None
    assert identity.is_alive()

    child.kill()
    assert identity.wait(5)
    assert not identity.is_alive()
    child.wait()


def test_stopping_and_deleting_leave_a_reused_pid_alone(empty_stage: LocalStage, folder: ClusterFolder) -> None:
    stranger = {**own_identity().to_record(), "start_time": 1}
    order = order_for(folder, [], epoch=5)
    folder.broker(0).record.write_text(json.dumps({**dict(order["record"]), **stranger}))  # type: ignore[call-overload]
    cluster = empty_stage.desired(cluster_id=folder.cluster_id)

    empty_stage.backend.stop(cluster, cluster.nodes, epoch=6)
    empty_stage.backend.delete(cluster.cluster_id, epoch=7)

    assert not folder.path.exists()


def test_an_engine_that_ignores_the_request_is_ended_by_force_after_the_grace_period(
    empty_stage: LocalStage, folder: ClusterFolder
) -> None:
    launch(order_for(folder, ["/bin/sh", "-c", "trap '' TERM; while :; do /bin/sleep 1; done"], epoch=5))
    cluster = empty_stage.desired(cluster_id=folder.cluster_id)
    wait_until(lambda: ignores_termination(read_record(empty_stage, cluster).identity))

    empty_stage.backend.stop(cluster, cluster.nodes, epoch=6)
    asked = empty_stage.backend.observe(cluster)
    empty_stage.backend.stop(cluster, cluster.nodes, epoch=7)
    asked_again = empty_stage.backend.observe(cluster)
    age_stopping_note(folder, seconds=31)
    empty_stage.backend.stop(cluster, cluster.nodes, epoch=8)
    ended = await_sight(empty_stage.backend, cluster, lambda sight: not sight.running)

    assert asked.broker(0).stopping
    assert asked.waits_for == "The engine is stopping."
    assert asked_again.running
    assert ended.exists
    assert ended.last_exit == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("Terminating due to java.lang.OutOfMemoryError: Java heap space", "it ran out of memory."),
        ("java.io.IOException: No space left on device", "the disk was full."),
        (
            "Caused by: io.camunda.zeebe.topology.PersistedClusterTopology$UnexpectedVersion: Topology file of Alice",
            "files of its data are damaged.",
        ),
        ("order 4711 of Alice", "its process was killed, or gave up."),
    ],
)
def test_an_unexpected_end_is_explained_in_fixed_words_and_never_in_the_engines(
    empty_stage: LocalStage, folder: ClusterFolder, words: str, sentence: str
) -> None:
    folder.broker(0).log.mkdir()
    (folder.broker(0).log / "console.log").write_text(words)
    assert launch(order_for(folder, ["/bin/true"], epoch=5)) == {"outcome": "started"}
    cluster = empty_stage.desired(cluster_id=folder.cluster_id)

    sight = await_sight(empty_stage.backend, cluster, lambda sight: not sight.running)

    assert sight.last_exit == f"The engine ended without being told to: {sentence}"


CORRUPTED = "io.camunda.zeebe.journal.CorruptedJournalException: Expected to find records until index 19"
MISREAD = "org.rocksdb.RocksDBException: block checksum mismatch: stored = 1, computed = 2, of order 4711"


@pytest.mark.parametrize("words", [CORRUPTED, MISREAD], ids=["log", "state"])
def test_an_engine_that_says_that_its_data_is_damaged_is_believed_while_it_is_not_well(
    empty_stage: LocalStage, folder: ClusterFolder, words: str
) -> None:
    log = folder.broker(0).log
    log.mkdir()
    (log / "engine.log").write_text(f"{words}\n")
    write_contents(folder.broker(0), Contents(Origin(0)))
    assert launch(order_for(folder, ["/bin/sleep", "300"], epoch=5)) == {"outcome": "started"}
    cluster = empty_stage.desired(cluster_id=folder.cluster_id)
    before = empty_stage.backend.observe(cluster)
    # What follows may be long; the engine says it once, soon after its start.
    (log / "engine.log").write_text(f"{words}\n" + "and so on\n" * 50_000)
    damaged = empty_stage.backend.observe(cluster)
    another = empty_stage.backend.observe(replace(cluster, data=DesiredData(1, BackupRef(cluster.cluster_id, 7))))
    several = empty_stage.backend.observe(replace(cluster, size=TRIO))
    empty_stage.backend.stop(cluster, cluster.nodes, epoch=6)
    stopped = await_sight(empty_stage.backend, cluster, lambda sight: not sight.running)

    assert before.damage == ""
    assert damaged.damage == "The engine cannot read its data: files of it are damaged on the region's disk."
    assert damaged.waits_for == damaged.damage
    assert (another.damage, several.damage, stopped.damage) == ("", "", "")


def age_stopping_note(folder: ClusterFolder, *, seconds: float) -> None:
    note = json.loads(folder.broker(0).stopping.read_text())
    folder.broker(0).stopping.write_text(json.dumps({**note, "at": note["at"] - seconds}))


# --- deletion in any state --------------------------------------------------------------------------------------------


def test_deletion_works_with_a_damaged_record_and_a_living_engine(
    empty_stage: LocalStage, folder: ClusterFolder, sleeper: EngineRecord
) -> None:
    folder.broker(0).record.write_text("{damaged")

    with pytest.raises(RegionUnreachable):
        empty_stage.backend.observe(empty_stage.desired(cluster_id=folder.cluster_id))
    empty_stage.backend.delete(folder.cluster_id, epoch=6)

    assert not sleeper.is_running()
    assert not folder.path.exists()


def test_deletion_spares_who_merely_has_the_lock_file_open(
    empty_stage: LocalStage, folder: ClusterFolder, sleeper: EngineRecord
) -> None:
    folder.broker(0).record.unlink()
    with folder.broker(0).lock.open() as file, subprocess.Popen(["/bin/sleep", "60"], stdin=file) as reader:
        holders = find_holders(folder.broker(0).lock)
        empty_stage.backend.delete(folder.cluster_id, epoch=6)
        reader_status = reader.poll()
        reader.kill()

    assert holders == [sleeper.identity]
    assert not sleeper.is_running()
    assert reader_status is None


@pytest.mark.engine
def test_an_engine_that_lost_its_record_is_not_doubled_and_can_be_deleted(local_stage: LocalStage) -> None:
    cluster = local_stage.desired()
    folder = local_stage.region.cluster(cluster.cluster_id)
    local_stage.backend.start(cluster, cluster.nodes, epoch=1)
    record = read_record(local_stage, cluster)
    folder.broker(0).record.unlink()

    with pytest.raises(Temporary):
        local_stage.backend.start(cluster, cluster.nodes, epoch=2)
    count_before = local_stage.count_engines(cluster.cluster_id)
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=3)

    assert count_before == 1
    assert not record.is_running()
    assert not folder.path.exists()


def test_an_engine_whose_folder_is_missing_is_not_started_on_an_empty_one(local_stage: LocalStage) -> None:
    desired = local_stage.desired()
    folder = local_stage.region.cluster(desired.cluster_id)
    folder.broker(0).lock.touch()
    with pytest.raises(RegionUnreachable, match="put the folder back"):
        local_stage.backend.start(desired, desired.nodes, epoch=local_stage.next_epoch())
    assert not folder.path.exists()
    assert local_stage.count_engines(desired.cluster_id) == 0


def test_deletion_never_follows_a_link_out_of_the_region(
    empty_stage: LocalStage, folder: ClusterFolder, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("kept")
    (folder.path / "link").symlink_to(tmp_path)
    other = empty_stage.region.cluster(empty_stage.desired().cluster_id)
    other.path.symlink_to(tmp_path)

    empty_stage.backend.delete(folder.cluster_id, epoch=6)
    empty_stage.backend.delete(other.cluster_id, epoch=6)

    assert (tmp_path / "precious").read_text() == "kept"
    assert not other.path.is_symlink()
    assert not list(empty_stage.region.trash.iterdir())


def test_a_deletion_that_was_cut_off_still_exists_and_is_finished_by_the_next(
    empty_stage: LocalStage, folder: ClusterFolder
) -> None:
    folder.path.rename(empty_stage.region.trash / f"{folder.cluster_id}.1")
    cluster = empty_stage.desired(cluster_id=folder.cluster_id)
    before = empty_stage.backend.observe(cluster)

    empty_stage.backend.delete(folder.cluster_id, epoch=6)

    assert before.exists
    assert not empty_stage.backend.observe(cluster).exists


def test_a_region_without_its_folder_is_unreachable_and_not_empty(empty_stage: LocalStage) -> None:
    shutil.rmtree(empty_stage.region.engines)

    with pytest.raises(RegionUnreachable, match="Mount its disk"):
        empty_stage.backend.observe(empty_stage.desired())


# --- admission --------------------------------------------------------------------------------------------------------


def with_budget(stage: LocalStage, **overrides: object) -> LocalBackend:
    return LocalBackend(replace(stage.settings, **overrides))  # type: ignore[arg-type]


@pytest.mark.engine
def test_an_engine_that_the_memory_budget_has_no_room_for_is_not_started(local_stage: LocalStage) -> None:
    cluster = local_stage.desired()

    with pytest.raises(NoCapacity, match=r"needs 640 MiB and the region has 639 MiB free") as caught:
        with_budget(local_stage, memory_budget_mib=639).start(cluster, cluster.nodes, epoch=1)

    assert caught.value.details["resource"] == "memory"
    assert not local_stage.backend.observe(cluster).exists


@pytest.mark.engine
def test_what_running_engines_were_promised_counts_before_they_use_it(local_stage: LocalStage) -> None:
    first, second = local_stage.desired(), local_stage.desired()
    backend = with_budget(local_stage, memory_budget_mib=2 * 640 - 1)
    backend.start(first, first.nodes, epoch=1)

    with pytest.raises(NoCapacity, match="639 MiB free"):
        backend.start(second, second.nodes, epoch=1)
    backend.delete(first.cluster_id, epoch=2)
    backend.start(second, second.nodes, epoch=1)
    assert backend.observe(second).running
    backend.delete(second.cluster_id, epoch=2)


@pytest.mark.engine
def test_without_a_budget_the_machines_memory_decides(local_stage: LocalStage) -> None:
    cluster = local_stage.desired(size=replace(SMALL, memory_mib=10**9))

    with pytest.raises(NoCapacity, match="Memory is short: this engine needs 1000000000 MiB"):
        local_stage.backend.start(cluster, cluster.nodes, epoch=1)


@pytest.mark.engine
def test_an_engine_is_not_started_below_the_disk_it_needs_and_its_own_watermark(
    local_stage: LocalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(local_stage.region.engines)
    cluster = local_stage.desired(size=replace(SMALL, disk_mib=usage.free // 2**20 - DISK_WATERMARK_MIB // 2))

    # Others write and remove meanwhile.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoCapacity, match="Disk is short") as caught:
        local_stage.backend.start(cluster, cluster.nodes, epoch=1)

    assert caught.value.details["resource"] == "disk"
    assert not local_stage.backend.observe(cluster).exists


def test_disk_that_other_clusters_were_promised_and_do_not_use_yet_is_not_promised_again(
    empty_stage: LocalStage, folder: ClusterFolder
) -> None:
    settings = replace(empty_stage.settings, memory_budget_mib=10**6)
    cluster = empty_stage.desired(size=replace(SMALL, disk_mib=1))
    own = empty_stage.region.cluster(cluster.cluster_id)
    own.path.mkdir()
    own.broker(0).ports.write_text(json.dumps({"first": settings.ports.start}))
    damaged = empty_stage.region.cluster(empty_stage.desired().cluster_id)
    damaged.path.mkdir()
    damaged.broker(0).ports.write_text("{damaged")
    folder.broker(0).ports.write_text(json.dumps({"first": 1, "disk_mib": 10**9}))
    folder.broker(0).data.mkdir()
    (folder.broker(0).data / "segment").write_bytes(os.urandom(3 * 2**20))
    free_mib = shutil.disk_usage(folder.path).free // 2**20

    with pytest.raises(NoCapacity, match="999999997 MiB are promised to the region's other brokers") as caught:
        admit(cluster, [own.broker(0)], own, empty_stage.region, settings)
    folder.broker(0).ports.write_text(json.dumps({"first": 1, "disk_mib": 3}))
    admit(cluster, [own.broker(0)], own, empty_stage.region, settings)

    assert caught.value.details["needed_mib"] == 1 + DISK_WATERMARK_MIB
    assert caught.value.details["free_mib"] == pytest.approx(free_mib, abs=2000)


@pytest.mark.engine
def test_a_new_cluster_gets_ports_that_nobody_uses_and_a_full_range_is_refused(local_stage: LocalStage) -> None:
    first = local_stage.settings.ports.start + 30
    with listener(first + 2):
        backend = with_budget(local_stage, ports=range(first, first + 9))
        with pytest.raises(NoCapacity, match="Ports are short") as caught:
            backend.start(local_stage.desired(), [0], epoch=1)

    assert caught.value.details["resource"] == "ports"


@pytest.mark.engine
def test_a_port_of_the_clusters_own_that_another_program_took_is_named(local_stage: LocalStage) -> None:
    cluster = local_stage.desired()
    local_stage.backend.start(cluster, cluster.nodes, epoch=1)
    ports = read_record(local_stage, cluster).ports
    local_stage.kill_engine(cluster.cluster_id)
    await_sight(local_stage.backend, cluster, lambda sight: not sight.running)

    with listener(ports.rest), pytest.raises(PortTaken, match=f"Port {ports.rest} belongs to this cluster"):
        local_stage.backend.start(cluster, cluster.nodes, epoch=2)
    local_stage.backend.start(cluster, cluster.nodes, epoch=3)

    assert read_record(local_stage, cluster).ports == ports
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=4)


def listener(port: int) -> closing[socket.socket]:
    return closing(socket.create_server(("127.0.0.1", port)))


# --- releases and Java ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(empty_stage: LocalStage) -> DesiredRelease:
    """A release without an engine in it, put into the cache by hand: it unpacks, and cannot be warmed up."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        part = tarfile.TarInfo("camunda-zeebe-0.0.1/lib/nothing.jar")
        archive.addfile(part, io.BytesIO())
    return put_by_hand(empty_stage, content.getvalue())


def put_by_hand(stage: LocalStage, content: bytes) -> DesiredRelease:
    release = DesiredRelease(
        "0.0.1", "x.y:engine:0.0.1:tar.gz", sha256(content).hexdigest(), "x.Main", serves_rest=False
    )
    archive = by_hand(stage.settings.cache, release)
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(content)
    return release


def prepare(stage: LocalStage, release: DesiredRelease) -> ObservedCluster:
    """Prepare and wait for the outcome."""
    stage.backend.prepare(release)
    wish = stage.desired(release=release)
    return await_sight(stage.backend, wish, lambda sight: sight.release not in {ReleaseState.PREPARING})


def test_an_archive_put_by_hand_is_used_and_a_release_that_cannot_be_warmed_up_is_ready_all_the_same(
    empty_stage: LocalStage, tiny: DesiredRelease
) -> None:
    assert prepare(empty_stage, tiny).release is ReleaseState.READY
    assert not list(empty_stage.settings.cache.glob("engines/.fetch-*"))


def test_a_damaged_archive_is_refused_before_it_is_unpacked_and_the_next_attempt_starts_afresh(
    empty_stage: LocalStage, tiny: DesiredRelease
) -> None:
    archive = by_hand(empty_stage.settings.cache, tiny)
    whole = archive.read_bytes()
    archive.write_bytes(whole + b"damage")

    damaged = prepare(empty_stage, tiny)
    left = list((empty_stage.settings.cache / "engines").glob(f"{tiny.sha256}/*"))
    archive.write_bytes(whole)
    mended = prepare(empty_stage, tiny)

    assert damaged.release is ReleaseState.FAILED
    assert f"should be {tiny.sha256} and is {sha256(whole + b'damage').hexdigest()}" in damaged.release_detail
    assert str(archive) in damaged.release_detail
    assert left == []
    assert mended.release is ReleaseState.READY


def test_an_archive_with_a_path_outside_itself_is_not_unpacked(empty_stage: LocalStage) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    release = put_by_hand(empty_stage, content.getvalue())

    assert prepare(empty_stage, release).release is ReleaseState.FAILED
    assert not list(empty_stage.settings.cache.rglob("escaped"))


def test_without_maven_and_without_an_archive_the_sentence_names_both_remedies(
    empty_stage: LocalStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release = desired_release("8.5.8")
    monkeypatch.setenv("PATH", str(tmp_path))

    sight = prepare(empty_stage, release)

    assert sight.release is ReleaseState.FAILED
    assert "Install the package `maven`" in sight.release_detail
    assert str(by_hand(empty_stage.settings.cache, release)) in sight.release_detail


def test_what_maven_cannot_find_is_said_with_the_place_of_its_words(
    empty_stage: LocalStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho 'Could not find artifact'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    release = replace(desired_release("8.5.8"), sha256="0" * 64)

    sight = prepare(empty_stage, release)
    log = empty_stage.region.releases / f"{release.sha256}.log"

    assert sight.release is ReleaseState.FAILED
    assert str(log) in sight.release_detail
    assert "Could not find artifact" in log.read_text()


def test_a_preparation_that_was_killed_is_absent_again_and_wakes_who_waits_for_it(
    empty_stage: LocalStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\nexec sleep 60\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    release = desired_release("8.5.8")
    wish = empty_stage.desired(release=release)
    empty_stage.backend.prepare(release)
    under_way = await_sight(empty_stage.backend, wish, lambda sight: sight.release_detail.startswith("Downloading"))

    with closing(empty_stage.backend.changes(lambda _: None)) as changes:
        assert next(changes) == wish.cluster_id
        stop_all(empty_stage.settings.region_home)
        assert next(changes) == wish.cluster_id

    assert under_way.release is ReleaseState.PREPARING
    assert under_way.waits_for == under_way.release_detail
    assert empty_stage.backend.observe(wish).release is ReleaseState.ABSENT
    assert not list(empty_stage.settings.cache.glob("engines/.fetch-*"))


def test_a_preparation_that_was_killed_without_a_word_has_failed_and_the_next_sweeps_what_it_left(
    empty_stage: LocalStage, tiny: DesiredRelease, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\nexec sleep 60\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    archive = by_hand(empty_stage.settings.cache, tiny)
    archive.rename(tmp_path / "archive")
    wish = empty_stage.desired(release=tiny)
    empty_stage.backend.prepare(tiny)
    await_sight(empty_stage.backend, wish, lambda sight: sight.release_detail.startswith("Downloading"))
    worker = Identity.from_record(json.loads(empty_stage.region.release_state(tiny.sha256).read_text()))
    assert worker is not None
    worker.signal(signal.SIGKILL)
    worker.wait(5)
    killed = empty_stage.backend.observe(wish)
    left = list(empty_stage.settings.cache.glob("engines/.*"))
    shutil.move(tmp_path / "archive", archive)

    assert killed.release is ReleaseState.FAILED
    assert "ended without a word. The last one was: “Downloading" in killed.release_detail
    assert len(left) == 1
    assert prepare(empty_stage, tiny).release is ReleaseState.READY
    assert not list(empty_stage.settings.cache.glob("engines/.*"))


def test_a_preparation_that_ended_with_the_machine_is_absent(empty_stage: LocalStage, tiny: DesiredRelease) -> None:
    note = {"phase": "Downloading.", "failure": "", **own_identity().to_record(), "boot_id": "another boot"}
    empty_stage.region.release_state(tiny.sha256).write_text(json.dumps(note))

    assert empty_stage.backend.observe(empty_stage.desired(release=tiny)).release is ReleaseState.ABSENT


def test_an_unforeseen_failure_of_a_preparation_is_noted_too(empty_stage: LocalStage, tiny: DesiredRelease) -> None:
    settings = {"cache": empty_stage.settings.cache, "java_home": empty_stage.settings.java_home, "engine_user": None}
    order = {"release": asdict(tiny), "region_home": empty_stage.settings.region_home, **settings}
    (empty_stage.settings.cache / "engines").mkdir()
    with patch.object(Preparation, "_prepare", side_effect=ValueError):
        Preparation(order).run()

    sight = empty_stage.backend.observe(empty_stage.desired(release=tiny))
    assert sight.release is ReleaseState.FAILED
    assert "unforeseen reason (ValueError)" in sight.release_detail


def test_an_archive_with_two_top_folders_is_refused_with_a_sentence(empty_stage: LocalStage) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in ("one/lib", "two/lib"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    sight = prepare(empty_stage, put_by_hand(empty_stage, content.getvalue()))

    assert sight.release is ReleaseState.FAILED
    assert "holds 2 things instead of one folder" in sight.release_detail


def test_a_preparation_that_cannot_note_its_beginning_is_for_another_turn(
    empty_stage: LocalStage, tiny: DesiredRelease
) -> None:
    shutil.rmtree(empty_stage.region.releases)

    with pytest.raises(RegionUnreachable, match="could not be begun"):
        empty_stage.backend.prepare(tiny)


def test_starting_before_the_release_is_ready_is_for_another_turn(empty_stage: LocalStage) -> None:
    with pytest.raises(Temporary, match=r"release 8\.5\.8 is not ready"):
        empty_stage.backend.start(empty_stage.desired(), [0], epoch=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "There is no Java runtime at"),
        (lambda folder: fake_java(folder, 'JAVA_VERSION="17.0.15"\n'), r"is 17\.0\.15, and engines need version 21"),
        (lambda folder: fake_java(folder, ""), "an unknown version"),
    ],
)
def test_a_missing_or_old_java_is_named(
    empty_stage: LocalStage, tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(tmp_path)
    backend = with_budget(empty_stage, java_home=tmp_path)
    wish = empty_stage.desired()

    with pytest.raises(JavaMissing, match=sentence):
        backend.prepare(wish.release)
    with pytest.raises(JavaMissing, match=sentence):
        backend.start(wish, wish.nodes, epoch=1)
    assert backend.observe(wish).release is ReleaseState.FAILED


def fake_java(folder: Path, release: str) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "java").write_text("#!/bin/sh\n")
    (folder / "bin" / "java").chmod(0o755)
    (folder / "release").write_text(release)


# --- what an engine is given ------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_an_engine_gets_its_own_settings_and_nothing_of_our_environment(
    local_stage: LocalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPLANE_SECRET_KEY", "do-not-leak")
    cluster = local_stage.desired(license_key="licence-of-the-operator")
    local_stage.backend.start(cluster, cluster.nodes, epoch=1)
    record = read_record(local_stage, cluster)
    environment = environment_of(record)
    folder = local_stage.region.cluster(cluster.cluster_id)

    assert "do-not-leak" not in str(environment)
    assert environment["CAMUNDA_LICENSE_KEY"] == "licence-of-the-operator"
    assert environment["CAMUNDA_IDENTITY_AUDIENCE"] == cluster.audience
    assert KeyPairFiles(folder.tls).key.stat().st_mode & 0o777 == 0o400
    assert folder.path.stat().st_mode & 0o007 == 0
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=2)


@pytest.mark.engine
def test_a_certificate_is_kept_while_it_lasts_and_renewed_in_its_last_third(local_stage: LocalStage) -> None:
    cluster = local_stage.desired()
    chain = KeyPairFiles(local_stage.region.cluster(cluster.cluster_id).tls).chain

    def restarted(lifetime_days: int, epoch: int) -> x509.Certificate:
        local_stage.backend.start(cluster, cluster.nodes, epoch=epoch)
        local_stage.kill_engine(cluster.cluster_id)
        await_sight(local_stage.backend, cluster, lambda sight: not sight.running)
        return x509.load_pem_x509_certificate(chain.read_bytes())

    first, second = restarted(397, 1), restarted(397, 2)
    with patch("provisioning.backends.engine.tls.datetime") as clock:
        clock.now.return_value = (
            first.not_valid_after_utc.replace(microsecond=0)
            - (first.not_valid_after_utc - first.not_valid_before_utc) / 4
        )
        third = restarted(397, 3)

    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", cluster.host_name]
    assert second == first
    assert third != first
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=4)


@pytest.mark.engine
def test_observing_beside_a_running_watch_asks_the_engine_nothing(local_stage: LocalStage) -> None:
    cluster = local_stage.desired()
    start(local_stage, cluster)
    sight = seen_unasked(local_stage.backend, cluster, lambda sight: sight.available)

    assert 0 < sight.age_seconds < 5
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=local_stage.next_epoch())


def test_keys_are_replaced_only_when_they_differ_and_everybody_may_read_them(empty_stage: LocalStage) -> None:
    keys = empty_stage.region.keys
    before = keys.stat()
    empty_stage.backend.publish_keys(empty_stage.issuer.jwks())
    same = keys.stat()
    empty_stage.backend.publish_keys({"keys": []})

    assert same.st_ino == before.st_ino
    assert keys.stat().st_ino != before.st_ino
    assert keys.stat().st_mode & 0o777 == 0o644
    assert json.loads(keys.read_text()) == {"keys": []}


# --- taking a region down ---------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_region_is_stopped_without_a_database_and_its_engines_do_not_read_as_crashed(
    local_settings: object, local_stage: LocalStage
) -> None:
    cluster = local_stage.desired()
    start(local_stage, cluster)

    assert stop_all(local_stage.settings.region_home) == 1
    assert stop_all(local_stage.settings.region_home) == 0
    assert stop_all(local_stage.settings.region_home / "nowhere") == 0

    sight = local_stage.backend.observe(replace(cluster, lifecycle=Lifecycle.SUSPENDED))
    assert not sight.running
    assert sight.last_exit == ""
    persist(local_stage.backend.delete, cluster.cluster_id, epoch=local_stage.next_epoch())


def test_a_damaged_note_does_not_keep_the_other_preparations_running(empty_stage: LocalStage) -> None:
    worker = subprocess.Popen(["/bin/sleep", "60"])
    identity = identity_of(worker.pid)
    assert identity is not None
    for name in ("a", "z"):
        (empty_stage.region.releases / f"{name}.json").write_text("{damaged")
    (empty_stage.region.releases / "m.json").write_text(json.dumps(identity.to_record()))

    stop_all(empty_stage.settings.region_home)

    assert worker.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "The region's disk cannot be used: No space left on device"),
        (errno.ENOMEM, "The region's machine refuses: Cannot allocate memory"),
    ],
)
def test_what_the_system_refuses_is_for_another_turn_with_a_sentence(number: int, sentence: str) -> None:
    with pytest.raises(RegionUnreachable, match=sentence), on_disk():
        raise OSError(number, os.strerror(number))


def test_a_region_that_cannot_be_written_is_unreachable(empty_stage: LocalStage) -> None:
    shutil.rmtree(empty_stage.region.waiting)

    with pytest.raises(RegionUnreachable, match="No such file"):
        empty_stage.backend.observe(empty_stage.desired())


def test_ports_are_a_block_without_gaps() -> None:
    ports = Ports(100)

    assert list(ports.all) == [ports.grpc, ports.rest, ports.management, ports.command, ports.internal]


@pytest.mark.parametrize(("name", "kind"), [("../outside", tarfile.REGTYPE), ("dist/link", tarfile.SYMTYPE)])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    archive = tmp_path / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as content:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc"
        content.addfile(member)
    with pytest.raises(ReleaseUnavailable, match="cannot be unpacked"):
        unpack(archive, tmp_path / "unpacked")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release.tar.gz", "unpacked"]


def test_a_damaged_record_is_no_answer_and_names_its_file(local_stage: LocalStage) -> None:
    desired = local_stage.desired()
    folder = local_stage.region.cluster(desired.cluster_id)
    folder.path.mkdir()
    folder.broker(0).record.write_text(json.dumps(own_identity().to_record()))
    with pytest.raises(RegionUnreachable, match=r"engine\.json"):
        local_stage.backend.observe(desired)
