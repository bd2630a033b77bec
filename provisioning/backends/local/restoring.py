"""Make a broker's data from a backup, beside what the broker works on.

A program of its own (`python -m provisioning.backends.local.restoring`, the order as JSON on standard input), because
it takes as long as the backup is big. It runs the engine's own restore application into `incoming/` and notes in
`restore.json` how that went; only a note that says so makes the folder more than rubbish. What the application says
stays in the broker's folder `restoring/`: it may hold workflow data, so its words are only looked through for some
that we know.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import ControlPlaneError, Permanent
from provisioning.backends.engine.origins import Origin, is_newer, ref_from_record, ref_to_record
from provisioning.backends.engine.store import BackupContent, BackupStore, Store
from provisioning.backends.local import journal, worker
from provisioning.backends.local.configuration import (
    DISK_WATERMARK_MIB,
    Program,
    Surroundings,
    Workplace,
    arguments,
    environment,
)
from provisioning.backends.local.files import flush_all, open_lock, read_json, remove, tail, write_json
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, Ports
from provisioning.backends.local.process import BYTES_PER_MIB, own_identity
from provisioning.backends.local.settings import LocalSettings
from provisioning.errors import NoCapacity
from provisioning.spec import BackupRef, DesiredCluster, Work

logger = logging.getLogger(__name__)

# The application holds no workflow state in memory: it copies files.
HEAP_MIB = 128
LOG_NAME = "restore.log"
# Fixed words of the engine's and Java's; nothing else that is said is repeated.
CAUSES = (
    (b"No space left on device", "the disk is full"),
    (b"java.lang.OutOfMemoryError", "it ran out of memory"),
    (b"BackupNotFoundException", "the store has no complete backup of that number"),
    (b"BackupNotValidException", "the backup is of another number of partitions"),
    (b"S3Exception", "the backup store refused"),
    (b"SdkClientException", "the backup store does not answer"),
    (b"Successfully restored broker", "it was ended at its very end"),
)


def wish_of(desired: DesiredCluster) -> dict[str, Any]:
    """Return what tells one restore of a cluster from another. How its partitions lie depends on how many brokers."""
    source = ref_to_record(desired.data.source)
    return {"epoch": desired.data.epoch, "source": source, "brokers": desired.size.brokers}


def state(broker: BrokerFolder, desired: DesiredCluster) -> tuple[Work, str]:
    """Return how far the wished restore is for a broker, with a sentence; reads a small file.

    Raises:
        RegionUnreachable: the note is damaged.
    """
    note = read_json(broker.restore)
    if note.get("wish") != wish_of(desired):
        return Work.ABSENT, ""
    if note.get("is_over"):
        failure = str(note.get("failure", ""))
        if failure:
            return Work.FAILED, failure
        return (Work.DONE, "") if broker.incoming.is_dir() else (Work.ABSENT, "")
    at_work = worker.worker_of(note)
    if at_work is None:
        return Work.ABSENT, ""
    if at_work.is_alive():
        return Work.RUNNING, str(note["phase"])
    if read_json(broker.restore) != note:
        # It ended in order, between our two looks.
        return state(broker, desired)
    return Work.FAILED, "Fetching the backup ended without a word; something may have killed it. Try again."


def finished(broker: BrokerFolder, desired: DesiredCluster) -> Origin | None:
    """Return what lies ready in `incoming`, None when the wished restore is not through."""
    if state(broker, desired)[0] is not Work.DONE:
        return None
    return Origin.of(desired.data, str(read_json(broker.restore)["release"]))


def order_for(
    broker: BrokerFolder,
    cluster: ClusterFolder,
    desired: DesiredCluster,
    settings: LocalSettings,
    program: Program,
    ports: Mapping[int, Ports],
    owner: tuple[int, int] | None,
) -> dict[str, Any]:
    """Return what the program for one broker is told; `owner` (uid, gid) is whom the data is to belong to."""
    assert settings.store is not None
    place = workplace(broker)
    backups_of = desired.data.source.cluster_id if desired.data.source else None
    around = Surroundings(broker.node, ports, settings.region_home / "keys", settings.store, backups_of)
    return {
        "wish": wish_of(desired),
        "node": broker.node,
        "path": str(broker.path),
        "lock": str(cluster.restore_lock),
        "argv": arguments(program, place, cluster.log_configuration, heap_mib=HEAP_MIB),
        "env": _without_profiles(environment(desired, cluster, place, around)),
        "release": desired.release.version,
        "store": asdict(settings.store),
        "owner": owner,
    }


def begin(orders: Sequence[Mapping[str, Any]]) -> None:
    """Start the programs for some brokers, whose folders are there.

    Raises:
        RegionUnreachable: one did not begin.
    """
    worker.begin("provisioning.backends.local.restoring", orders, what="Fetching the backup")


def _without_profiles(variables: dict[str, str]) -> dict[str, str]:
    """The application brings its own profile; beside the broker's it looks for a broker's health, and gives up."""
    return {name: value for name, value in variables.items() if name != "SPRING_PROFILES_ACTIVE"}


def workplace(broker: BrokerFolder) -> Workplace:
    """Where the application reads and writes."""
    own = broker.path / "restoring"
    return Workplace(broker.incoming, own / "log", own / "tmp")


def end(broker: BrokerFolder) -> None:
    """End the program that is at work for this broker, if one is; what it made so far is left."""
    at_work = worker.worker_of(read_json(broker.restore))
    if at_work is not None and at_work.signal(signal.SIGTERM) and not at_work.wait(worker.END_SECONDS):
        at_work.signal(signal.SIGKILL)


def discard(broker: BrokerFolder) -> None:
    """End the program and remove what it made."""
    end(broker)
    remove(broker.restore)
    remove(broker.incoming)
    remove(workplace(broker).log.parent)
    remove(broker.path / LOG_NAME)


class Restoration:
    """One attempt for one broker."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._wish = order["wish"]
        self._broker = BrokerFolder(Path(order["path"]), Path(order["lock"]), int(order["node"]))
        self._place = workplace(self._broker)
        self._store = Store(BackupStore(**order["store"]))
        source = ref_from_record(self._wish["source"])
        assert source is not None
        self._source: BackupRef = source

    def note(self, phase: str, *, failure: str = "", is_over: bool = False, release: str = "") -> None:
        """Write down how far we are, with who we are; `is_over` is the last word, without which an end is a failure."""
        content = {"wish": self._wish, "phase": phase, "failure": failure, "is_over": is_over, "release": release}
        write_json(self._broker.restore, {**content, **own_identity().to_record()}, is_durable=is_over)

    def run(self) -> None:
        """Make the data. Every failure ends as a sentence in the note, and leaves no half of it."""
        try:
            # One broker of a cluster after the other: they take as long together, and a third of the memory.
            with open_lock(self._broker.lock) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                release = self._restore(lock)
            self.note("Fetched.", is_over=True, release=release)
        except SystemExit:
            remove(self._broker.incoming)
            self.note("Stopped.", is_over=True)
        except ControlPlaneError as error:
            self._fail(error.message)
        except OSError as error:
            self._fail(f"Fetching the backup failed: {error.strerror}.")
        except Exception as error:  # the rim of this process: an attempt that ends without a word explains nothing
            logger.exception("restoring failed")
            self._fail(f"Fetching the backup failed for an unforeseen reason ({type(error).__name__}).")

    def _fail(self, sentence: str) -> None:
        remove(self._broker.incoming)
        self.note("Failed.", failure=sentence, is_over=True)

    def _restore(self, lock: int) -> str:
        """Return the release that took the backup."""
        self.note("Looking for the backup in the store.")
        content = self._require_possible()
        self._make_room()
        self.note(f"Fetching backup {self._source.number}.")
        self._run_application(lock)
        self._clear_logs(content.checkpoints)
        shutil.rmtree(self._place.log.parent, ignore_errors=True)
        return content.release

    def _require_possible(self) -> BackupContent:
        """See that the backup is there, not too new, and fits on the disk.

        The restore application of an earlier release takes a newer one's backup, and the engine then never comes up.
        """
        content = self._store.look_into(self._source)
        if content is None:
            raise Permanent(
                f"The backup store has no complete backup {self._source.number} of that cluster (any more)."
            )
        if is_newer(content.release, self._order["release"]):
            raise Permanent(
                f"Release {content.release} took the backup, and release {self._order['release']} cannot read it. "
                f"Choose release {content.release} or a later one, or an earlier backup."
            )
        needed_mib = content.size_bytes // BYTES_PER_MIB + DISK_WATERMARK_MIB
        free_mib = shutil.disk_usage(self._broker.path).free // BYTES_PER_MIB
        if free_mib < needed_mib:
            raise NoCapacity(
                f"Disk is short: the backup needs {needed_mib} MiB (of which the engine never uses the last "
                f"{DISK_WATERMARK_MIB}) and the region has {free_mib} MiB free. Free some space on the region's disk."
            )
        return content

    def _make_room(self) -> None:
        """The application refuses a folder in which something is, such as half of an earlier attempt."""
        remove(self._broker.incoming)
        remove(self._place.log.parent)
        for folder in (self._place.log.parent, self._place.log, self._place.tmp, self._place.data):
            folder.mkdir(mode=0o700)
            self._give(folder)

    def _give(self, folder: Path) -> None:
        if self._order["owner"]:
            os.chown(folder, *self._order["owner"])

    def _run_application(self, lock: int) -> None:
        """Run it to its end. It holds our lock too: should we be killed, the next attempt waits until it has gone."""
        uid, gid = self._order["owner"] or (None, None)
        application = subprocess.Popen(
            [*self._order["argv"], f"--backupId={self._source.number}"],
            env=self._order["env"],
            cwd=self._place.tmp,
            stdin=subprocess.DEVNULL,
            preexec_fn=worker.die_with_parent,  # noqa: PLW1509 - this program has one thread
            pass_fds=[lock],
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
        try:
            status = application.wait()
        finally:
            application.kill()
            application.wait()
        if status != 0:
            raise Permanent(f"The backup could not be fetched: {self._cause()}.")

    def _clear_logs(self, checkpoints: Mapping[int, int]) -> None:
        """Make the data such that an engine does not stall on it."""
        failure = worker.run_as(self._order["owner"], partial(_make_sound, self._broker.incoming, checkpoints))
        if failure:
            logger.error("a restored log was not cleared: %s", failure)
            raise Permanent(
                "The backup was fetched, and a log in it does not end where the backup says, so an engine could stall "
                "on it. Choose another backup."
            )

    def _cause(self) -> str:
        words = b"".join(tail(path) for path in (self._place.log / "engine.log", self._broker.path / LOG_NAME))
        return next((cause for mark, cause in CAUSES if mark in words), "the engine's program for it gave up")


def _make_sound(data: Path, checkpoints: Mapping[int, int]) -> None:
    """Also wait for the disk: a note that says "all there" must not survive a power cut that the data did not."""
    journal.clear_all(data, checkpoints)
    flush_all(data)


def main() -> None:
    """Read the order, leave the caller, do it."""
    order = json.load(sys.stdin)
    restoration, path = Restoration(order), Path(order["path"])
    if worker.detach(lambda: restoration.note("Waiting for its turn.")):
        os.umask(0o077)
        os.chdir(path)
        signal.signal(signal.SIGTERM, worker.unwind)
        worker.redirect(path / LOG_NAME)
        restoration.run()


if __name__ == "__main__":
    main()
