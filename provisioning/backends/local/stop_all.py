"""Stop every engine of a region without a database: `python -m provisioning.backends.local.stop_all REGION_HOME`.

For taking a whole installation down. Data and configuration stay, and the next turn of each cluster starts its engine
again. Also ends a preparation of a release that is under way.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from provisioning.backends.local.files import read_json
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import Identity
from provisioning.backends.local.record import EngineRecord
from provisioning.backends.local.release import worker_of
from provisioning.errors import RegionUnreachable
from provisioning.spec import STOP_GRACE_SECONDS

KILL_WAIT_SECONDS = 5.0


def stop_all(region_home: Path, *, grace_seconds: float = STOP_GRACE_SECONDS) -> int:
    """Stop all engines at the same time, by force after the grace period; return how many ran. May run twice.

    Nothing may start engines meanwhile: stop the control plane first.
    """
    region = RegionFolder(region_home)
    if not region.engines.is_dir():
        return 0
    engines = list(_ask_engines_to_stop(region))
    processes = [*engines, *_end_preparations(region)]
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        if not process.wait(max(0.0, deadline - time.monotonic())):
            process.signal(signal.SIGKILL)
            process.wait(KILL_WAIT_SECONDS)
    return len(engines)


def _ask_engines_to_stop(region: RegionFolder) -> Iterator[Identity]:
    for folder in region.clusters():
        # One damaged record must not keep the others running.
        with suppress(RegionUnreachable):
            record = EngineRecord.read(folder)
            if record is not None and record.is_running():
                # Else its end would later read as a crash.
                record.note_stopping(folder)
                record.identity.signal(signal.SIGTERM)
                yield record.identity


def _end_preparations(region: RegionFolder) -> Iterator[Identity]:
    for note in region.releases.glob("*.json"):
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
