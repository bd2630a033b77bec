"""The region's watch: one reflector for each kind of object, metadata only; what changes is told by its cluster's id.

A watch is a hint and its silence is a fault: the server sends a bookmark every minute, so a reflector that hears
nothing for 75 s opens another one where it was; when the server has forgotten that place, it lists once and tells of
what is new, other or gone. A reflector that ends for any other reason ends the generator, so that the process exits.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from common.errors import Permanent, Temporary
from provisioning.backends.kubernetes.api import SILENCE_SECONDS, Api
from provisioning.backends.kubernetes.errors import Expired
from provisioning.backends.kubernetes.kinds import CLAIM, JOB, NAMESPACE, POD, Kind, Object, meta, notes_in
from provisioning.backends.kubernetes.names import CLUSTER, EPOCH, REMOVING, cluster_of
from provisioning.errors import RegionUnreachable

logger = logging.getLogger(__name__)

# Of every cluster, besides the kinds that a region's clusters are made of.
ALWAYS = (NAMESPACE, POD, CLAIM, JOB)
# Changes of one cluster come in bursts: a first start is some twenty within a second.
SETTLE_SECONDS = 0.1
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
# How soon it is noticed that all of the region is heard, or not any more.
HEARING_SECONDS = 5.0
# After a restart of the region all reflectors would list at the same moment.
JITTER_SECONDS = 2.0


@dataclass
class Reflector:
    """Follows one kind of object.

    Attributes:
        going: clusters whose namespace is on its way out, which all reflectors of a watch share. What goes with it is
            no news; that it does not go, or is gone, is the namespace's own.
    """

    api: Api
    kind: Kind
    told: queue.SimpleQueue[UUID | BaseException]
    going: set[UUID]
    heard_at: float = -math.inf
    _known: dict[str, tuple[str, UUID]] = field(default_factory=dict)
    _version: str = ""

    def run(self, is_over: threading.Event) -> None:
        """Follow until told that it is over; whatever it cannot live with goes into the queue."""
        try:
            self._follow(is_over)
        except BaseException as error:  # noqa: BLE001 - the thread's rim: a dead reflector must end the watch
            self.told.put(error)

    def _follow(self, is_over: threading.Event) -> None:
        pause = RETRY_SECONDS
        while not is_over.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch(is_over)
                pause = RETRY_SECONDS
            except Expired:
                self._version = ""
                is_over.wait(random.uniform(0, JITTER_SECONDS))  # noqa: S311
            except Temporary as error:
                logger.info("the watch of %s: %s (%s)", self.kind.plural, error.message, error.internal)
                is_over.wait(max(pause, error.retry_after_seconds if not isinstance(error, RegionUnreachable) else 0))
                pause = min(pause * 2, MAX_RETRY_SECONDS)

    def _list(self) -> None:
        listing = self.api.find(self.kind, selector=CLUSTER, is_metadata_only=True)
        before, self._known = self._known, {}
        for one in listing.items:
            self._note(one)
        for uid, (version, cluster_id) in self._known.items():
            if before.pop(uid, ("", None))[0] != version:
                self.told.put(cluster_id)
        for _, cluster_id in before.values():
            self.told.put(cluster_id)
            if self.kind is NAMESPACE:
                self.going.discard(cluster_id)
        self._version, self.heard_at = listing.resource_version, time.monotonic()

    def _watch(self, is_over: threading.Event) -> None:
        for event, one in self.api.watch(self.kind, CLUSTER, self._version):
            if is_over.is_set():
                return
            self.heard_at = time.monotonic()
            self._version = str(meta(one).get("resourceVersion", self._version))
            if event == "BOOKMARK":
                continue
            cluster_id = self._forget(one) if event == "DELETED" else self._note(one)
            if cluster_id is not None and (self.kind is NAMESPACE or cluster_id not in self.going):
                self.told.put(cluster_id)

    def _note(self, one: Object) -> UUID | None:
        """Remember an object; whose it is, unless nothing about it is new."""
        cluster_id, uid = cluster_of(one), str(meta(one)["uid"])
        if cluster_id is None:
            return None
        if self.kind is NAMESPACE and meta(one).get("deletionTimestamp"):
            self.going.add(cluster_id)
        mark = _mark(one), cluster_id
        is_news = self._known.get(uid) != mark
        self._known[uid] = mark
        return cluster_id if is_news else None

    def _forget(self, one: Object) -> UUID | None:
        self._known.pop(str(meta(one)["uid"]), None)
        cluster_id = cluster_of(one)
        if self.kind is NAMESPACE and cluster_id is not None:
            self.going.discard(cluster_id)
        return cluster_id


def _mark(one: Object) -> str:
    """Return what changes with an object, for whoever looks at clusters.

    Every turn that writes raises a namespace's epoch first. Were that news, a turn that fails would wake the next one.
    Nor is it news that a namespace goes which we had asked to go, or how far one is that goes: nothing can be done for
    it, and of a hundred at once each would be looked at several times a second.
    """
    about = meta(one)
    if EPOCH not in notes_in(one):
        return str(about.get("resourceVersion", ""))
    others = {name: value for name, value in notes_in(one).items() if name not in (EPOCH, REMOVING)}
    goes_unasked = "deletionTimestamp" in about and REMOVING not in notes_in(one)
    told = [about.get("labels"), others, goes_unasked, about.get("finalizers")]
    return json.dumps(told, sort_keys=True)


class Watch:
    """Follows one region; for one thread."""

    def __init__(self, api: Api, kinds: tuple[Kind, ...], hears: Callable[[float], None]) -> None:
        self._hears = hears
        self._told: queue.SimpleQueue[UUID | BaseException] = queue.SimpleQueue()
        self._is_over = threading.Event()
        going: set[UUID] = set()
        self._reflectors = [Reflector(api, kind, self._told, going) for kind in kinds]

    def run(self) -> Generator[UUID, None, None]:
        """Yield the ids of clusters that changed, for ever: first of all there are.

        Raises:
            Permanent: the region does not let us watch.
        """
        for reflector in self._reflectors:
            name = f"reflector-{reflector.kind.plural}"
            threading.Thread(target=reflector.run, args=[self._is_over], name=name, daemon=True).start()
        try:
            while True:
                self._hears(self.age_seconds)
                yield from self._gather()
        finally:
            self._is_over.set()

    @property
    def ages_seconds(self) -> Mapping[str, float]:
        """How long ago each reflector heard of the region last; one that has not listed yet never has."""
        now = time.monotonic()
        return {reflector.kind.plural: now - reflector.heard_at for reflector in self._reflectors}

    @property
    def age_seconds(self) -> float:
        """How long ago all of the region was heard; infinite when that is longer than bookmarks allow."""
        oldest = max(self.ages_seconds.values())
        return oldest if oldest < SILENCE_SECONDS else math.inf

    def _gather(self) -> Generator[UUID, None, None]:
        """Wait a while for news, and tell what comes with it, each cluster once."""
        try:
            news = [self._told.get(timeout=HEARING_SECONDS)]
        except queue.Empty:
            return
        self._is_over.wait(SETTLE_SECONDS)
        while not self._told.empty():
            news.append(self._told.get())
        yield from dict.fromkeys(one for one in news if isinstance(one, UUID))
        for one in news:
            if isinstance(one, Permanent):
                raise one
            if isinstance(one, BaseException):
                raise RuntimeError("A reflector has ended.") from one
