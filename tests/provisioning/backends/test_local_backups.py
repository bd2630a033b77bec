"""Restores and the backup store: a real S3 server; a script stands in for the engine's restore application."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from minio import Minio

from common.errors import Permanent, Temporary
from provisioning.backends.engine import store
from provisioning.backends.engine.origins import Contents, Move, Origin
from provisioning.backends.engine.store import BackupStore, Store
from provisioning.backends.local import LocalBackend, admission
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.contents import read_contents, write_contents
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import running
from provisioning.backends.local.release import Releases
from provisioning.backends.local.stop_all import stop_all
from provisioning.errors import NoCapacity
from provisioning.spec import BackupRef, DesiredCluster, DesiredData, ObservedCluster, ReleaseState, Work
from tests.provisioning.backends.conftest import LocalStage, free_port, wait_until
from tests.provisioning.backends.contract import await_sight, find, follow
from tests.provisioning.backends.test_local_journal import frame, make_segment

CHECKPOINT = 9
# In place of Java: an engine that sleeps, and a restore application that lays a log with records from behind the
# checkpoint, as the engine's own does; `mode` says how it behaves, and while there is `hold`, it does not end.
JAVA = """#!/bin/sh
case "$*" in *RestoreApp*) ;; *) exec /bin/sleep 300 ;; esac
home={home}
mode=$(cat "$home/mode")
echo "start $$" >> "$home/runs"
case "$mode" in
  sleep) exec /bin/sleep 300 ;;
  fail*) echo "${{mode#fail }}" >&2; exit 1 ;;
esac
partition="$ZEEBE_BROKER_DATA_DIRECTORY/raft-partition/partitions/1"
mkdir -p "$partition"
cp "$home/segment" "$partition/raft-partition-partition-1-1.log"
echo "$ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH" > "$ZEEBE_BROKER_DATA_DIRECTORY/source"
while [ -e "$home/hold" ]; do sleep 0.02; done
echo "end $$" >> "$home/runs"
"""


@dataclass
class Restores:
    """A region in which a script stands in for the restore application, and a sleeping program for engines."""

    stage: LocalStage

    @property
    def home(self) -> Path:
        return self.stage.settings.region_home

    @property
    def backend(self) -> LocalBackend:
        return self.stage.backend

    def behave(self, mode: str) -> None:
        (self.home / "mode").write_text(mode)

    def folder(self, desired: DesiredCluster) -> ClusterFolder:
        return self.stage.region.cluster(desired.cluster_id)

    def begin(self, desired: DesiredCluster) -> None:
        self.backend.restore(desired, epoch=self.stage.next_epoch())

    def finish(self, desired: DesiredCluster) -> ObservedCluster:
        self.begin(desired)
        return await_sight(self.backend, desired, lambda sight: sight.data in {Work.DONE, Work.FAILED})

    def start(self, desired: DesiredCluster) -> None:
        self.backend.start(desired, desired.nodes, epoch=self.stage.next_epoch())

    def await_runs(self, count: int) -> None:
        wait_until(lambda: len(self.runs()) >= count)

    def runs(self) -> list[str]:
        path = self.home / "runs"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def restores(empty_stage: LocalStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restores]:
    """Every release counts as ready; the application makes good data unless told otherwise."""
    home = empty_stage.settings.region_home
    (home / "java").write_text(JAVA.format(home=home))
    (home / "java").chmod(0o755)
    (home / "segment").write_bytes(make_segment(3, CHECKPOINT, junk=frame(12) * 3))

    def program(_: Releases, release: Any) -> Program:
        return Program(home / "java", home, release.main_class)

    monkeypatch.setattr(Releases, "program", program)
    monkeypatch.setattr(Releases, "state", lambda *_: (ReleaseState.READY, ""))
    restores = Restores(LocalStage(replace(empty_stage.settings, engine_user=None, memory_budget_mib=10_000)))
    restores.behave("well")
    Store(store_of(restores)).provide_bucket()
    yield restores
    stop_all(home, grace_seconds=5)


def store_of(restores: Restores) -> BackupStore:
    assert restores.stage.settings.store is not None
    return restores.stage.settings.store


def client_of(settings: BackupStore) -> Minio:
    address = settings.endpoint.removeprefix("http://")
    return Minio(address, settings.access_key, settings.secret_key, secure=False, region=settings.region)


def put(restores: Restores, name: str, content: bytes = b"x") -> None:
    client_of(store_of(restores)).put_object(store_of(restores).bucket, name, io.BytesIO(content), len(content))


def put_backup(restores: Restores, ref: BackupRef, *, release: str = "8.5.8", **overrides: Any) -> None:
    """A complete backup of one partition, as an engine lays it down."""
    manifest = {
        "statusCode": "completed",
        "id": {"nodeId": 0, "partitionId": 1, "checkpointId": ref.number},
        "descriptor": {"checkpointPosition": CHECKPOINT, "numberOfPartitions": 1, "brokerVersion": release},
        **overrides,
    }
    folder = f"{ref.cluster_id}/1/{ref.number}/0"
    put(restores, f"{folder}/segments/raft-partition-partition-1-1.log")
    put(restores, f"{folder}/manifest.json", json.dumps(manifest).encode())


def names_in_store(restores: Restores) -> set[str]:
    found = client_of(store_of(restores)).list_objects(store_of(restores).bucket, recursive=True)
    return {one.object_name or "" for one in found}


@pytest.fixture
def wish(restores: Restores) -> DesiredCluster:
    """A cluster that is to begin on another one's backup, which is there."""
    ref = BackupRef(uuid4(), 1000)
    put_backup(restores, ref)
    return restores.stage.desired(data=DesiredData(1, ref))


