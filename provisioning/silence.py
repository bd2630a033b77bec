"""Let one turn at a time try a region that did not answer, so that it never holds all threads of a process. Pure.

A call to a region whose API server is silent waits for seconds, in a thread that could serve the other regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from provisioning.errors import RegionUnreachable

# Whoever is turned away comes again after the one that tries has its answer, or has waited in vain.
AGAIN_SECONDS = 10.0


class Silences:
    """Which regions did not answer this process last time; for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._silent: set[str] = set()
        self._tried: set[str] = set()

    @contextmanager
    def visiting(self, region: str) -> Iterator[None]:
        """Visit a region: with others while it answers, alone while it does not.

        Raises:
            RegionUnreachable: it did not answer last time, and somebody tries it just now.
        """
        with self._lock:
            is_trial = region in self._silent
            if is_trial and region in self._tried:
                raise RegionUnreachable("The region does not answer.", retry_after_seconds=AGAIN_SECONDS)
            if is_trial:
                self._tried.add(region)
        is_silent = False
        try:
            yield
        except RegionUnreachable:
            is_silent = True
            raise
        finally:
            with self._lock:
                (self._silent.add if is_silent else self._silent.discard)(region)
                if is_trial:
                    self._tried.discard(region)
