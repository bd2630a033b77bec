"""What a broker says of itself and its partitions, asked through its door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioning.backends.engine.door import Answer, Door, Limits

LIMITS = Limits(connect=0.5, read=1.5)
HTTP_OK = 200
PARTITION_HEALTH = re.compile(r'^zeebe_health\{[^}]*partition="(\d+)"[^}]*\} ([0-9.eE+-]+)', re.MULTILINE)
# Of a broker that left, the engine may go on to speak for a while.
GONE_STATES = frozenset({"LEFT", "UNINITIALIZED"})
FAILED_CHANGES = frozenset({"FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Topology:
    """Which brokers the engine counts in, as one of them knows it; a higher version is newer.

    `has_failed` is about the last change of them that came to an end.
    """

    version: int = -1
    members: tuple[int, ...] = ()
    is_changing: bool = False
    has_failed: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Topology:
        # A watch of an earlier version wrote nothing about failures.
        has_failed = bool(record.get("has_failed"))
        return cls(int(record["version"]), tuple(record["members"]), bool(record["is_changing"]), has_failed)

    def to_record(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "members": list(self.members),
            "is_changing": self.is_changing,
            "has_failed": self.has_failed,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a broker.

    Attributes:
        answered: it did.
        up: it calls itself healthy, its replicas included.
        healthy: the partitions that it leads in health.
        positions: how far each of its replicas has processed, leading or following.
        topology: None when it was not asked, as the only broker, or did not say.
        is_paused: it takes no commands, as the engine does by itself when its disk is nearly full.
    """

    answered: bool = False
    up: bool = False
    healthy: tuple[int, ...] = ()
    # They change all the time, which is no news.
    positions: Mapping[int, int] = field(default_factory=dict, compare=False)
    topology: Topology | None = None
    is_paused: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether nothing is expected to change soon."""
        return self.up and not (self.topology and self.topology.is_changing)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Look:
        topology = record.get("topology")
        return cls(
            bool(record["answered"]),
            bool(record["up"]),
            tuple(record["healthy"]),
            {int(number): int(position) for number, position in record.get("positions", {}).items()},
            Topology.from_record(topology) if topology else None,
            bool(record.get("is_paused")),
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "answered": self.answered,
            "up": self.up,
            "healthy": list(self.healthy),
            "positions": dict(self.positions),
            "topology": self.topology.to_record() if self.topology else None,
            "is_paused": self.is_paused,
        }


def look_at(door: Door, *, is_one_of_several: bool = False) -> Look:
    """Ask a broker: two short requests, one more when it is not well and one more when it is one of several.

    Never raises: silence is an answer too.
    """
    replicas = _replicas(door)
    if replicas is None:
        return Look()
    led = tuple(number for number, state in sorted(replicas.items()) if _is_led(state))
    up = _get(door, "health/status") is not None
    return Look(
        answered=True,
        up=up,
        healthy=led if up else _healthy_by_metric(door, led),
        positions={number: int(state.get("processedPosition") or 0) for number, state in replicas.items()},
        topology=read_topology(door) if is_one_of_several else None,
        is_paused=not up and any(state.get("streamProcessorPhase") == "PAUSED" for state in replicas.values()),
    )


def read_topology(door: Door) -> Topology | None:
    """Ask a broker which brokers there are; None when it does not say."""
    answer = _get(door, "cluster")
    content = answer.content if answer is not None else None
    if not isinstance(content, dict):
        return None
    brokers = content.get("brokers", [])
    members = sorted(int(broker["id"]) for broker in brokers if broker.get("state") not in GONE_STATES)
    last = content.get("lastChange") or {}
    has_failed = last.get("status") in FAILED_CHANGES
    return Topology(int(content.get("version", 0)), tuple(members), bool(content.get("pendingChange")), has_failed)


def _get(door: Door, endpoint: str) -> Answer | None:
    answer = door.ask("GET", f"actuator/{endpoint}", limits=LIMITS)
    return answer if answer is not None and answer.status == HTTP_OK else None


def _replicas(door: Door) -> dict[int, Mapping[str, Any]] | None:
    """Return each partition that has a replica here, None when the broker does not answer."""
    answer = _get(door, "partitions")
    if answer is None:
        return None
    content = answer.content
    return {int(number): state for number, state in content.items()} if isinstance(content, dict) else {}


def _is_led(state: Mapping[str, Any]) -> bool:
    # A leader says LEADER before it processes; only then do commands get an answer.
    return state.get("role") == "LEADER" and state.get("streamProcessorPhase") in {"PROCESSING", "PAUSED"}


def _healthy_by_metric(door: Door, led: tuple[int, ...]) -> tuple[int, ...]:
    """Narrow `led` to the partitions whose own health gauge is up; for a broker that is not well as a whole."""
    answer = _get(door, "prometheus") if led else None
    if answer is None:
        return ()
    gauges = PARTITION_HEALTH.findall(answer.body.decode(errors="replace"))
    healthy = {int(number) for number, value in gauges if float(value) > 0}
    return tuple(number for number in led if number in healthy)
