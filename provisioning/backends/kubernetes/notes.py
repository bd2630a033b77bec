"""Which backup a cluster was asked for last, on its namespace."""

from __future__ import annotations

import json
from dataclasses import dataclass

from provisioning.backends.engine.backups import Request
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.kinds import NAMESPACE, Object, name_in, notes_in
from provisioning.backends.kubernetes.names import BACKUP
from provisioning.backends.kubernetes.pods import parse_time


@dataclass(slots=True)
class NamespaceNotes:
    """`backups.Notes` in an annotation; the time is the region's."""

    api: Api
    namespace: Object

    def read(self) -> Request | None:
        """See `Notes`."""
        note = notes_in(self.namespace).get(BACKUP)
        if not note:
            return None
        content = json.loads(note)
        seconds = (self.api.now - parse_time(content["at"])).total_seconds()
        return Request(int(content["number"]), max(0.0, seconds))

    def write(self, number: int) -> None:
        """See `Notes`."""
        note = json.dumps({"number": number, "at": self.api.now.isoformat()})
        change = {"metadata": {"annotations": {BACKUP: note}}}
        self.namespace = self.api.merge(NAMESPACE, "", name_in(self.namespace), change)
