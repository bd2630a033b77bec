"""The looks at a cluster's brokers, put together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioning.backends.engine.health import Look, Topology
from provisioning.backends.engine.names import name_of
from provisioning.spec import DesiredSize

# Two looks are up to 2 s apart, in which a busy partition processes some thousand records; far behind is another thing.
MAX_LAG_POSITIONS = 10_000


@dataclass(frozen=True, slots=True)
class View:
    """What the running brokers say, by number; one that is stopping is not asked."""

    size: DesiredSize
    looks: Mapping[int, Look]
    stopping: frozenset[int] = field(default_factory=frozenset)
    copying: frozenset[int] = field(default_factory=frozenset)
    max_lag_positions: int = MAX_LAG_POSITIONS

    @property
    def healthy_partitions(self) -> set[int]:
        """Partitions that somebody leads in health."""
        return {number for look in self.looks.values() for number in look.healthy}

    @property
    def is_available(self) -> bool:
        """Whether every partition is led in health; of a single broker also that it calls itself healthy."""
        is_up = self.size.brokers > 1 or all(look.up for look in self.looks.values())
        return bool(self.looks) and is_up and not self._unled

    @property
    def topology(self) -> Topology:
        """The newest that any broker knows."""
        known = [look.topology for look in self.looks.values() if look.topology is not None]
        return max(known, key=lambda topology: (topology.version, topology.is_changing), default=Topology())

    @property
    def is_even(self) -> bool:
        """Whether leaders are spread as evenly as can be over the brokers that are members."""
        members = self.topology.members
        counts = [len(self.looks[node].healthy) if node in self.looks else 0 for node in members]
        return not counts or max(counts) - min(counts) <= 1

    def is_healthy(self, node: int) -> bool:
        """Whether a broker calls itself healthy and its replicas are not far behind their leaders.

        It calls itself healthy as soon as its replicas replay, however much there is left to replay.
        """
        look = self.looks.get(node, Look())
        return look.up and self._late(look) is None

    def waits_for(self) -> str:
        """Return a sentence about what is missing until all is well, "" when nothing is."""
        for say in (self._leaving, self._presence, self._pause):
            for node in range(self.size.brokers):
                if sentence := say(node):
                    return sentence
        if self._unled:
            whose = "The engine's partition" if self.size.brokers == 1 else "Partition"
            return f"{whose} {min(self._unled)} has no healthy leader yet."
        for node in range(self.size.brokers):
            if sentence := self._health(node):
                return sentence
        return self._change()

    @property
    def _unled(self) -> set[int]:
        return set(range(1, self.size.partitions + 1)) - self.healthy_partitions

    def _leaving(self, node: int) -> str:
        return f"{name_of(node, self.size.brokers)} is stopping." if node in self.stopping else ""

    def _presence(self, node: int) -> str:
        name = name_of(node, self.size.brokers)
        if node in self.copying:
            return f"{name} keeps a copy of its data, for going back."
        if node not in self.looks:
            return f"{name} does not run."
        if self.looks[node].answered:
            return ""
        whose = "The engine's process" if self.size.brokers == 1 else name
        return f"{whose} runs and does not answer yet."

    def _pause(self, node: int) -> str:
        if node not in self.looks or not self.looks[node].is_paused:
            return ""
        return (
            f"{name_of(node, self.size.brokers)} takes no commands, because its disk is nearly full. It goes on by "
            "itself as soon as there is room."
        )

    def _health(self, node: int) -> str:
        look, name = self.looks[node], name_of(node, self.size.brokers)
        if not look.up:
            return f"{name} does not call itself healthy yet."
        late = self._late(look)
        return "" if late is None else f"{name} has not caught up with partition {late} yet."

    def _change(self) -> str:
        topology, nodes = self.topology, tuple(range(self.size.brokers))
        if topology.is_changing:
            return "The engine is taking brokers in or letting them go."
        if self.size.brokers > 1 and not topology.members:
            return "The engine does not say which brokers it counts on."
        if topology.has_failed and topology.members != nodes:
            return "The engine's last change of its brokers came to nothing; it is asked again."
        return ""

    def _late(self, look: Look) -> int | None:
        """Return a partition of which this broker's replica is far behind."""
        furthest = self._furthest
        late = (number for number, at in look.positions.items() if furthest[number] - at > self.max_lag_positions)
        return next(late, None)

    @property
    def _furthest(self) -> dict[int, int]:
        reached: dict[int, int] = {}
        for look in self.looks.values():
            for number, position in look.positions.items():
                reached[number] = max(position, reached.get(number, 0))
        return reached
