"""What every backend must show. A backend's test module supplies the fixture `stage` and inherits `BackendContract`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import pytest

from provisioning.backends.base import ClusterBackend
from provisioning.errors import Fenced
from provisioning.spec import DesiredCluster, ObservedCluster, ReleaseState
from tests.provisioning.backends.tokens import EngineClient, Issuer, make_key

# A cold engine on two busy cores.
PATIENCE_SECONDS = 90.0
NOTICE_SECONDS = 3.0


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

    def next_epoch(self) -> int:
        """A fencing number above all before."""

    def kill_engine(self, cluster_id: UUID) -> None:
        """End the engine without the backend's knowing."""

    def count_engines(self, cluster_id: UUID) -> int:
        """How many engine processes of this cluster live."""

    def start_and_die(self, desired: DesiredCluster, epoch: int) -> None:
        """Start the engine from a process that is killed right after."""


def await_sight(
    backend: ClusterBackend, desired: DesiredCluster, is_so: Callable[[ObservedCluster], bool]
) -> ObservedCluster:
    """Observe until it is so, and return that sight."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so(sight := backend.observe(desired)):
        assert time.monotonic() < deadline, f"still {sight}"
        time.sleep(0.1)
    return sight


def start(stage: Stage, desired: DesiredCluster) -> ObservedCluster:
    """Start a cluster and wait until its engine is available."""
    stage.backend.start(desired, epoch=stage.next_epoch())
    return await_sight(stage.backend, desired, lambda sight: sight.available)


def stop(stage: Stage, desired: DesiredCluster) -> ObservedCluster:
    """Stop a cluster's engine and wait for its end."""
    stage.backend.stop(desired, epoch=stage.next_epoch())
    return await_sight(stage.backend, desired, lambda sight: not sight.running)


def client(stage: Stage, sight: ObservedCluster) -> EngineClient:
    assert sight.endpoint is not None
    return EngineClient(sight.endpoint.grpc, stage.authority)


