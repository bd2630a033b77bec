"""The Job that lays a backup beside the data, with a program in place of the engine's that makes what a broker has."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from provisioning.backends.local.journal import UnexpectedLog, clear
from tests.charts.volumes import SCRIPTS, Cut, Outcome, Volume
from tests.provisioning.backends.test_local_journal import frame, make_segment

SCRIPT = "restore-data.sh"
UNFIT, LATER = 65, 75
# Refuses a folder in which something is, as the engine's does.
PROGRAM = """#!/usr/bin/env bash
set -eu
cd "$ZEEBE_BROKER_DATA_DIRECTORY"
[[ -z $(ls -A .) ]]
printf 'told %s\\n' "$*"
mkdir -p raft raft-partition/partitions/1
printf 'from %s' "$1" >1.log
printf 'from %s' "$1" >raft/2.log
cp "${0%/*}/../dirty" raft-partition/partitions/1/raft-partition-partition-1-1.log
"""
CLEAN, DIRTY = make_segment(3, 9), make_segment(3, 9, junk=frame(12) + b"x" * 100)


@pytest.fixture
def engine(volume: Volume) -> Path:
    """The engine's folder, with its program."""
    return install(volume, PROGRAM)


def install(volume: Volume, program: str, log: bytes = DIRTY) -> Path:
    (volume.home / "bin").mkdir(parents=True, exist_ok=True)
    restore = volume.home / "bin" / "restore"
    restore.write_text(program)
    restore.chmod(0o755)
    (volume.home / "dirty").write_bytes(log)
    return volume.home


def settings(volume: Volume, **overrides: str) -> dict[str, str]:
    scratch = volume.home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        "ENGINE_HOME": str(volume.home),
        "TMPDIR": str(scratch),
        "BACKUP": "7",
        "BACKUP_OF": "another-cluster",
        "BACKUP_RELEASE": "8.5.8",
        "BACKUP_MEBIBYTES": "1",
        "CHECKPOINTS": "1=9",
        "ZEEBE_BROKER_CLUSTER_CLUSTERSIZE": "1",
        "ZEEBE_BROKER_DATA_DIRECTORY": str(volume.path / "incoming" / "engine"),
        **overrides,
    }


def restore(volume: Volume, **overrides: str) -> Outcome:
    return volume.run(SCRIPT, epoch="1", **settings(volume, **overrides))


def restored_log(volume: Volume) -> bytes:
    partition = volume.path / "incoming" / "engine" / "raft-partition" / "partitions" / "1"
    return (partition / "raft-partition-partition-1-1.log").read_bytes()


def test_a_backup_lies_beside_the_data_until_the_broker_takes_it_in(volume: Volume, engine: Path) -> None:
    volume.put("data", "8.6.0 0")

    assert restore(volume) == Outcome(0, "", "incoming 8.5.8 1\n")
    assert volume.contents == {
        "data": ("data 8.6.0 0", "8.6.0 0"),
        "incoming": ("from --backupId=7", "8.5.8 1"),
    }
    assert restored_log(volume) == CLEAN

    assert volume.run("prepare-data.sh", epoch="1").status == 0
    assert volume.contents["data"] == ("from --backupId=7", "8.6.0 1")


def test_run_again_it_finds_its_work_done(volume: Volume, engine: Path) -> None:
    restore(volume)
    (engine / "bin" / "restore").write_text("exit 1")

    assert restore(volume) == Outcome(0, "", "incoming 8.5.8 1\n")
    assert volume.run("prepare-data.sh", epoch="1").status == 0
    assert restore(volume).status == 0, "what was taken in is not fetched again"
    assert volume.folders == {"data"}


def test_another_backup_of_the_same_epoch_takes_its_place(volume: Volume, engine: Path) -> None:
    restore(volume)
    assert restore(volume, BACKUP="8").status == 0
    assert volume.content("incoming") == "from --backupId=8"


@pytest.mark.parametrize("where", Cut)
def test_killed_anywhere_it_leaves_nothing_that_a_broker_would_take_in(tmp_path: Path, where: Cut) -> None:
    for at in itertools.count(1):
        base = tmp_path / f"{at}"
        base.mkdir()
        volume = Volume(base)
        install(volume, PROGRAM)
        volume.put("data", "8.6.0 0")
        volume.put("incoming", "")
        is_cut = volume.run_cut(SCRIPT, at, where, epoch="1", **settings(volume))
        if volume.origin("incoming") is not None:
            assert volume.content("incoming") == "from --backupId=7"
            assert restored_log(volume) == CLEAN
        if not is_cut:
            break
        assert restore(volume).status == 0
        assert volume.contents["incoming"] == ("from --backupId=7", "8.5.8 1")
    assert at > 5, "it was cut several times"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (
            "io.camunda.zeebe.restore.BackupNotFoundException: payload",
            UNFIT,
            "the store has no complete backup of that number",
        ),
        ("BackupNotValidException", LATER, "the backup is of another number of partitions"),
        ("write failed: No space left on device", LATER, "the disk is full"),
        ("java.lang.OutOfMemoryError: Java heap space", LATER, "it ran out of memory"),
        ("software.amazon.awssdk.services.s3.model.S3Exception: secret", LATER, "the backup store refused"),
        ("software.amazon.awssdk.core.exception.SdkClientException", LATER, "the backup store does not answer"),
        ("something else with a payload", LATER, "the engine's program for it gave up"),
    ],
)
def test_what_the_program_says_is_told_in_known_words_only(
    volume: Volume, words: str, status: int, sentence: str
) -> None:
    """A backup that is not there ends all tries, whatever else is worth another one."""
    install(volume, f"#!/bin/sh\necho first\necho '{words}'\nexit 1\n")

    outcome = restore(volume)

    assert (outcome.status, outcome.message) == (status, f"The backup could not be fetched: {sentence}.")
    assert outcome.stderr == f"{outcome.message}\n"
    assert volume.folders == set(), "no half of it is left"


