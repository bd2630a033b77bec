"""End processes of a cluster, and remove what is theirs."""

from __future__ import annotations

import fcntl
import signal
import time
from contextlib import suppress
from pathlib import Path

from provisioning.backends.local import restoring
from provisioning.backends.local.files import open_lock, remove
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, RegionFolder, Seat, trash_name
from provisioning.backends.local.process import Identity, find_holders
from provisioning.backends.local.record import EngineRecord, running
from provisioning.errors import RegionUnreachable
from provisioning.spec import STOP_GRACE_SECONDS

# A killed process is gone within milliseconds unless the disk hangs.
KILL_WAIT_SECONDS = 5.0
# Killing one holder of a lock may leave another that it had begun.
MAX_KILLS = 5


def ask_to_stop(seat: Seat) -> None:
    """Ask what runs on a seat to stop; by force from `STOP_GRACE_SECONDS` after the first call on."""
    record = running(seat)
    if record is None:
        return
    seconds = record.stopping_seconds(seat)
    if seconds is None:
        record.note_stopping(seat)
        record.identity.signal(signal.SIGTERM)
    elif seconds >= STOP_GRACE_SECONDS:
        record.identity.signal(signal.SIGKILL)


def is_closing(cluster: ClusterFolder) -> bool:
    """Whether no broker of a cluster runs, or all that do were told to stop."""
    records = ((broker, running(broker)) for broker in cluster.brokers())
    return all(record is None or record.stopping_seconds(broker) is not None for broker, record in records)


def end_by_force(cluster: ClusterFolder) -> None:
    """End all processes of a cluster, known from their records or not: deleting must work in any state.

    Raises:
        RegionUnreachable: one would not end.
    """
    for seat in (*cluster.brokers(), cluster.entrance):
        with suppress(RegionUnreachable):
            record = EngineRecord.read(seat)
            if record is not None:
                kill(record.identity)
    for broker in cluster.brokers():
        with suppress(RegionUnreachable):
            restoring.end(broker)
    for lock in cluster.locks():
        _free(lock)


def _free(lock: Path) -> None:
    """Kill whoever holds a lock, until nobody does."""
    with open_lock(lock) as descriptor:
        for _ in range(MAX_KILLS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                for holder in find_holders(lock):
                    kill(holder)
            else:
                return
    raise RegionUnreachable("The engine's processes do not end although they were killed.", internal=str(lock))


def kill(process: Identity) -> None:
    process.signal(signal.SIGKILL)
    if not process.wait(KILL_WAIT_SECONDS):
        raise RegionUnreachable("The engine does not end although it was killed.", internal=f"pid {process.pid}")


def remove_cluster(cluster: ClusterFolder, region: RegionFolder) -> None:
    """Remove all of a cluster, whose processes have ended; the fence and the first broker's lock stay (docs/adr/0004).

    Gone at once for everybody else, however long the removal takes. One that was cut off is finished by the next call,
    for until then the cluster is observed to exist.
    """
    (region.waiting / str(cluster.cluster_id)).unlink(missing_ok=True)
    if cluster.path.exists() or cluster.path.is_symlink():
        cluster.path.rename(region.trash / trash_name(cluster.cluster_id, time.monotonic_ns()))
    for left in region.trash_of(cluster.cluster_id):
        remove(left)
    for lock in cluster.locks():
        if lock != cluster.broker(0).lock:
            lock.unlink(missing_ok=True)


def retire(broker: BrokerFolder, cluster: ClusterFolder, region: RegionFolder) -> None:
    """Ask a broker to stop; once it has ended, remove all that is its own. Repeat it until nothing is there."""
    if running(broker) is not None:
        ask_to_stop(broker)
        return
    restoring.end(broker)
    if broker.lock.exists():
        # Nobody knows of what holds it: it goes with its data.
        _free(broker.lock)
    if broker.path.exists():
        name = trash_name(cluster.cluster_id, time.monotonic_ns(), node=broker.node)
        broker.path.rename(region.trash / name)
    broker.lock.unlink(missing_ok=True)
    for left in region.trash_of(cluster.cluster_id, node=broker.node):
        remove(left)
