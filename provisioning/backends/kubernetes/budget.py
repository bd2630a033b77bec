"""What one process may ask of a region's API server: a rate, a number at once, and a breaker.

A region that does not answer costs its own clusters' turns nothing but an error at once, and other regions nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import Temporary
from provisioning.backends.kubernetes.settings import Budget
from provisioning.errors import RegionUnreachable

# A turn's lease is 20 s; whoever cannot begin within a quarter of that had better come again.
MAX_WAIT_SECONDS = 5.0
FAILURES_TO_OPEN = 3
OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 60.0

Clock = Callable[[], float]


class Gate:
    """Lets requests through, as the budget has it; for any number of threads."""

    def __init__(self, budget: Budget, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(budget.at_once)
        self._tokens = float(budget.burst)
        self._filled_at = clock()
        self._closed_until = 0.0
        self._failures = 0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold a place for one request.

        Raises:
            RegionUnreachable: the region did not answer a moment ago; nothing was sent.
            Temporary: the region asked for a pause, or this process has too much to ask of it.
        """
        self.take_token()
        if not self._places.acquire(timeout=MAX_WAIT_SECONDS):
            raise Temporary("This region is asked too much at once.", retry_after_seconds=MAX_WAIT_SECONDS)
        try:
            yield
        finally:
            self._places.release()

    def take_token(self) -> None:
        """Count one request, waiting for its turn. Raises as `passing`."""
        with self._lock:
            now = self._clock()
            if now < self._closed_until:
                raise self._refusal(self._closed_until - now)
            filled = self._tokens + (now - self._filled_at) * self._budget.per_second
            self._tokens, self._filled_at = min(filled, float(self._budget.burst)), now
            wait_seconds = max(0.0, (1 - self._tokens) / self._budget.per_second)
            if wait_seconds > MAX_WAIT_SECONDS:
                raise Temporary("This region is asked too much at once.", retry_after_seconds=wait_seconds)
            self._tokens -= 1
        if wait_seconds:
            self._sleep(wait_seconds)

    def note_answer(self) -> None:
        """The region answers: whatever went wrong before is over."""
        with self._lock:
            self._failures = 0

    def note_silence(self) -> None:
        """The region did not answer; from the third time on, nobody asks it for a while, longer each time.

        Whoever comes first after that tries it out.
        """
        with self._lock:
            self._failures += 1
            excess = self._failures - FAILURES_TO_OPEN
            if excess >= 0:
                self._closed_until = self._clock() + min(OPEN_SECONDS * 2 ** min(excess, 10), MAX_OPEN_SECONDS)

    def note_pause(self, seconds: float) -> None:
        """The region asked for a pause: nobody of this process asks it before."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + min(seconds, MAX_OPEN_SECONDS))

    def _refusal(self, seconds: float) -> Temporary:
        if self._failures >= FAILURES_TO_OPEN:
            return RegionUnreachable("The region does not answer.", retry_after_seconds=seconds, internal="breaker")
        return Temporary("The region asked for a pause.", retry_after_seconds=seconds)
