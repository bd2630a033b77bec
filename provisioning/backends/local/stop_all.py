"""Stop every engine of a region without a database: `python -m provisioning.backends.local.stop_all REGION_HOME`.

For taking a whole installation down. Data and configuration stay, and the next turn of each cluster starts its engine
again. Also ends preparations of releases and restores of data that are under way.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import RegionFolder, Seat
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import running
from provisioning.backends.local.worker import worker_of
from provisioning.errors import RegionUnreachable
from provisioning.spec import STOP_GRACE_SECONDS

KILL_WAIT_SECONDS = 5.0


def stop_all(region_home: Path, *, grace_seconds: float = STOP_GRACE_SECONDS) -> int:
    """Stop all brokers at the same time, by force after the grace period; return how many ran. May run twice.

    Nothing may start engines meanwhile: stop the control plane first.
    """
    region = RegionFolder(region_home)
    if not region.engines.is_dir():
        return 0
    brokers = list(_ask_to_stop(region.brokers()))
    entrances = list(_ask_to_stop(cluster.entrance for cluster in region.clusters()))
    processes = [*brokers, *entrances, *_end_workers(region)]
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        if not process.wait(max(0.0, deadline - time.monotonic())):
            process.signal(signal.SIGKILL)
            process.wait(KILL_WAIT_SECONDS)
    return len(brokers)


def _ask_to_stop(seats: Iterable[Seat]) -> Iterator[Identity]:
    for seat in seats:
        # One damaged record must not keep the others running.
        with suppress(RegionUnreachable):
            record = running(seat)
            if record is not None:
                # Else its end would later read as a crash.
                record.note_stopping(seat)
                record.identity.signal(signal.SIGTERM)
                yield record.identity


def _end_workers(region: RegionFolder) -> Iterator[Identity]:
    """End preparations of releases and restores of data."""
    for note in (*region.releases.glob("*.json"), *(broker.restore for broker in region.brokers())):
        # Nor must one damaged note.
        with suppress(RegionUnreachable):
            worker = worker_of(read_json(note))
            if worker is not None and worker.signal(signal.SIGTERM):
                yield worker


def main() -> None:
    """Stop the region that the one argument names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m provisioning.backends.local.stop_all REGION_HOME")
    count = stop_all(Path(sys.argv[1]))
    sys.stdout.write(f"Stopped {count} engine(s).\n")


if __name__ == "__main__":
    main()