def broker_of(restores: Restores, desired: DesiredCluster, node: int = 0) -> BrokerFolder:
    return restores.folder(desired).broker(node)


def worker_of(broker: BrokerFolder) -> Identity:
    worker = Identity.from_record(json.loads(broker.restore.read_text()))
    assert worker is not None
    return worker


# --- restoring --------------------------------------------------------------------------------------------------------


def test_the_data_of_three_brokers_is_fetched_one_after_the_other_and_once(restores: Restores) -> None:
    ref = BackupRef(uuid4(), 1000)
    put_backup(restores, ref)
    wish = replace(restores.stage.resilient(), data=DesiredData(1, ref))
    before = restores.backend.observe(wish)
    (restores.home / "hold").touch()
    restores.begin(wish)
    restores.begin(wish)
    early = restores.backend.observe(wish)
    (restores.home / "hold").unlink()
    late = await_sight(restores.backend, wish, lambda sight: sight.data in {Work.DONE, Work.FAILED})
    restores.begin(wish)

    assert before.data is Work.ABSENT
    assert early.data is Work.RUNNING
    assert early.data_detail.startswith("Broker ")
    assert late.data is Work.DONE
    assert [line.split()[0] for line in restores.runs()] == ["start", "end"] * 3
    sources = [(broker_of(restores, wish, node).incoming / "source").read_text().strip() for node in range(3)]
    assert sources == [str(ref.cluster_id)] * 3


def test_what_is_started_on_is_cleared_behind_the_checkpoint(restores: Restores, wish: DesiredCluster) -> None:
    restores.finish(wish)
    restores.start(wish)
    broker = broker_of(restores, wish)
    sight = restores.backend.observe(wish)

    log = broker.data / "raft-partition" / "partitions" / "1" / "raft-partition-partition-1-1.log"
    assert log.read_bytes() == make_segment(3, CHECKPOINT)
    assert read_contents(broker) == Contents(Origin(1, wish.data.source, "8.5.8"))
    assert sight.data is Work.DONE
    assert sight.broker(0).has_wished_data
    assert not sight.keeps_former
    assert not [path for path in (broker.incoming, broker.restore, broker.path / "restoring") if path.exists()]


def test_a_log_that_does_not_end_with_the_checkpoint_is_not_started_on(
    restores: Restores, wish: DesiredCluster
) -> None:
    (restores.home / "segment").write_bytes(make_segment(3, 4))
    failed = restores.finish(wish)

    assert failed.data is Work.FAILED
    assert "does not end where the backup says" in failed.data_detail
    assert not broker_of(restores, wish).incoming.exists()


