"""Decide where a new cluster goes: which regions may take it, and which of them is filled least. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

# What one Kubernetes cluster is good for: its limit of 10,000 Services, of which each engine cluster has two, with room
# for everything else that lives there.
KUBERNETES_CAP = 4000

MAX_LABELS = 20
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?=[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Place:
    """A region as placement sees it.

    Attributes:
        labels: what it is, such as "country=de"; a cluster may ask for some of them.
        is_open: whether it takes new clusters at all.
        draining_since, maintenance_since, silent_since: None when it is not so.
        placed: clusters that are there, whatever their state; a deleted one until nothing of it is left.
        max_clusters: how many may be; None when nobody has said.
    """

    slug: str
    labels: frozenset[str] = frozenset()
    is_open: bool = True
    draining_since: datetime | None = None
    maintenance_since: datetime | None = None
    silent_since: datetime | None = None
    placed: int = 0
    max_clusters: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more cluster may be there."""
        return self.max_clusters is None or self.placed < self.max_clusters

    @property
    def fill(self) -> Fraction | None:
        """The share of its room that is taken; None when nobody has said how much there is."""
        return Fraction(self.placed, max(self.max_clusters, 1)) if self.max_clusters is not None else None


def refusal(place: Place, labels: Iterable[str] = ()) -> str:
    """Return why a cluster that names this region cannot go there, "" when it can.

    In maintenance, or while it does not answer, it waits there.
    """
    lacking = sorted(set(labels) - place.labels)
    if lacking:
        return f"it is not {', '.join(lacking)}"
    if place.draining_since is not None:
        return f"it has been emptied since {minute(place.draining_since)} and takes no new clusters"
    if not place.is_open:
        return "it takes no new clusters"
    if not place.has_room:
        # How many others have is not for a customer to read.
        return "it is full"
    return ""


def exclusion(place: Place, labels: Iterable[str] = ()) -> str:
    """Return why this region is not chosen for a cluster that names none, "" when it may be."""
    if why := refusal(place, labels):
        return why
    if place.maintenance_since is not None:
        return f"it has been in maintenance since {minute(place.maintenance_since)}"
    if place.silent_since is not None:
        return f"it has not answered since {minute(place.silent_since)}"
    return ""


def choose(places: Iterable[Place], labels: Iterable[str] = ()) -> Place | None:
    """Return the region that is filled least in proportion; of equals the first by its slug; None when none fits.

    One without a limit has no proportion: it comes after all others, the one with the fewest clusters first.
    """
    wanted = tuple(labels)
    fitting = [place for place in places if not exclusion(place, wanted)]
    return min(fitting, key=_rank, default=None)


def why_none(places: Sequence[Place], labels: Iterable[str] = ()) -> str:
    """Return the sentence that says which rule has excluded which region."""
    wanted = tuple(labels)
    if not places:
        return "There is no region yet."
    reasons = "; ".join(f"{place.slug}: {exclusion(place, wanted)}" for place in sorted(places, key=lambda p: p.slug))
    return f"No region can take this cluster. {reasons}."


def minute(moment: datetime) -> str:
    """A moment as sentences say it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _rank(place: Place) -> tuple[bool, Fraction, str]:
    fill = place.fill
    return (fill is None, Fraction(place.placed) if fill is None else fill, place.slug)
