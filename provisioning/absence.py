"""Whether the database was away until a moment ago, as this process saw it. Pure.

A turn that nobody could record leaves a lease that runs out, as a worker's death does. It is none: three outages in a
row would else have a healthy cluster left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Absence:
    """What the database's refusals mean for leases; for any number of threads.

    Args:
        forgiving_seconds: for so long after its return, a lease that ran out is no death.
        now: monotonic seconds.
    """

    def __init__(self, forgiving_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = forgiving_seconds, now
        self._is_away = False
        self._forgives_until = now()

    def note(self) -> None:
        """It has refused us."""
        self._is_away = True

    def end(self) -> None:
        """It has answered."""
        if self._is_away:
            # First of all: whoever looks in between is to see one of the two.
            self._forgives_until = self._now() + self._seconds
            self._is_away = False

    @property
    def forgives(self) -> bool:
        """Whether a lease that has run out may be one of those that nobody could give back."""
        return self._is_away or self._now() < self._forgives_until
