"""Let turns go on together in one process, and a suspect only while it is alone. Pure.

A turn that ends its process takes the turns beside it along. All their leases run out at the same time, so they would
meet again, and again, and be counted as often as the culprit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Turnstile:
    """Any number at a time, or one."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._is_reserved = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Go in with others; waits while somebody is alone inside, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reserved)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, patience_seconds: float) -> Iterator[None]:
        """Go in when all others have left. Those that are in for longer than our patience are company after all."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reserved)
            self._is_reserved = True
            self._changed.wait_for(lambda: not self._inside, timeout=patience_seconds)
        try:
            yield
        finally:
            with self._changed:
                self._is_reserved = False
                self._changed.notify_all()
