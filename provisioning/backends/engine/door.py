"""The way to one broker's management interface; what it leads through is the backend's matter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one question may take, in seconds."""

    connect: float
    read: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes = b""

    @property
    def content(self) -> Any:
        """The body as JSON, None when it is something else."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Door(Protocol):
    """Leads to one broker."""

    def ask(self, method: str, path: str, body: Any = None, *, limits: Limits) -> Answer | None:
        """Ask the broker at `path` (below its root, without a slash at the beginning); None when nobody answers."""