def test_a_restore_that_was_killed_has_failed_and_is_begun_anew(restores: Restores, wish: DesiredCluster) -> None:
    restores.behave("sleep")
    restores.begin(wish)
    restores.await_runs(1)
    broker = broker_of(restores, wish)
    application = int(restores.runs()[0].split()[1])
    worker_of(broker).signal(signal.SIGKILL)
    worker_of(broker).wait(5)
    killed = restores.backend.observe(wish)
    left = broker.incoming.exists()
    restores.behave("well")
    again = restores.finish(wish)

    assert killed.data is Work.FAILED
    assert "ended without a word" in killed.data_detail
    assert left
    assert again.data is Work.DONE
    deadline = time.monotonic() + 10.0
    while not is_gone(application):
        assert time.monotonic() < deadline, "two write into one folder"
        time.sleep(0.05)


def is_gone(number: int) -> bool:
    """Whether a process has ended; somebody else's may wait a moment for being reaped, and has no words any more."""
    try:
        return not Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def test_a_restore_that_ended_with_the_machine_or_the_region_is_absent(
    restores: Restores, wish: DesiredCluster
) -> None:
    restores.behave("sleep")
    restores.begin(wish)
    restores.await_runs(1)
    stop_all(restores.home)
    stopped = restores.backend.observe(wish)
    broker = broker_of(restores, wish)
    note = json.loads(broker.restore.read_text())
    broker.restore.write_text(json.dumps({**note, "is_over": False, "boot_id": "another boot"}))

    assert stopped.data is Work.ABSENT
    assert not broker.incoming.exists()
    assert restores.backend.observe(wish).data is Work.ABSENT


def test_a_restore_for_an_earlier_wish_is_ended_and_its_data_never_used(
    restores: Restores, wish: DesiredCluster
) -> None:
    assert wish.data.source is not None
    restores.behave("sleep")
    restores.begin(wish)
    restores.await_runs(1)
    earlier = worker_of(broker_of(restores, wish))
    later = replace(wish, data=DesiredData(2, replace(wish.data.source, number=2000)))
    put_backup(restores, BackupRef(wish.data.source.cluster_id, 2000))
    restores.behave("well")
    absent = restores.backend.observe(later)
    done = restores.finish(later)
    other_size = replace(later, size=replace(later.size, brokers=3))

    assert absent.data is Work.ABSENT
    assert done.data is Work.DONE
    assert not earlier.is_alive()
    # Partitions lie otherwise on another number of brokers.
    assert restores.backend.observe(other_size).data is Work.ABSENT


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fail java.io.IOException: No space left on device", "the disk is full."),
        ("fail BackupNotValidException: Expected backup to have 2 partitions", "another number of partitions."),
        ("fail software.amazon.awssdk...S3Exception: 403", "the backup store refused."),
        ("fail order 4711 of Alice", "the engine's program for it gave up."),
    ],
)
def test_a_failed_restore_is_told_in_fixed_words_and_leaves_nothing(
    restores: Restores, wish: DesiredCluster, words: str, sentence: str
) -> None:
    restores.behave(words)
    failed = restores.finish(wish)

    assert failed.data is Work.FAILED
    assert failed.data_detail.startswith("The backup could not be fetched: ")
    assert failed.data_detail.endswith(sentence)
    assert not broker_of(restores, wish).incoming.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no complete backup 1000"),
        ({"statusCode": "in_progress"}, "has no complete backup 1000"),
        ({"descriptor": {"checkpointPosition": 1, "numberOfPartitions": 3, "brokerVersion": "8.5.8"}}, "no complete"),
        ({"release": "8.6.0"}, r"Release 8\.6\.0 took the backup, and release 8\.5\.8 cannot read it"),
        ({"statusCode": None, "id": 1}, "does not answer|no complete"),
    ],
)
def test_a_backup_that_cannot_be_used_is_refused_before_anything_is_fetched(
    restores: Restores, content: dict[str, Any] | None, sentence: str
) -> None:
    ref = BackupRef(uuid4(), 1000)
    if content is not None:
        put_backup(restores, ref, **content)
    put_backup(restores, replace(ref, number=10000))
    failed = restores.finish(restores.stage.desired(data=DesiredData(1, ref)))

    assert failed.data is Work.FAILED
    assert re.search(sentence, failed.data_detail)
    assert restores.runs() == []


