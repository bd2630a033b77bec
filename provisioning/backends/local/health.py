"""What an engine says of its partitions, asked on its management port."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from provisioning.backends.local.configuration import LOOPBACK

TIMEOUT = urllib3.Timeout(connect=0.5, read=1.5)
HTTP_OK = 200
PARTITION_HEALTH = re.compile(r'^zeebe_health\{[^}]*partition="(\d+)"[^}]*\} ([0-9.eE+-]+)', re.MULTILINE)

_http = urllib3.PoolManager(num_pools=64, maxsize=1, retries=False, timeout=TIMEOUT)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an engine: did it answer, does it call itself healthy, and which partitions it leads in health."""

    answered: bool = False
    up: bool = False
    healthy: tuple[int, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Look:
        return cls(bool(record["answered"]), bool(record["up"]), tuple(record["healthy"]))

    def to_record(self) -> dict[str, Any]:
        return {"answered": self.answered, "up": self.up, "healthy": list(self.healthy)}

    def is_available(self, partitions: int) -> bool:
        return self.up and len(self.healthy) >= partitions

    def waits_for(self, partitions: int) -> str:
        """Return what is missing until the engine is available, "" when nothing is."""
        if not self.answered:
            return "The engine's process runs and does not answer yet."
        missing = sorted(set(range(1, partitions + 1)) - set(self.healthy))
        if missing:
            return f"The engine's partition {missing[0]} has no healthy leader yet."
        return "" if self.up else "The engine does not call itself healthy yet."


def look_at(management_port: int) -> Look:
    """Ask the engine; two short requests, three when it is not well. Never raises: silence is an answer too."""
    partitions = _get(management_port, "partitions")
    if partitions is None:
        return Look()
    led = tuple(sorted(int(number) for number, state in _members(partitions) if _is_led(state)))
    up = _get(management_port, "health/status") is not None
    return Look(answered=True, up=up, healthy=led if up else _healthy_by_metric(management_port, led))


def _get(port: int, endpoint: str) -> urllib3.BaseHTTPResponse | None:
    try:
        response = _http.request("GET", f"http://{LOOPBACK}:{port}/actuator/{endpoint}", redirect=False)
    except HTTPError:
        return None
    return response if response.status == HTTP_OK else None


def _members(response: urllib3.BaseHTTPResponse) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        content = response.json()
    except ValueError:
        return []
    return list(content.items()) if isinstance(content, dict) else []


def _is_led(state: Mapping[str, Any]) -> bool:
    # A leader says LEADER before it processes; only then do commands get an answer.
    return state.get("role") == "LEADER" and state.get("streamProcessorPhase") in {"PROCESSING", "PAUSED"}


def _healthy_by_metric(port: int, led: tuple[int, ...]) -> tuple[int, ...]:
    """Narrow `led` to the partitions whose own health gauge is up; for an engine that is not well as a whole."""
    response = _get(port, "prometheus")
    if response is None:
        return ()
    gauges = PARTITION_HEALTH.findall(response.data.decode(errors="replace"))
    healthy = {int(number) for number, value in gauges if float(value) > 0}
    return tuple(number for number in led if number in healthy)