@pytest.mark.engine
class BackendContract:
    """Inherit it as `TestXxxBackend`."""

    @pytest.fixture
    def cluster(self, stage: Stage) -> Iterator[DesiredCluster]:
        """A cluster of this test's own, removed afterwards."""
        desired = stage.desired()
        yield desired
        stage.backend.delete(desired.cluster_id, epoch=stage.next_epoch())

    def test_a_cluster_that_was_never_started_does_not_exist(self, stage: Stage) -> None:
        sight = stage.backend.observe(stage.desired())

        assert not sight.exists
        assert not sight.running
        assert sight.endpoint is None
        assert sight.release is ReleaseState.READY

    def test_deleting_or_stopping_what_is_not_there_is_success(self, stage: Stage) -> None:
        desired = stage.desired()

        stage.backend.stop(desired, epoch=stage.next_epoch())
        stage.backend.delete(desired.cluster_id, epoch=stage.next_epoch())

        assert not stage.backend.observe(desired).exists

    def test_a_started_engine_says_what_it_waits_for_and_becomes_available(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        stage.backend.start(cluster, epoch=stage.next_epoch())
        early = stage.backend.observe(cluster)
        late = await_sight(stage.backend, cluster, lambda sight: sight.available)

        assert early.running
        assert not early.available
        assert early.waits_for.endswith(".")
        assert late.waits_for == ""
        assert late.healthy_partitions == cluster.size.partitions
        assert late.digest == cluster.digest
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
            bad = {name: engine.ask(token) for name, token in stage.issuer.bad_tokens(cluster.audience).items()}
            assert engine.ask(stage.issuer.token(cluster.audience)) == "OK"
        assert bad == dict.fromkeys(bad, "UNAUTHENTICATED")

    def check_second_start(self, stage: Stage, cluster: DesiredCluster) -> None:
        """Starting what runs changes nothing, from whichever process."""
        stage.another_backend().start(cluster, epoch=stage.next_epoch())

        assert stage.count_engines(cluster.cluster_id) == 1
        assert stage.backend.observe(cluster).restarts == 1

    def check_older_epoch(self, stage: Stage, cluster: DesiredCluster) -> None:
        """A worker that overslept does no harm."""
        old, new = stage.next_epoch(), stage.next_epoch()
        stage.backend.start(cluster, epoch=new)

        with pytest.raises(Fenced):
            stage.another_backend().stop(cluster, epoch=old)
        with pytest.raises(Fenced):
            stage.another_backend().delete(cluster.cluster_id, epoch=old)
        with pytest.raises(Fenced):
            stage.another_backend().start(cluster, epoch=old)
        assert stage.backend.observe(cluster).available

    def check_key_rotation(self, stage: Stage, cluster: DesiredCluster, sight: ObservedCluster) -> None:
        """A new key works in a running engine as soon as it is published, the old one beside it."""
        old = stage.issuer.keys[-1]
        stage.issuer.keys.append(make_key(f"key-{uuid4()}"))
        with client(stage, sight) as engine:
            assert engine.ask(stage.issuer.token(cluster.audience)) == "UNAUTHENTICATED"
            stage.backend.publish_keys(stage.issuer.jwks())
            assert engine.ask(stage.issuer.token(cluster.audience)) == "OK"
            assert engine.ask(stage.issuer.token(cluster.audience, key=old)) == "OK"

    def test_a_stopped_engine_keeps_data_and_address_while_a_new_audience_ends_all_old_tokens(
        self, stage: Stage, cluster: DesiredCluster
    ) -> None:
        before = start(stage, cluster)
        old_token = stage.issuer.token(cluster.audience)
        with client(stage, before) as engine:
            engine.deploy(old_token)

        stopped = stop(stage, cluster)
        # A watch that begins tells of everything there is: nobody watched while the engine stopped.
        with follow(stage.another_backend()) as changes:
            assert await_change(changes, cluster.cluster_id, lambda: True) < NOTICE_SECONDS
        changed = replace(cluster, audience=f"{cluster.cluster_id}/2")
        after = start(stage, changed)

        with client(stage, after) as engine:
            assert engine.run_deployed(stage.issuer.token(changed.audience)) > 0
            assert engine.ask(old_token) == "UNAUTHENTICATED"
        assert after.digest == changed.digest != before.digest
        assert stopped.exists
        assert stopped.last_exit == ""
        assert after.endpoint == before.endpoint
        assert after.restarts == 2

    def test_a_killed_engine_is_noticed_and_started_again(self, stage: Stage, cluster: DesiredCluster) -> None:
        start(stage, cluster)
        with follow(stage.backend) as changes:
            assert await_change(changes, cluster.cluster_id, lambda: stage.backend.observe(cluster).available) >= 0
            threading.Timer(0.5, stage.kill_engine, [cluster.cluster_id]).start()
            seconds = await_change(changes, cluster.cluster_id, lambda: not stage.backend.observe(cluster).running)
        sight = stage.backend.observe(cluster)

        assert seconds < NOTICE_SECONDS
        assert sight.exists
        assert sight.last_exit.endswith(".")
        again = start(stage, cluster)
        assert again.restarts == 2
        assert again.last_exit == sight.last_exit

    def test_an_engine_outlives_the_process_that_started_it(self, stage: Stage, cluster: DesiredCluster) -> None:
        stage.start_and_die(cluster, stage.next_epoch())

        adopted = await_sight(stage.another_backend(), cluster, lambda sight: sight.available)
        stopped = stop(stage, cluster)

        assert adopted.digest == cluster.digest
        assert not stopped.running

    def test_deleting_ends_a_running_engine_and_leaves_nothing(self, stage: Stage, cluster: DesiredCluster) -> None:
        stage.backend.start(cluster, epoch=stage.next_epoch())

        stage.backend.delete(cluster.cluster_id, epoch=stage.next_epoch())
        gone = await_sight(stage.backend, cluster, lambda sight: not sight.exists)
        stage.backend.delete(cluster.cluster_id, epoch=stage.next_epoch())

        assert gone.digest == ""
        assert gone.endpoint is None
        assert stage.count_engines(cluster.cluster_id) == 0

    def test_a_worker_that_overslept_a_deletion_cannot_bring_the_cluster_back(self, stage: Stage) -> None:
        desired, old, new = stage.desired(), stage.next_epoch(), stage.next_epoch()
        stage.backend.delete(desired.cluster_id, epoch=new)

        with pytest.raises(Fenced):
            stage.another_backend().start(desired, epoch=old)
        assert not stage.backend.observe(desired).exists


@contextmanager
def follow(backend: ClusterBackend) -> Iterator[Iterator[UUID]]:
    """A backend's changes, ended with the block."""
    changes = backend.changes()
    yield changes
    if isinstance(changes, Generator):
        changes.close()


def await_change(changes: Iterator[UUID], cluster_id: UUID, is_so: Callable[[], bool]) -> float:
    """Follow the changes until one of this cluster comes with which it is so; how long that took, in seconds."""
    began = time.monotonic()
    for changed in changes:
        if changed == cluster_id and is_so():
            break
        assert time.monotonic() - began < PATIENCE_SECONDS
    return time.monotonic() - began
