"""A region in memory that does what it is told, or misbehaves on demand: for the loop's own tests.

It shows the behaviour that the contract suite asks of every backend, without an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from provisioning.errors import Fenced
from provisioning.spec import DesiredCluster, DesiredRelease, Endpoint, ObservedCluster, ReleaseState


@dataclass
class PretendRegion:
    """Engines as facts in a dictionary.

    Attributes:
        calls: every call that arrived, in order, as `(verb, epoch)`.
        faults: verb -> errors to raise, one for each call, before anything is done.
        after: verb -> errors to raise after the thing was done, as when an answer is lost on its way.
        slow: boots and releases do not finish by themselves; `finish()` lets them.
    """

    clusters: dict[UUID, ObservedCluster] = field(default_factory=dict)
    release: ReleaseState = ReleaseState.ABSENT
    release_detail: str = ""
    epochs: dict[UUID, int] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    after: dict[str, list[Exception]] = field(default_factory=dict)
    starts: int = 0
    slow: bool = False
    crash_on_start: bool = False
    jwks: Mapping[str, Any] | None = None

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        self._raise("observe", self.faults)
        seen = self.clusters.get(desired.cluster_id, ObservedCluster())
        return replace(seen, release=self.release, release_detail=self.release_detail)

    def prepare(self, release: DesiredRelease) -> None:
        self._enter("prepare", 0)
        self.release = ReleaseState.PREPARING if self.slow else ReleaseState.READY
        self._raise("prepare", self.after)

    def start(self, desired: DesiredCluster, *, epoch: int) -> None:
        self._fence(desired.cluster_id, epoch)
        self._enter("start", epoch)
        seen = self.clusters.get(desired.cluster_id, ObservedCluster())
        if not seen.running:
            self.starts += 1
            up = not self.crash_on_start
            self.clusters[desired.cluster_id] = replace(
                seen,
                exists=True,
                running=up,
                digest=desired.digest,
                available=up and not self.slow,
                endpoint=Endpoint(f"{desired.host_name}:26500"),
                restarts=self.starts,
                last_exit="" if up else "The engine ended right after its start.",
            )
        self._raise("start", self.after)

    def stop(self, desired: DesiredCluster, *, epoch: int) -> None:
        self._fence(desired.cluster_id, epoch)
        self._enter("stop", epoch)
        seen = self.clusters[desired.cluster_id]
        self.clusters[desired.cluster_id] = replace(seen, running=self.slow, stopping=self.slow, available=False)
        self._raise("stop", self.after)

    def delete(self, cluster_id: UUID, *, epoch: int) -> None:
        self._fence(cluster_id, epoch)
        self._enter("delete", epoch)
        self.clusters.pop(cluster_id, None)
        self._raise("delete", self.after)

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        self._enter("publish_keys", 0)
        self.jwks = jwks

    def changes(self) -> Iterator[UUID]:
        yield from list(self.clusters)

    def finish(self) -> None:
        """Let everything that was begun be done."""
        if self.release is ReleaseState.PREPARING:
            self.release = ReleaseState.READY
        for cluster_id, seen in self.clusters.items():
            running = seen.running and not seen.stopping
            self.clusters[cluster_id] = replace(seen, running=running, stopping=False, available=running)

    def kill(self, cluster_id: UUID) -> None:
        """An engine dies without being told to."""
        self.clusters[cluster_id] = replace(self.clusters[cluster_id], running=False, available=False)

    def verbs(self) -> list[str]:
        """What was asked of the region, in order."""
        return [verb for verb, _ in self.calls]

    def _enter(self, verb: str, epoch: int) -> None:
        self.calls.append((verb, epoch))
        self._raise(verb, self.faults)

    def _fence(self, cluster_id: UUID, epoch: int) -> None:
        if epoch < self.epochs.get(cluster_id, 0):
            raise Fenced("A newer turn has taken over.")
        self.epochs[cluster_id] = epoch

    @staticmethod
    def _raise(verb: str, planned: dict[str, list[Exception]]) -> None:
        if planned.get(verb):
            raise planned[verb].pop(0)
