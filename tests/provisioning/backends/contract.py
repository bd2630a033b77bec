"""What every backend must show. A backend's test module supplies the fixture `stage` and inherits `BackendContract`."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar
from uuid import UUID, uuid4

import pytest

from common.errors import Permanent, Temporary
from embedded.doors import wait_for
from provisioning.backends.base import ClusterBackend, Find
from provisioning.errors import Fenced
from provisioning.spec import BackupRef, DesiredCluster, DesiredData, ObservedCluster, ReleaseState, Work
from tests.provisioning.backends.tokens import EngineClient, Issuer, insist, make_key

# A cold engine on two busy cores, or a region that has to make room first.
PATIENCE_SECONDS = 180.0
# A region may bring published keys to engines by its own slow ways: a kubelet looks once a minute.
KEYS_SECONDS = 150.0
# An engine is available before every router on the way to it has heard so.
ROUTE_SECONDS = 120.0
NOTICE_SECONDS = 20.0

P = ParamSpec("P")
T = TypeVar("T")


class Stage(Protocol):
    """A region to test a backend in. `prepare` has been done for the release of `desired()`."""

    issuer: Issuer

    @property
    def backend(self) -> ClusterBackend: ...

    @property
    def authority(self) -> Path:
        """The certificate that clients trust."""

    def another_backend(self) -> ClusterBackend:
        """A second backend of the same region, as another process has it."""

    def desired(self) -> DesiredCluster:
        """A new cluster of the smallest size, which no other test uses."""

    def resilient(self) -> DesiredCluster:
        """A new cluster of three brokers that hold three partitions each."""

    def upgraded(self, desired: DesiredCluster) -> DesiredCluster:
        """The same on the next release, which has been prepared."""

    def broken(self, desired: DesiredCluster) -> DesiredCluster:
        """The same on a next release whose engine never comes up."""

    def next_epoch(self) -> int:
        """A fencing number above all before."""

    def kill_engine(self, cluster_id: UUID, node: int = 0) -> None:
        """End a broker without the backend's knowing."""

    def shows_end(self, cluster_id: UUID) -> bool:
        """Whether the first broker's end is there for a backend to see."""

    def count_engines(self, cluster_id: UUID, node: int = 0) -> int:
        """How many engine processes of this broker live."""

    def start_and_die(self, desired: DesiredCluster, epoch: int) -> None:
        """Start all brokers from a process that is killed right after."""