@pytest.mark.parametrize(
    ("overrides", "status", "sentence"),
    [
        ({"BACKUP_RELEASE": "8.7.0"}, UNFIT, "Release 8.7.0 took the backup, and release 8.6.0 cannot read it."),
        ({"BACKUP_MEBIBYTES": "99999999999"}, LATER, "Disk is short: the backup needs"),
        ({"CHECKPOINTS": "1=8"}, UNFIT, "a log in it does not end where the backup says"),
        ({"CHECKPOINTS": "2=9"}, UNFIT, "a log in it does not end where the backup says"),
    ],
)
def test_what_cannot_be_is_refused(
    volume: Volume, engine: Path, overrides: dict[str, str], status: int, sentence: str
) -> None:
    outcome = restore(volume, **overrides)

    assert outcome.status == status
    assert sentence in outcome.message
    assert volume.folders == set()


def test_without_checkpoints_the_logs_end_is_cleared_all_the_same(volume: Volume, engine: Path) -> None:
    assert restore(volume, CHECKPOINTS="").status == 0
    assert restored_log(volume) == CLEAN


def test_told_to_stop_it_stops_the_program_and_ends(volume: Volume) -> None:
    install(volume, '#!/bin/sh\necho $$ >"$TMPDIR/pid"\nexec sleep 60\n')
    environment = settings(volume) | {
        "PATH": os.environ["PATH"],
        "VOLUME": str(volume.path),
        "TERMINATION_LOG": str(volume.home / "message"),
        "RELEASE": "8.6.0",
        "DATA_EPOCH": "1",
        "ZEEBE_BROKER_CLUSTER_NODEID": "0",
    }
    with subprocess.Popen(["bash", str(SCRIPTS / SCRIPT)], env=environment) as script:
        pid = wait_for_pid(volume.home / "tmp" / "pid")
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=120) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def wait_for_pid(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError("the program did not begin")


def clear_by_script(path: Path, position: int) -> int:
    command = f'. "{SCRIPTS}/clear-logs.sh"; clear_log "$1" "$2"'
    done = subprocess.run(
        ["bash", "-euc", command, "-", str(path), str(position)], check=False, capture_output=True, timeout=240
    )
    return done.returncode


LONG = [frame(position, size=70_000 if position % 7 == 0 else 300) for position in range(1, 30)]
LOGS: dict[str, Any] = {
    "junk behind the end": DIRTY,
    "nothing behind the end": CLEAN,
    "another checkpoint": make_segment(3, 4),
    "no frame": make_segment(),
    "more than the checkpoint": make_segment(3, 9, 12),
    "another version": b"\x01" + make_segment(9)[1:],
    "empty": b"",
    "broken frame": make_segment(9)[:60] + b"\xff" * 100,
    "cut off in a frame": make_segment(3, 9)[: -(4096 - 180)],
    "frames longer than what is read at once": make_segment()[:57] + b"".join(LONG[:8]) + frame(9) + b"\0" + b"x" * 99,
    "full to the last byte": make_segment()[:57] + b"".join(LONG[:5]) + frame(9),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_cleared_as_on_a_laptop(tmp_path: Path, name: str) -> None:
    by_laptop, by_script = tmp_path / "laptop", tmp_path / "script"
    for path in (by_laptop, by_script):
        path.write_bytes(LOGS[name])
    try:
        clear(by_laptop, 9)
    except (UnexpectedLog, ValueError):
        assert clear_by_script(by_script, 9) != 0
    else:
        assert clear_by_script(by_script, 9) == 0
    assert by_script.read_bytes() == by_laptop.read_bytes()


def test_a_whole_segment_of_small_frames_is_cleared(tmp_path: Path) -> None:
    """16 MiB of small frames, the most there can be."""
    small = b"".join(frame(position, size=200) for position in range(2_000))
    path = tmp_path / "raft-partition-partition-1-1.log"
    content = make_segment()[:57] + small * 34
    path.write_bytes(content.ljust(16 * 1024 * 1024, b"\0")[: 16 * 1024 * 1024])

    assert clear_by_script(path, 1_999) == 0
