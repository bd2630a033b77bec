"""The one interface to a place where engine clusters run. Every implementation passes the same contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from provisioning.spec import BackupRef, DesiredCluster, DesiredRelease, ObservedCluster


@dataclass(frozen=True, slots=True)
class Find:
    """Something of a cluster that is in a region, whether or not anybody wishes it there.

    Attributes:
        card: our own card of the cluster as it lies beside the engine, {} when there is none.
        parts: what there is, in words of ours: processes, folders with sizes, ports.
        since: when the oldest part of it was made, None when that cannot be told.
        epoch: the highest fencing number that was seen for it.
    """

    cluster_id: UUID
    card: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    since: datetime | None = None
    epoch: int = 0


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

    def start(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """Lay down the configuration of these brokers and start those that do not run, all or none.

        A broker whose data is of another epoch than wished gets the restored one in its place; one whose data was
        last written by another release keeps a copy of it, for going back: until `let_go`, a start with the former
        release or the former epoch finds the former data.
        Raises `NoCapacity` or `PortTaken` before anything was started, and `Permanent` when the data is a newer
        release's and nothing was kept.
        """

    def stop(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """Ask these brokers to stop, keeping their data; after a grace period a repeated call ends them by force.

        With the last broker the clients' entrance closes, too.
        """

    def rescale(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Have the engine spread its partitions over the wished brokers, all of which run, and no others."""

    def retire(self, desired: DesiredCluster, nodes: Iterable[int], *, epoch: int) -> None:
        """End brokers that the engine has let go, and remove all that is theirs. Raises `Temporary` for any other."""

    def rebalance(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Have the engine spread its leaders; until a broker is started again, the region counts it as balanced."""

    def back_up(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Have the engine begin the wished backup, unless it was begun before."""

    def restore(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Begin to fetch the wished data out of its backup, beside what the engine works on, for every wished broker.

        One that failed is begun anew.
        """

    def let_go(self, desired: DesiredCluster, *, epoch: int) -> None:
        """Remove what was kept for going back."""

    def delete(self, cluster_id: UUID, *, epoch: int) -> bool:
        """Begin complete removal, data included; True when nothing is left, or was there. Its backups stay."""

    def belongings(self, cluster_id: UUID) -> Sequence[str]:
        """All of one cluster that `delete` removes, in words for its customer: kinds and names; () when nothing is."""

    def drop_backup(self, backup: BackupRef) -> bool:
        """Remove some of a backup from the region's store, without the engine; True when nothing of it is left."""

    def publish_keys(self, jwks: Mapping[str, Any]) -> None:
        """Replace the region's mirror of the public token keys; engines read the mirror, never the control plane."""

    def write_register(self, register: Mapping[str, Any]) -> None:
        """Replace what the region remembers of the account database, for the day that is restored from a copy."""

    def read_register(self) -> Mapping[str, Any]:
        """What was last written, {} when nothing was."""

    def inventory(self) -> Iterator[Find]:
        """Everything of any cluster that is in the region; may take a while."""

    def changes(self, hears: Callable[[float], None]) -> Iterator[UUID]:
        """Yield ids worth a look, for ever: first of every cluster there is, then of each that changes.

        A hint: it may repeat, and it may miss some. `hears` is told every few seconds how many seconds ago all of the
        region was heard, and infinity when nobody may count on hints: it was never reached, or has fallen silent.
        """