def test_former_data_stays_until_it_is_let_go_and_stale_data_goes_with_it(
    restores: Restores, wish: DesiredCluster
) -> None:
    own = replace(wish, data=DesiredData())
    restores.start(own)
    broker = broker_of(restores, own)
    (broker.data / "mine").write_text("own")
    ready = restores.finish(wish)
    beside = restores.backend.observe(own)
    restores.backend.let_go(own, epoch=restores.stage.next_epoch())
    let_go = restores.backend.observe(own)
    restores.finish(wish)
    restores.backend.stop(wish, [0], epoch=restores.stage.next_epoch())
    await_sight(restores.backend, wish, lambda sight: not sight.running)
    restores.start(wish)
    kept = restores.backend.observe(wish)
    former = (broker.former / "mine").read_text()
    restores.backend.let_go(wish, epoch=restores.stage.next_epoch())

    assert ready.running
    assert not ready.broker(0).has_wished_data
    assert beside.keeps_former
    assert not let_go.keeps_former
    assert kept.keeps_former
    assert former == "own"
    assert not restores.backend.observe(wish).keeps_former
    assert not broker.former.exists()


def test_deleting_a_cluster_ends_its_restore(restores: Restores, wish: DesiredCluster) -> None:
    restores.behave("sleep")
    restores.begin(wish)
    restores.await_runs(1)
    worker = worker_of(broker_of(restores, wish))
    assert restores.backend.delete(wish.cluster_id, epoch=restores.stage.next_epoch())

    assert not worker.is_alive()
    assert not restores.backend.observe(wish).exists
    assert find(restores.stage, wish.cluster_id) is None


def test_the_progress_of_a_restore_is_news(restores: Restores, wish: DesiredCluster) -> None:
    (restores.home / "hold").touch()
    with follow(restores.backend) as changes:
        restores.begin(wish)
        while restores.backend.observe(wish).data is not Work.RUNNING:
            assert next(changes) == wish.cluster_id
        (restores.home / "hold").unlink()
        assert next(changes) == wish.cluster_id
        while restores.backend.observe(wish).data is not Work.DONE:
            assert next(changes) == wish.cluster_id


def test_without_memory_or_a_store_nothing_is_begun(restores: Restores, wish: DesiredCluster) -> None:
    with patch.object(admission, "_available_mib", return_value=1), pytest.raises(NoCapacity, match="needs 384 MiB"):
        restores.begin(wish)
    nowhere = LocalBackend(replace(restores.stage.settings, store=None))
    with pytest.raises(Permanent, match=r"The region has no backup store\. Set FLOWPLANE_BACKUP_S3_ENDPOINT"):
        nowhere.restore(wish, epoch=restores.stage.next_epoch())
    assert restores.backend.observe(wish).data is Work.ABSENT


def test_a_store_that_is_silent_fails_a_restore_with_a_sentence(restores: Restores, wish: DesiredCluster) -> None:
    silent = replace(store_of(restores), endpoint=f"http://127.0.0.1:{free_port()}")
    other = Restores(LocalStage(replace(restores.stage.settings, store=silent)))
    failed = other.finish(wish)

    assert failed.data_detail == (
        "The backup store does not answer. Check that it runs, and FLOWPLANE_BACKUP_S3_ENDPOINT."
    )


def test_an_unfinished_move_is_finished_before_a_restore_lays_something_beside(
    restores: Restores, wish: DesiredCluster
) -> None:
    """Or the new data would be taken for that of the move."""
    broker = broker_of(restores, wish)
    broker.data.mkdir(parents=True)
    (broker.data / "first").write_text("restored first")
    first = Origin(1, BackupRef(UUID(int=5), 1), "8.5.8")
    write_contents(broker, Contents(first, None, Move.TAKE_IN))
    later = replace(wish, data=replace(wish.data, epoch=2))
    restores.finish(later)

    assert read_contents(broker) == Contents(first)
    assert (broker.data / "first").exists()
    assert broker.incoming.exists()


# --- the store --------------------------------------------------------------------------------------------------------


