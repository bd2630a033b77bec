"""An engine whose disk becomes full while it works: a small disk of its own, which only root can mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.backends.local import LocalSettings, create_region
from provisioning.backends.local.configuration import DISK_WATERMARK_MIB
from provisioning.backends.local.stop_all import stop_all
from provisioning.spec import DesiredCluster, ObservedCluster
from tests.provisioning.backends.conftest import SMALL, LocalStage, desired_release

PATIENCE_SECONDS = 180.0


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="disk-", dir=open_folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800m,mode=755", "disk", str(folder)], check=True)
    yield folder
    stop_all(folder / "region", grace_seconds=5)
    subprocess.run(["umount", str(folder)], check=True)


def seen(
    stage: LocalStage, cluster: DesiredCluster, is_so: Callable[[ObservedCluster], bool], what: str
) -> ObservedCluster:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so(observed := stage.backend.observe(cluster)):
        assert time.monotonic() < deadline, f"{what}: {observed}"
        time.sleep(0.3)
    return observed


@pytest.mark.engine
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk; .ci/run demands root")
def test_an_engine_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    small_disk: Path, local_settings: LocalSettings
) -> None:
    create_region(small_disk / "region")
    stage = LocalStage(replace(local_settings, region_home=small_disk / "region"))
    stage.prepare(desired_release(stage.version))
    cluster = stage.desired(size=replace(SMALL, disk_mib=64))
    stage.backend.start(cluster, [0], epoch=1)
    before = seen(stage, cluster, lambda one: one.available, "healthy")
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        room = shutil.disk_usage(small_disk).free - DISK_WATERMARK_MIB // 2 * 2**20
        os.posix_fallocate(file.fileno(), 0, room)
    full = seen(stage, cluster, lambda one: "disk" in one.waits_for, "paused")
    assert not full.available
    assert full.waits_for.startswith("The engine takes no commands, because its disk is nearly full.")
    filler.unlink()
    after = seen(stage, cluster, lambda one: one.available, "healthy again")
    assert after.restarts == before.restarts == 1
