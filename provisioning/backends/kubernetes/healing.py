"""How often a cluster's objects are put right before somebody has to look: two writers would flip a field for ever."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from common.errors import Temporary

# Whoever edits by hand does not do it eight times in ten minutes; whatever does so by itself is told to a person.
MAX_HEALS = 8
WITHIN_SECONDS = 600.0
# Whatever else is the matter with the cluster is looked at meanwhile.
AGAIN_SECONDS = 60.0


@dataclass(slots=True)
class Healing:
    """What this process has put right of late, by cluster."""

    clock: Callable[[], float] = time.monotonic
    _times: dict[UUID, deque[float]] = field(default_factory=dict)

    def begin(self, cluster_id: UUID) -> None:
        """Count one.

        Raises:
            Temporary: there were too many; nothing is to be done.
        """
        now = self.clock()
        times = self._times.setdefault(cluster_id, deque())
        while times and now - times[0] > WITHIN_SECONDS:
            times.popleft()
        if len(times) >= MAX_HEALS:
            raise Temporary(
                "Something in the region changes this cluster's objects again and again, so they are left as they are "
                "for a while. Find out what it is.",
                retry_after_seconds=min(AGAIN_SECONDS, WITHIN_SECONDS - (now - times[0])),
            )
        times.append(now)
