"""Which data a broker has, and how it comes to work on the wished one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from common.errors import Permanent, Temporary
from provisioning.spec import BackupRef, DesiredData


@dataclass(frozen=True, slots=True)
class Origin:
    """What data is: its epoch, the backup it began with, and the release that opened it last ("" when none has)."""

    epoch: int
    source: BackupRef | None = None
    release: str = ""

    @classmethod
    def of(cls, wished: DesiredData, release: str = "") -> Origin:
        return cls(wished.epoch, wished.source, release)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Origin | None:
        if not record:
            return None
        return cls(int(record["epoch"]), ref_from_record(record.get("source")), str(record["release"]))

    def to_record(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "source": ref_to_record(self.source), "release": self.release}

    def is_of(self, wished: DesiredData) -> bool:
        return (self.epoch, self.source) == (wished.epoch, wished.source)

    def is_usable(self, wished: DesiredData, release: str) -> bool:
        """Whether an engine of this release may open it, and it is what is wished."""
        return self.is_of(wished) and not is_newer(self.release, release)


class Move(StrEnum):
    """How the wished data comes to its place."""

    NONE = ""
    TAKE_IN = "take_in"
    PUT_BACK = "put_back"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in `data` and `former`; with a `move`, what will once it is done."""

    data: Origin | None = None
    former: Origin | None = None
    move: Move = Move.NONE

    def to_record(self) -> dict[str, Any]:
        return {
            "data": self.data.to_record() if self.data else None,
            "former": self.former.to_record() if self.former else None,
            "move": self.move.value,
        }


@dataclass(frozen=True, slots=True)
class Placement:
    """What a start has to do with a broker's data: a move, and keeping a copy before the engine opens it."""

    move: Move
    data: Origin
    keeps_copy: bool = False


def decide(
    contents: Contents,
    incoming: Origin | None,
    wished: DesiredData,
    release: str,
    *,
    may_be_empty: bool,
    others_have_all: bool = False,
) -> Placement:
    """Return how a broker comes to work on the wished data.

    Args:
        incoming: what a finished restore has laid beside it, None without one.
        may_be_empty: a broker that begins with nothing may do so.
        others_have_all: all the cluster's other brokers have data that this release may open, and every partition.
            Then the way back to an earlier release is to begin with nothing and to be given the replicas anew: a copy
            from before lacks what this broker has said yes to since, and with one that was behind it could outvote the
            one that has it.

    Pure. `Move.EMPTY` must not be made before the others are well: what this one has may be missing there.

    Raises:
        Temporary: the wished data is not there yet.
        Permanent: it is a newer release's, and nothing was kept for going back.
    """
    data, former = contents.data, contents.former
    if data is not None and data.is_usable(wished, release):
        return Placement(Move.NONE, data, keeps_copy=data.release not in ("", release))
    is_going_back = data is not None and data.is_of(wished)
    if is_going_back and others_have_all:
        return Placement(Move.EMPTY, Origin.of(wished))
    if former is not None and former.is_usable(wished, release):
        return Placement(Move.PUT_BACK, former, keeps_copy=former.release not in ("", release))
    if incoming is not None and incoming.is_of(wished):
        _require_not_newer(incoming, release, "The backup was taken by")
        return Placement(Move.TAKE_IN, incoming)
    if data is not None and data.is_of(wished):
        _require_not_newer(data, release, "The engine's data was last opened by")
    if data is None and may_be_empty:
        return Placement(Move.NONE, Origin.of(wished))
    raise Temporary("The data of the wished backup is not in the region yet.")


def _require_not_newer(data: Origin, release: str, what: str) -> None:
    if is_newer(data.release, release):
        raise Permanent(
            f"{what} release {data.release}, which release {release} cannot read, and no data from before is kept. "
            f"Choose release {data.release} or a later one, or restore a backup that an earlier release took."
        )


def is_newer(release: str, other: str) -> bool:
    """Whether a release comes after another; what no release has opened is never too new."""
    return bool(release) and bool(other) and rank(release) > rank(other)


def rank(release: str) -> tuple[int, ...]:
    """Return what releases are put in order by."""
    return tuple(int(part) if part.isdecimal() else 0 for part in release.partition("-")[0].split("."))


def ref_to_record(ref: BackupRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"cluster_id": str(ref.cluster_id), "number": ref.number}


def ref_from_record(record: Mapping[str, Any] | None) -> BackupRef | None:
    return BackupRef(UUID(str(record["cluster_id"])), int(record["number"])) if record else None
