"""The one interface to a place where engine clusters run. Every implementation passes the same contract suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from uuid import UUID

from provisioning.spec import DesiredCluster, DesiredRelease, ObservedCluster


class ClusterBackend(Protocol):
    """A region's engines.

    Every method is quick: it begins something and returns before it is so, and the next `observe` tells how far it
    is. All may run twice. `epoch` is the reconcile lease's fencing number: a call with an older epoch than one the
    backend has already seen for that cluster raises `Fenced` and does nothing.
    Raises `Temporary` (worth another turn) or `Permanent` (a person must act), both with a public sentence.
    """

    def observe(self, desired: DesiredCluster) -> ObservedCluster:
        """The whole state of one cluster, with its age: the watch's last look may answer while it is fresh.

        No answer raises `Temporary`; it never reads as absent, and nothing is deleted or recreated on an aged answer.
        """

    def prepare(self, release: DesiredRelease) -> None:
        """Begin to make a release runnable in this region (fetch, verify, unpack); `observe` reports its progress."""

    def start(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Lay down the cluster's configuration and start its engine unless one is running.

        Raises `NoCapacity` or `PortTaken` before anything was started.
        """

    def stop(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Ask the engine to stop, keeping its data; after a grace period a repeated call ends it by force."""

    def delete(self, cluster_id: UUID, *, epoch: int) -> None:
        """Begin complete removal, data included; a missing cluster is success."""

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        """Replace the region's mirror of the public token keys; engines read the mirror, never the control plane."""

    def changes(self) -> Iterator[UUID]:
        """Yield ids worth a look, for ever: first of every cluster there is, then of each that changes.

        A hint: it may repeat, and it may miss some.
        """