def test_dropping_takes_a_bounded_number_at_a_time_and_nothing_of_any_other_backup(
    restores: Restores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_REMOVALS", 3)
    mine, other = BackupRef(uuid4(), 12), BackupRef(uuid4(), 12)
    for partition in (1, 2, 12):
        for name in ("manifest.json", "segments/a.log", "snapshot/b.sst"):
            put(restores, f"{mine.cluster_id}/{partition}/12/0/{name}")
    kept = {
        f"{mine.cluster_id}/1/123/0/manifest.json",
        f"{mine.cluster_id}/12/1/0/manifest.json",
        f"{mine.cluster_id}/1/1/12/manifest.json",
        f"{other.cluster_id}/1/12/0/manifest.json",
    }
    for name in kept:
        put(restores, name)
    before = names_in_store(restores)

    outcomes = [restores.backend.drop_backup(mine) for _ in range(4)]

    assert outcomes == [False, False, True, True]
    assert (
        before - names_in_store(restores) == {name for name in before if name.startswith(str(mine.cluster_id))} - kept
    )
    assert kept <= names_in_store(restores)


def test_a_store_that_refuses_or_is_silent_or_not_there_is_told_apart(restores: Restores) -> None:
    def backend(**overrides: Any) -> LocalBackend:
        other = replace(store_of(restores), **overrides)
        return LocalBackend(replace(restores.stage.settings, store=other))

    ref = BackupRef(uuid4(), 1)
    with pytest.raises(Temporary, match=r"refuses us\. Check FLOWPLANE_BACKUP_S3_ACCESS_KEY"):
        backend(secret_key="another-secret").drop_backup(ref)
    with pytest.raises(Temporary, match=r"does not answer\. Check that it runs"):
        backend(endpoint=f"http://127.0.0.1:{free_port()}").drop_backup(ref)
    with pytest.raises(Temporary, match=r"no such bucket\. Check FLOWPLANE_BACKUP_S3_BUCKET"):
        backend(bucket="not-made-yet").drop_backup(ref)
    with pytest.raises(Permanent, match="The region has no backup store"):
        LocalBackend(replace(restores.stage.settings, store=None)).drop_backup(ref)
    Store(replace(store_of(restores), bucket="not-made-yet")).provide_bucket()
    assert backend(bucket="not-made-yet").drop_backup(ref)


def test_a_store_that_hangs_leaves_a_turn_time_for_the_rest(restores: Restores) -> None:
    cluster = replace(restores.stage.desired(), backup=BackupRef(uuid4(), 1))
    restores.start(cluster)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        hanging = replace(store_of(restores), endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with (
            patch("provisioning.backends.local.backend.Store", wraps=Store) as made,
            pytest.raises(Temporary, match="The backup store does not answer"),
        ):
            LocalBackend(replace(restores.stage.settings, store=hanging)).back_up(cluster, epoch=10**6)
    made.assert_called_once_with(hanging, store.TURN_TIMEOUT)


def test_backups_of_which_nothing_else_is_left_are_in_the_inventory_and_a_silent_store_hides_nothing(
    restores: Restores,
) -> None:
    ref = BackupRef(uuid4(), 1)
    put_backup(restores, ref)
    put(restores, "not-a-cluster/1/1/0/manifest.json")
    cluster = restores.stage.desired()
    restores.start(cluster)
    silent = replace(store_of(restores), endpoint=f"http://127.0.0.1:{free_port()}")
    without = LocalBackend(replace(restores.stage.settings, store=silent))

    found = find(restores.stage, ref.cluster_id)
    assert found is not None
    assert found.parts == ("Backups in the region's store.",)
    assert found.since is None
    assert cluster.cluster_id in {one.cluster_id for one in without.inventory()}


def test_an_engine_that_does_not_know_the_store_is_not_asked_for_a_backup(restores: Restores) -> None:
    cluster = replace(restores.stage.desired(), backup=BackupRef(uuid4(), 1))
    LocalBackend(replace(restores.stage.settings, store=None)).start(cluster, [0], epoch=1)
    with pytest.raises(Permanent, match="was started before the region had a backup store") as caught:
        restores.backend.back_up(cluster, epoch=2)

    assert caught.value.message.endswith("suspend and resume it once.")
    record = running(broker_of(restores, cluster))
    assert record is not None
    assert "BACKUP" not in Path(f"/proc/{record.identity.pid}/environ").read_text()
    # A store restarts nothing.
    assert restores.backend.observe(cluster).broker(0).digest == cluster.digest


def test_the_stores_keys_are_in_no_representation(restores: Restores) -> None:
    settings = store_of(restores)
    assert settings.secret_key not in repr(restores.stage.settings)
    assert settings.secret_key not in settings.fingerprint
