"""Which backup a cluster of this machine was asked for last."""

from __future__ import annotations

import time
from dataclasses import dataclass

from provisioning.backends.engine.backups import PATIENCE_SECONDS, Request
from provisioning.backends.local.files import read_json, write_json
from provisioning.backends.local.layout import ClusterFolder
from provisioning.backends.local.process import read_boot_id


@dataclass(frozen=True, slots=True)
class BackupNotes:
    """`backups.Notes` in the cluster's folder. After a restart of the machine nobody knows how long ago it was."""

    cluster: ClusterFolder

    def read(self) -> Request | None:
        """See `Notes`."""
        note = read_json(self.cluster.backup)
        if not note:
            return None
        is_this_boot = note["boot_id"] == read_boot_id()
        seconds = max(0.0, time.monotonic() - float(note["at"])) if is_this_boot else PATIENCE_SECONDS
        return Request(int(note["number"]), seconds)

    def write(self, number: int) -> None:
        """See `Notes`."""
        note = {"number": number, "at": time.monotonic(), "boot_id": read_boot_id()}
        write_json(self.cluster.backup, note, is_durable=True)
