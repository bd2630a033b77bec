"""A region whose API server takes connections and never answers, real worker, clock and watch: another is served."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from django.db.models import F
from django.db.models.functions import Now

from provisioning import services, wakeups
from provisioning.backends.kubernetes.watch import ALWAYS
from provisioning.models import Cluster, Operation, Region
from provisioning.states import OperationState
from tests.factories import Person, make_person
from tests.provisioning import shared_region
from tests.provisioning.conftest import ask, make_clusters
from tests.provisioning.shared_region import SharedRegion

PATIENCE_SECONDS = 120.0
CLUSTERS = 12


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A socket nobody reads from."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


@pytest.fixture
def dead(
    shared: SharedRegion, silent: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Region]:
    """A Kubernetes region that is such a socket, full of another organization's clusters, all due."""
    slug = f"{shared.folder.name}-dead"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}}],
        "users": [{"name": "it", "user": {"token": "anything"}}],
    }
    (tmp_path / f"{slug}.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("FLOWPLANE_KUBECONFIG_DIR", str(tmp_path))
    region = Region.objects.create(slug=slug, name="Dead", backend="kubernetes", domain="dead.example")
    make_clusters(make_person().organization, CLUSTERS, region=slug)
    yield region
    Operation.objects.filter(cluster__region=region).delete()
    Cluster.objects.filter(region=region).delete()
    region.delete()


@pytest.mark.timeout(3 * PATIENCE_SECONDS + 60)
def test_another_regions_cluster_starts_while_one_region_is_silent(
    committed: Person, shared: SharedRegion, dead: Region, tmp_path: Path
) -> None:
    there = Cluster.objects.filter(region=dead)
    running = [shared_region.spawn(what, shared.folder, log=tmp_path / f"{what}.log") for what in ("worker", "clock")]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while there.filter(failures__gt=0).count() < CLUSTERS or Region.objects.get(pk=dead.pk).silent_since is None:
            assert time.monotonic() < deadline, "the silence was not noticed"
            time.sleep(0.1)
        waits = []
        for number in range(2):
            there.update(due_at=Now() - timedelta(seconds=1), failures=F("failures") % 3)
            asked = time.monotonic()
            deadline = asked + PATIENCE_SECONDS
            operation = services.create_cluster(
                actor=committed.actor, request=ask(region=shared.folder.name, name=f"cluster {number}")
            )
            while Operation.objects.get(pk=operation.pk).state != OperationState.SUCCEEDED:
                assert time.monotonic() < deadline, "the silent region holds up the other one"
                time.sleep(0.05)
            waits.append(time.monotonic() - asked)
        print(f"accepted -> healthy beside a silent region: {', '.join(f'{wait:.1f} s' for wait in waits)}")
    finally:
        for process in running:
            shared_region.end(process)
    first = there.earliest("created_at")
    unseen = {fact["reason"] for fact in first.conditions if fact["status"] == "Unknown"}
    assert unseen == {"RegionUnreachable"}


def test_only_a_region_that_is_heard_counts_as_watched(
    shared: SharedRegion, dead: Region, silent: socket.socket, tmp_path: Path
) -> None:
    watch = shared_region.spawn("watch", shared.folder, log=tmp_path / "watch.log")
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not wakeups.is_watched(shared.folder.name):
            assert time.monotonic() < deadline, (tmp_path / "watch.log").read_text()
            time.sleep(0.1)
        asked = [silent.accept()[0] for _ in ALWAYS]
        watch.terminate()
        assert watch.wait(timeout=120) == 0
    finally:
        shared_region.end(watch)
    for connection in asked:
        connection.close()
    assert wakeups.is_watched(shared.folder.name)
    assert not wakeups.is_watched(dead.slug)