def persist(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Make a call of a backend, again while it is `Temporary`, as the loop does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call(*arguments, **named)
        except Temporary as error:
            if isinstance(error, Fenced) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def await_sight(
    backend: ClusterBackend, desired: DesiredCluster, is_so: Callable[[ObservedCluster], bool]
) -> ObservedCluster:
    """Observe until it is so, and return that sight."""

    def look() -> ObservedCluster:
        sight = backend.observe(desired)
        if not is_so(sight):
            raise Temporary(f"still {sight}")
        return sight

    return persist(look)


def is_well(desired: DesiredCluster) -> Callable[[ObservedCluster], bool]:
    """Whether every wished broker is healthy, and every partition led."""
    return lambda sight: sight.available and all(sight.broker(node).healthy for node in desired.nodes)


def start(stage: Stage, desired: DesiredCluster) -> ObservedCluster:
    """Start a cluster and wait until all of it is well."""
    persist(stage.backend.start, desired, desired.nodes, epoch=stage.next_epoch())
    return await_sight(stage.backend, desired, is_well(desired))


def keep_starting(stage: Stage, desired: DesiredCluster) -> ObservedCluster:
    """Start a cluster, and each broker of it again that ends, until all of it is well."""

    def is_so(sight: ObservedCluster) -> bool:
        absent = [node for node in desired.nodes if not sight.broker(node).running]
        if absent:
            stage.backend.start(desired, absent, epoch=stage.next_epoch())
        return is_well(desired)(sight)

    return await_sight(stage.backend, desired, is_so)


def stop(stage: Stage, desired: DesiredCluster, *nodes: int) -> ObservedCluster:
    """Stop a cluster's brokers, all of them unless told which, and wait for their end.

    Some of several may come back at once, where something else than we starts them; then as they are wished.
    """
    chosen = nodes or tuple(desired.nodes)
    before = persist(stage.backend.observe, desired)
    persist(stage.backend.stop, desired, chosen, epoch=stage.next_epoch())

    def is_over(sight: ObservedCluster, node: int) -> bool:
        broker = sight.broker(node)
        is_another = broker.digest == desired.digest != before.broker(node).digest and not broker.stopping
        return not broker.running or is_another

    return await_sight(stage.backend, desired, lambda sight: all(is_over(sight, node) for node in chosen))


def back_up(stage: Stage, desired: DesiredCluster) -> BackupRef:
    """Have a backup taken and wait for it. Numbers rise with the time, as they must within a cluster."""
    backup = BackupRef(desired.cluster_id, int(time.time()))
    wish = replace(desired, backup=backup)
    persist(stage.backend.back_up, wish, epoch=stage.next_epoch())
    sight = await_sight(stage.backend, wish, lambda sight: sight.backup in {Work.DONE, Work.FAILED})
    assert sight.backup is Work.DONE, sight.backup_detail
    return backup


def restore(stage: Stage, desired: DesiredCluster) -> ObservedCluster:
    """Fetch the wished data and wait for it."""
    persist(stage.backend.restore, desired, epoch=stage.next_epoch())
    return await_sight(stage.backend, desired, lambda sight: sight.data in {Work.DONE, Work.FAILED})


def await_end(stage: Stage, desired: DesiredCluster) -> float:
    """Wait until the region itself shows that the broker has ended; when, by the monotonic clock."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stage.shows_end(desired.cluster_id):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return time.monotonic()


def await_answer(engine: EngineClient, token: str, seconds: float = ROUTE_SECONDS) -> None:
    """Ask until this token is taken."""
    deadline = time.monotonic() + seconds
    while (status := engine.ask(token)) != "OK":
        assert time.monotonic() < deadline, status
        time.sleep(0.5)


def client(stage: Stage, sight: ObservedCluster) -> EngineClient:
    assert sight.endpoint is not None
    return EngineClient(sight.endpoint.grpc, stage.authority)


class Load:
    """Several clients that create instances, one after the other, for the length of a `with` block."""

    CLIENTS = 4

    def __init__(self, engine: EngineClient, token: str) -> None:
        self._engine, self._token = engine, token
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._clients = ThreadPoolExecutor(self.CLIENTS)
        self.created: set[int] = set()

    def __enter__(self) -> Load:
        self._running = [self._clients.submit(self._create) for _ in range(self.CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._clients.shutdown()
        for client in self._running:
            client.result()

    def _create(self) -> None:
        while not self._is_over.is_set():
            number = next(self._numbers)
            self._engine.create_waiting(self._token, number)
            self.created.add(number)

    def until(self, number: int) -> None:
        """Wait until so many instances are created."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.created) < number:
            assert time.monotonic() < deadline, "the load stands still"
            time.sleep(0.01)


@pytest.mark.engine
class BackendContract:
    """Inherit it as `TestXxxBackend`."""

    @pytest.fixture
    def cluster(self, stage: Stage) -> Iterator[DesiredCluster]:
        """A cluster of this test's own, removed afterwards."""
        desired = stage.desired()
        yield desired
        persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())

    def test_a_cluster_that_was_never_started_does_not_exist(self, stage: Stage) -> None:
        sight = persist(stage.backend.observe, stage.desired())

        assert not sight.exists
        assert not sight.running
        assert sight.endpoint is None
        assert sight.release is ReleaseState.READY

    def test_deleting_or_stopping_what_is_not_there_is_success(self, stage: Stage) -> None:
        desired = stage.desired()

        persist(stage.backend.stop, desired, desired.nodes, epoch=stage.next_epoch())
        persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())

        assert not persist(stage.backend.observe, desired).exists

    def test_a_started_engine_says_what_it_waits_for_and_becomes_available(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        persist(stage.backend.start, cluster, cluster.nodes, epoch=stage.next_epoch())
        early = await_sight(stage.backend, cluster, lambda sight: sight.running)
        late = await_sight(stage.backend, cluster, lambda sight: sight.available)

        assert early.running
        assert not early.available
        assert early.waits_for.endswith(".")
        assert late.waits_for == ""
        assert late.healthy_partitions == cluster.size.partitions
        assert late.broker(0).digest == cluster.digest
        assert late.restarts == 1
        assert late.last_exit == ""

        # The same engine shows more, so that this suite starts few of them.
        self.check_tokens(stage, cluster, late)
        self.check_second_start(stage, cluster)
        self.check_older_epoch(stage, cluster)
        self.check_key_rotation(stage, cluster, late)

    def check_tokens(self, stage: Stage, cluster: DesiredCluster, sight: ObservedCluster) -> None:
        """Its own token over TLS is accepted, every other one refused."""
        with client(stage, sight) as engine:
            await_answer(engine, stage.issuer.token(cluster.audience))
            bad = {name: engine.ask(token) for name, token in stage.issuer.bad_tokens(cluster.audience).items()}
            assert engine.ask(stage.issuer.token(cluster.audience)) == "OK"
        assert bad == dict.fromkeys(bad, "UNAUTHENTICATED")

    def check_second_start(self, stage: Stage, cluster: DesiredCluster) -> None:
        """Starting what runs changes nothing, from whichever process."""
        persist(stage.another_backend().start, cluster, cluster.nodes, epoch=stage.next_epoch())

        assert stage.count_engines(cluster.cluster_id) == 1
        assert persist(stage.backend.observe, cluster).restarts == 1

    def check_older_epoch(self, stage: Stage, cluster: DesiredCluster) -> None:
        """A worker that overslept does no harm."""
        old, new = stage.next_epoch(), stage.next_epoch()
        persist(stage.backend.start, cluster, cluster.nodes, epoch=new)

        with pytest.raises(Fenced):
            persist(stage.another_backend().stop, cluster, cluster.nodes, epoch=old)
        with pytest.raises(Fenced):
            persist(stage.another_backend().delete, cluster.cluster_id, epoch=old)
        with pytest.raises(Fenced):
            persist(stage.another_backend().start, cluster, cluster.nodes, epoch=old)
        await_sight(stage.backend, cluster, is_well(cluster))

    def check_key_rotation(self, stage: Stage, cluster: DesiredCluster, sight: ObservedCluster) -> None:
        """A new key works in a running engine soon after it is published, the old one beside it all the time."""
        old = stage.issuer.keys[-1]
        stage.issuer.keys.append(make_key(f"key-{uuid4()}"))
        with client(stage, sight) as engine:
            assert engine.ask(stage.issuer.token(cluster.audience)) == "UNAUTHENTICATED"
            persist(stage.backend.publish_keys, stage.issuer.jwks())
            await_answer(engine, stage.issuer.token(cluster.audience), KEYS_SECONDS)
            assert engine.ask(stage.issuer.token(cluster.audience, key=old)) == "OK"

    def test_a_stopped_engine_keeps_data_and_address_while_a_new_audience_ends_all_old_tokens(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        before = start(stage, cluster)
        old_token = stage.issuer.token(cluster.audience)
        with client(stage, before) as engine:
            await_answer(engine, old_token)
            engine.deploy(old_token)

        stopped = stop(stage, cluster)
        # A watch that begins tells of everything there is: nobody watched while the engine stopped.
        with follow(stage.another_backend()) as changes:
            await_change(changes, cluster.cluster_id, lambda: True)
        changed = replace(cluster, audience=f"{cluster.cluster_id}/2")
        after = start(stage, changed)

        with client(stage, after) as engine:
            await_answer(engine, stage.issuer.token(changed.audience))
            insist(lambda: engine.run_deployed(stage.issuer.token(changed.audience)))
            assert engine.ask(old_token) == "UNAUTHENTICATED"
        assert after.broker(0).digest == changed.digest != before.broker(0).digest
        assert stopped.exists
        assert stopped.last_exit == ""
        assert after.endpoint == before.endpoint
        assert after.restarts == 2

    def test_a_killed_engine_is_noticed_and_started_again(self, stage: Stage, cluster: DesiredCluster) -> None:
        start(stage, cluster)
        shown_at: list[Future[float]] = []

        def kill() -> None:
            stage.kill_engine(cluster.cluster_id)
            shown_at.append(beside.submit(await_end, stage, cluster))

        def is_down() -> bool:
            return bool(shown_at) and not persist(stage.backend.observe, cluster).available

        with ThreadPoolExecutor(1) as beside, follow(stage.backend, cluster.cluster_id, kill) as changes:
            told_at = await_change(changes, cluster.cluster_id, is_down)
        sight = await_sight(stage.backend, cluster, lambda sight: sight.last_exit != "")

        # How soon a region itself knows is its own matter.
        assert told_at - shown_at[0].result() < NOTICE_SECONDS
        assert sight.exists
        assert not sight.available
        assert sight.last_exit.endswith(".")
        again = start(stage, cluster)
        assert again.restarts == 2
        assert again.last_exit == sight.last_exit

    def test_an_engine_outlives_the_process_that_started_it(self, stage: Stage, cluster: DesiredCluster) -> None:
        stage.start_and_die(cluster, stage.next_epoch())

        adopted = await_sight(stage.another_backend(), cluster, lambda sight: sight.available)
        stopped = stop(stage, cluster)

        assert adopted.broker(0).digest == cluster.digest
        assert not stopped.running

    def test_deleting_ends_a_running_engine_and_leaves_nothing(self, stage: Stage, cluster: DesiredCluster) -> None:
        nothing = persist(stage.backend.belongings, cluster.cluster_id)
        persist(stage.backend.start, cluster, cluster.nodes, epoch=stage.next_epoch())
        belongings = persist(stage.backend.belongings, cluster.cluster_id)

        persist(stage.backend.delete, cluster.cluster_id, epoch=stage.next_epoch())
        gone = await_sight(stage.backend, cluster, lambda sight: not sight.exists)
        persist(stage.backend.delete, cluster.cluster_id, epoch=stage.next_epoch())

        assert any(str(cluster.cluster_id) in one for one in belongings)
        assert len(belongings) > 1
        assert list(nothing) == list(persist(stage.backend.belongings, cluster.cluster_id)) == []

        assert gone.brokers == ()
        assert gone.endpoint is None
        assert stage.count_engines(cluster.cluster_id) == 0

    def test_a_worker_that_overslept_a_deletion_cannot_bring_the_cluster_back(self, stage: Stage) -> None:
        desired, old, new = stage.desired(), stage.next_epoch(), stage.next_epoch()
        persist(stage.backend.delete, desired.cluster_id, epoch=new)

        with pytest.raises(Fenced):
            persist(stage.another_backend().start, desired, desired.nodes, epoch=old)
        # What it had begun it has to take back itself: nobody looks after the cluster any more.
        await_sight(stage.backend, desired, lambda sight: not sight.exists)
        assert stage.count_engines(desired.cluster_id) == 0

    # --- what an engine works on ---

    def test_a_backup_is_restored_in_place_and_into_another_cluster(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        before = start(stage, cluster)
        token = stage.issuer.token(cluster.audience)
        with client(stage, before) as engine:
            engine.deploy_waiting(token)
            for number in range(5):
                engine.create_waiting(token, number)
            backup = self.back_up_under_load(stage, cluster, engine, token)
            engine.create_waiting(token, 1000)

        self.check_a_failed_restore_leaves_the_old_serving(stage, cluster, backup)
        restored = replace(cluster, data=DesiredData(1, backup))
        self.check_restored(stage, restored, before)
        self.check_going_back_to_the_former_data(stage, cluster)
        self.check_fork(stage, backup)
        self.check_dropping(stage, cluster, backup)

    def back_up_under_load(self, stage: Stage, cluster: DesiredCluster, engine: EngineClient, token: str) -> BackupRef:
        """A backup of an idle engine proves little: what comes in meanwhile is in its files, and must not be in it."""
        is_over = threading.Event()

        def load() -> None:
            number = 100
            while not is_over.is_set():
                engine.create_waiting(token, number)
                number += 1

        clients = [threading.Thread(target=load) for _ in range(3)]
        for one in clients:
            one.start()
        time.sleep(1)
        try:
            return back_up(stage, cluster)
        finally:
            is_over.set()
            for one in clients:
                one.join()

    def check_a_failed_restore_leaves_the_old_serving(
        self, stage: Stage, cluster: DesiredCluster, backup: BackupRef
    ) -> None:
        wrong = replace(cluster, data=DesiredData(1, replace(backup, number=7)))
        absent = persist(stage.backend.observe, wrong)
        failed = restore(stage, wrong)
        serving = await_sight(stage.backend, wrong, lambda sight: sight.available)

        assert absent.data is Work.ABSENT
        assert failed.data is Work.FAILED
        assert failed.data_detail.endswith(".")
        assert serving.restarts == absent.restarts
        assert not failed.broker(0).has_wished_data

    def check_restored(self, stage: Stage, restored: DesiredCluster, before: ObservedCluster) -> None:
        """The engine serves the former data until it is stopped; then it works on the backup's, and does not stall."""
        ready = restore(stage, restored)
        assert ready.data is Work.DONE, ready.data_detail
        serving = await_sight(stage.backend, restored, lambda sight: sight.available)
        assert serving.restarts == before.restarts
        assert not ready.broker(0).has_wished_data
        persist(stage.backend.restore, restored, epoch=stage.next_epoch())
        stop(stage, restored)
        after = start(stage, restored)

        assert after.broker(0).has_wished_data
        assert after.data is Work.DONE
        assert after.keeps_former
        assert after.endpoint == before.endpoint
        token = stage.issuer.token(restored.audience)
        with client(stage, after) as engine:
            for number in range(2000, 2010):
                engine.create_waiting(token, number)
            done = engine.finish_waiting(token, {*range(5), *range(2000, 2010)})
        assert {*range(5), *range(2000, 2010)} <= done
        assert 1000 not in done

    def check_going_back_to_the_former_data(self, stage: Stage, cluster: DesiredCluster) -> None:
        """Until it is let go, the former data is one start away."""
        assert persist(stage.backend.observe, cluster).data is Work.DONE
        stop(stage, cluster)
        back = start(stage, cluster)
        token = stage.issuer.token(cluster.audience)
        with client(stage, back) as engine:
            assert {*range(5), 1000} <= engine.finish_waiting(token, {*range(5), 1000})
        assert not back.keeps_former

    def check_fork(self, stage: Stage, backup: BackupRef) -> None:
        """Another cluster begins on a copy of the data."""
        fork = replace(stage.desired(), data=DesiredData(1, backup))
        try:
            fresh = persist(stage.backend.observe, fork)
            ready = restore(stage, fork)
            sight = start(stage, fork)
            token = stage.issuer.token(fork.audience)
            with client(stage, sight) as engine:
                done = engine.finish_waiting(token, set(range(5)))
        finally:
            persist(stage.backend.delete, fork.cluster_id, epoch=stage.next_epoch())
        assert fresh.data is Work.ABSENT
        assert ready.data is Work.DONE, ready.data_detail
        assert set(range(5)) <= done

    def check_dropping(self, stage: Stage, cluster: DesiredCluster, backup: BackupRef) -> None:
        """A dropped backup is gone, another one is not; both without the engine."""
        kept = back_up(stage, cluster)
        stop(stage, cluster)
        while not persist(stage.backend.drop_backup, backup):
            pass
        while not persist(stage.backend.drop_backup, replace(backup, number=backup.number // 10)):
            pass

        assert persist(stage.backend.drop_backup, backup)
        start(stage, cluster)
        # A fresh engine's first word of its store is slow, and until then every backup looks as if it were under way.
        await_sight(stage.backend, replace(cluster, backup=kept), lambda sight: sight.backup is Work.DONE)
        gone = await_sight(
            stage.backend, replace(cluster, backup=backup), lambda sight: sight.backup is not Work.RUNNING
        )
        assert gone.backup in {Work.ABSENT, Work.FAILED}

    def test_a_release_can_be_gone_back_from_with_the_data_from_before(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        sight = start(stage, cluster)
        token = stage.issuer.token(cluster.audience)
        with client(stage, sight) as engine:
            engine.deploy_waiting(token)
            for number in range(5):
                engine.create_waiting(token, number)
        stop(stage, cluster)

        broken = stage.broken(cluster)
        persist(stage.backend.start, broken, broken.nodes, epoch=stage.next_epoch())
        # Whoever starts it again and again, it was started and came to its end.
        ended = await_sight(stage.backend, broken, lambda sight: sight.last_exit != "")
        stop(stage, broken)
        back = start(stage, cluster)
        stop(stage, cluster)
        upgraded = stage.upgraded(cluster)
        new = start(stage, upgraded)
        with client(stage, new) as engine:
            done = engine.finish_waiting(token, set(range(5)))
        settled = self.let_go(stage, upgraded)
        # Told again while it stops, as a turn does whose worker was killed: what was let go of stays so.
        for _ in range(2):
            persist(stage.backend.stop, upgraded, upgraded.nodes, epoch=stage.next_epoch())
        stop(stage, upgraded)

        assert ended.last_exit.endswith(".")
        assert ended.keeps_former
        assert back.broker(0).release == cluster.release.version
        assert not back.keeps_former
        assert new.broker(0).release == upgraded.release.version
        assert new.keeps_former
        assert done == set(range(5))
        assert not settled.keeps_former
        assert settled.available
        with pytest.raises(Permanent, match="last opened by release"):
            stage.backend.start(cluster, cluster.nodes, epoch=stage.next_epoch())

    def let_go(self, stage: Stage, desired: DesiredCluster) -> ObservedCluster:
        """Have what is kept removed, asking again until it is."""

        def is_gone(sight: ObservedCluster) -> bool:
            if sight.keeps_former:
                stage.backend.let_go(desired, epoch=stage.next_epoch())
            # What is fresh is asked, and may be slow to answer.
            return not sight.keeps_former and sight.available

        return await_sight(stage.backend, desired, is_gone)

    # --- what is in the region ---

    def test_whatever_is_in_the_region_is_in_the_inventory(self, stage: Stage, cluster: DesiredCluster) -> None:
        carded = replace(cluster, card={"name": "orders", "organization": "acorn"})
        persist(stage.backend.start, carded, carded.nodes, epoch=stage.next_epoch())

        running = find(stage, cluster.cluster_id)
        persist(stage.backend.delete, cluster.cluster_id, epoch=stage.next_epoch())
        await_sight(stage.backend, cluster, lambda sight: not sight.exists)

        assert running is not None
        assert {"name": "orders", "organization": "acorn", "audience": cluster.audience}.items() <= running.card.items()
        assert int(running.card["spec_generation"]) == cluster.spec_generation
        assert running.epoch > 0
        assert running.since is not None
        assert running.since.tzinfo is not None
        assert all(part.endswith(".") for part in running.parts)
        assert find(stage, cluster.cluster_id) is None

    def test_the_register_is_what_was_written_last(self, stage: Stage) -> None:
        for content in ({"written": 1}, {"written": 2, "clusters": ["a", "b"]}):
            persist(stage.backend.write_register, content)
            assert persist(stage.another_backend().read_register) == content

    # --- several brokers ---

    @pytest.fixture(scope="class")
    @classmethod
    def trio(cls, stage: Stage) -> Iterator[DesiredCluster]:
        """A cluster of three brokers that these tests share: each finds it well, and leaves it so."""
        desired = stage.resilient()
        start(stage, desired)
        yield desired
        persist(stage.backend.delete, desired.cluster_id, epoch=stage.next_epoch())

    def test_several_brokers_have_one_address_and_tell_what_they_wait_for(
        self, stage: Stage, trio: DesiredCluster
    ) -> None:
        sight = await_sight(stage.backend, trio, is_settled(trio))
        token = stage.issuer.token(trio.audience)

        assert [broker.node for broker in sight.brokers] == [0, 1, 2]
        assert {broker.digest for broker in sight.brokers} == {trio.digest}
        assert sight.members == (0, 1, 2)
        assert sight.healthy_partitions == 3
        assert sight.entrance in {None, True}
        assert sight.waits_for == ""
        with client(stage, sight) as engine:
            await_answer(engine, token)
            bad = {name: engine.ask(token) for name, token in stage.issuer.bad_tokens(trio.audience).items()}
            assert engine.ask(token) == "OK"
        assert bad == dict.fromkeys(bad, "UNAUTHENTICATED")
        # Starting what runs changes nothing.
        persist(stage.another_backend().start, trio, trio.nodes, epoch=stage.next_epoch())
        assert [stage.count_engines(trio.cluster_id, node) for node in trio.nodes] == [1, 1, 1]

    def test_nothing_is_lost_when_a_leader_is_killed_under_load(self, stage: Stage, trio: DesiredCluster) -> None:
        sight = persist(stage.backend.observe, trio)
        token = stage.issuer.token(trio.audience)
        with client(stage, sight) as engine:
            engine.deploy_waiting(token)
            with Load(engine, token) as load:
                load.until(10)
                victim = wait_for(lambda: engine.leaders(token).get(1), seconds=PATIENCE_SECONDS, what="A leader")
                stage.kill_engine(trio.cluster_id, victim)
                load.until(len(load.created) + 30)
                down = persist(stage.backend.observe, trio)
            persist(stage.backend.start, trio, [victim], epoch=stage.next_epoch())
            again = await_sight(stage.backend, trio, is_well(trio))
            done = engine.finish_waiting(token, load.created)

        assert done >= load.created
        assert not down.broker(victim).healthy
        assert down.running
        assert f"Broker {victim + 1} of 3 ended without being told to" in again.last_exit

    def test_brokers_are_replaced_one_by_one_while_the_others_serve(self, stage: Stage, trio: DesiredCluster) -> None:
        renewed, first = replace(trio, license_key="another"), 10_000
        token = stage.issuer.token(trio.audience)
        with client(stage, persist(stage.backend.observe, trio)) as engine:
            engine.deploy_waiting(token)
            for turn, node in enumerate(reversed(trio.nodes)):
                down = stop(stage, renewed, node)
                engine.create_waiting(token, first + 2 * turn)
                persist(stage.backend.start, renewed, [node], epoch=stage.next_epoch())
                await_sight(stage.backend, renewed, is_well(renewed))
                engine.create_waiting(token, first + 2 * turn + 1)
                assert down.entrance in {None, True}
            # What a retry made twice, in the test before, may come as well.
            wanted = set(range(first, first + 6))
            assert engine.finish_waiting(token, wanted) >= wanted
        persist(stage.backend.rebalance, renewed, epoch=stage.next_epoch())
        spread = await_sight(stage.backend, renewed, is_well(renewed))

        assert spread.is_balanced
        assert {broker.digest for broker in spread.brokers} == {renewed.digest}

    def test_a_fourth_broker_is_taken_in_and_let_go(self, stage: Stage, trio: DesiredCluster) -> None:
        four = replace(trio, size=replace(trio.size, brokers=4))
        assert "counts on it" in refusal_to_retire(stage, trio, 2)
        persist(stage.backend.start, four, [3], epoch=stage.next_epoch())
        await_sight(stage.backend, four, lambda sight: all(sight.broker(node).answers for node in four.nodes))
        persist(stage.backend.rescale, four, epoch=stage.next_epoch())
        persist(stage.backend.rescale, four, epoch=stage.next_epoch())
        grown = await_sight(stage.backend, four, is_settled(four))
        assert "counts on it" in refusal_to_retire(stage, trio, 3)
        persist(stage.backend.rescale, trio, epoch=stage.next_epoch())
        await_sight(stage.backend, trio, is_settled(trio))
        retired = retire(stage, trio, 3)
        await_sight(stage.backend, trio, is_settled(trio))

        assert four.digest == trio.digest
        assert grown.members == (0, 1, 2, 3)
        assert [broker.node for broker in retired.brokers] == [0, 1, 2]
        assert stage.count_engines(trio.cluster_id, 3) == 0

    @pytest.mark.timeout(900)
    def test_the_backup_of_several_brokers_is_restored_into_another_cluster(
        self, stage: Stage, trio: DesiredCluster
    ) -> None:
        token = stage.issuer.token(trio.audience)
        with client(stage, persist(stage.backend.observe, trio)) as engine:
            engine.deploy_waiting(token)
            for number in range(12):
                engine.create_waiting(token, number)
            backup = back_up(stage, trio)
        fork = replace(stage.resilient(), data=DesiredData(1, backup))
        try:
            ready = restore(stage, fork)
            sight = start(stage, fork)
            with client(stage, sight) as engine:
                done = engine.finish_waiting(stage.issuer.token(fork.audience), set(range(12)))
        finally:
            persist(stage.backend.delete, fork.cluster_id, epoch=stage.next_epoch())

        assert ready.data is Work.DONE, ready.data_detail
        assert done >= set(range(12))

    @pytest.mark.chaos
    def test_one_broker_goes_to_a_release_and_back_while_the_others_serve(
        self, stage: Stage, trio: DesiredCluster
    ) -> None:
        upgraded = stage.upgraded(trio)
        token = stage.issuer.token(trio.audience)
        with client(stage, persist(stage.backend.observe, trio)) as engine:
            engine.deploy_waiting(token)
            for number in range(20):
                engine.create_waiting(token, number)
            self.replace_broker(stage, upgraded, 2)
            engine.create_waiting(token, 20)
            back = self.replace_broker(stage, trio, 2)
            done = engine.finish_waiting(token, set(range(21)))

        assert back.broker(2).release == trio.release.version
        assert not back.keeps_former
        assert done == set(range(21))

    def replace_broker(self, stage: Stage, desired: DesiredCluster, node: int) -> ObservedCluster:
        """Stop one broker and start it as it is wished now; the start may have to wait for the others."""
        stop(stage, desired, node)

        def is_so(sight: ObservedCluster) -> bool:
            if not sight.broker(node).running:
                stage.backend.start(desired, [node], epoch=stage.next_epoch())
            return is_well(desired)(sight)

        return await_sight(stage.backend, desired, is_so)

    @pytest.mark.chaos
    def test_several_brokers_go_to_a_release_one_by_one_and_back_together(
        self, stage: Stage, trio: DesiredCluster
    ) -> None:
        upgraded = stage.upgraded(trio)
        token = stage.issuer.token(trio.audience)
        with client(stage, persist(stage.backend.observe, trio)) as engine:
            engine.deploy_waiting(token)
            for number in range(20):
                engine.create_waiting(token, number)
            for turn, node in enumerate(reversed(trio.nodes)):
                mixed = self.replace_broker(stage, upgraded, node)
                engine.create_waiting(token, 100 + turn)
            new = engine.finish_waiting(token, {*range(10)})
            stop(stage, upgraded)
            back = keep_starting(stage, trio)
            old = engine.finish_waiting(token, set(range(20)))

        assert {broker.release for broker in mixed.brokers} == {upgraded.release.version}
        assert mixed.keeps_former
        assert set(range(10)) <= new
        assert {broker.release for broker in back.brokers} == {trio.release.version}
        assert set(range(20)) <= old


def is_settled(desired: DesiredCluster) -> Callable[[ObservedCluster], bool]:
    """Whether the engine works with exactly the wished brokers, and they are well."""
    members = tuple(desired.nodes)
    return lambda sight: is_well(desired)(sight) and sight.members == members and not sight.is_rescaling


def retire(stage: Stage, desired: DesiredCluster, node: int) -> ObservedCluster:
    """Retire a broker, asking again until nothing of it is there."""

    def is_gone(sight: ObservedCluster) -> bool:
        if node not in [broker.node for broker in sight.brokers]:
            return True
        stage.backend.retire(desired, [node], epoch=stage.next_epoch())
        return False

    return await_sight(stage.backend, desired, is_gone)


def refusal_to_retire(stage: Stage, desired: DesiredCluster, node: int) -> str:
    """Why the engine needs a broker, asked until the engine answers; "" when it does not, and the broker is retired."""

    def ask() -> str:
        try:
            stage.backend.retire(desired, [node], epoch=stage.next_epoch())
        except Temporary as error:
            if "counts on it" in error.message:
                return error.message
            raise
        return ""

    return persist(ask)


def find(stage: Stage, cluster_id: UUID) -> Find | None:
    """What the inventory has of one cluster."""
    everything = persist(lambda: list(stage.backend.inventory()))
    return next((found for found in everything if found.cluster_id == cluster_id), None)


@contextmanager
def follow(
    backend: ClusterBackend, cluster_id: UUID | None = None, when_quiet: Callable[[], object] = lambda: None
) -> Iterator[Iterator[UUID]]:
    """A backend's changes, ended with the block, and by failure when our patience ends.

    `when_quiet` is called once, as soon as all of the region is heard and nothing is left to tell of this cluster:
    what is told of it after that is the call's doing.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    told: list[UUID] = []
    was_heard = is_quiet = False

    def hears(age_seconds: float) -> None:
        """Called every few seconds, however silent the region is."""
        nonlocal was_heard, is_quiet
        is_heard = age_seconds < math.inf
        assert time.monotonic() < deadline, "what was waited for is not told"
        if was_heard and is_heard and not is_quiet and cluster_id not in told:
            is_quiet = True
            when_quiet()
        was_heard = is_heard
        told.clear()

    def noted() -> Iterator[UUID]:
        for changed in changes:
            told.append(changed)
            yield changed

    changes = backend.changes(hears)
    yield noted()
    if isinstance(changes, Generator):
        changes.close()


def await_change(changes: Iterator[UUID], cluster_id: UUID, is_so: Callable[[], bool]) -> float:
    """Follow the changes until one of this cluster comes with which it is so; when it came, by the monotonic clock."""
    for changed in changes:
        told_at = time.monotonic()
        if changed == cluster_id and is_so():
            return told_at
    raise AssertionError("the changes have ended")
