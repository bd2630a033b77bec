"""Watches that fall silent, whose history is gone, or that tell late, twice, in another order or not at all."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from common.errors import Temporary
from provisioning.backends.kubernetes import api as api_module
from provisioning.backends.kubernetes.kinds import CONFIG_MAP, SERVICE
from provisioning.backends.kubernetes.watch import Watch
from provisioning.executor import execute
from provisioning.planner import CloseCluster, plan
from provisioning.spec import DesiredCluster, Lifecycle
from tests.kubernetes import eventually
from tests.provisioning.backends.faults import bed
from tests.provisioning.backends.faults.proxy import Asked, Event, mute, sift
from tests.provisioning.backends.faults.stage import Region

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos]
# Bookmarks come every minute; where a test does not wait for them, silence is this long.
SILENCE_SECONDS = 2.0
RESYNC_SECONDS = 1.0
LOOKS = 60


@dataclass
class Followed:
    """A watch that runs beside a test, and what it has told."""

    watch: Watch
    told: queue.SimpleQueue[UUID] = field(default_factory=queue.SimpleQueue)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, changes: Iterator[UUID]) -> None:
        try:
            for cluster_id in changes:
                self.told.put(cluster_id)
        finally:
            self.ended.set()

    def hear(self, cluster_id: UUID, *, seconds: float = 30.0) -> None:
        """Wait until it tells of this cluster.

        Raises:
            queue.Empty: it does not.
        """
        while self.told.get(timeout=seconds) != cluster_id:
            pass

    def hear_all(self, *cluster_ids: UUID, seconds: float = 30.0) -> set[UUID]:
        """Wait until it has told of all of these, in whatever order; of which it has told meanwhile.

        Raises:
            queue.Empty: it does not.
        """
        told: set[UUID] = set()
        while not told.issuperset(cluster_ids):
            told.add(self.told.get(timeout=seconds))
        return told

    def forget(self) -> None:
        """Let go of what it has told so far."""
        while not self.told.empty():
            self.told.get()


@contextmanager
def following(region: Region) -> Iterator[Followed]:
    """Follow two kinds of objects; the backend follows all of them, each in the same way."""
    watch = Watch(region.another_backend()._api, (CONFIG_MAP, SERVICE), lambda _: None)
    followed = Followed(watch)
    thread = threading.Thread(target=followed.run, args=[watch.run()], daemon=True)
    thread.start()
    try:
        yield followed
        assert not followed.ended.is_set()
    finally:
        watch._is_over.set()


def watches(plural: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.is_watch and asked.concerns(plural)


def lists(region: Region, plural: str) -> int:
    """How often all objects of a kind were listed."""
    return sum(not asked.is_watch and asked.path.startswith(f"/api/v1/{plural}?") for asked in region.proxy.asked)


def opened(region: Region, plural: str) -> int:
    return sum(map(watches(plural), region.proxy.asked))


def await_opened(region: Region, plural: str, number: int, *, seconds: float = 30.0) -> None:
    assert eventually(lambda: opened(region, plural) >= number, seconds=seconds), (
        f"the watch of {plural} was opened {opened(region, plural)} times"
    )


def touch(region: Region, desired: DesiredCluster, name: str, value: str) -> None:
    region.patch(desired, name, {"metadata": {"annotations": {"somebody.example/note": value}}})


# --- F17: silence -----------------------------------------------------------------------------------------------------


def test_a_watch_that_falls_silent_is_opened_again_and_what_it_missed_is_told(
    region: Region, healthy: DesiredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee: noticed after SILENCE_SECONDS, by its own clock; what changed meanwhile is told then."""
    monkeypatch.setattr(api_module, "SILENCE_SECONDS", SILENCE_SECONDS)
    with region.proxy.trouble(mute, watches("services"), times=1) as muted, following(region) as followed:
        await_opened(region, "services", 1)
        followed.hear(healthy.cluster_id)
        followed.forget()
        touch(region, healthy, "service/gateway", "missed")
        followed.hear(healthy.cluster_id)

        assert len(muted.met) == 1
        assert opened(region, "services") >= 2
        assert followed.watch.ages_seconds["services"] < api_module.SILENCE_SECONDS + 1
    region.settle(healthy)


@pytest.mark.timeout(400)
def test_a_watch_that_falls_silent_is_noticed_within_75_seconds(region: Region, healthy: DesiredCluster) -> None:
    """Guarantee: with the product's own time. One that hears bookmarks is left alone meanwhile."""
    with region.proxy.trouble(mute, watches("services"), times=1), following(region) as followed:
        await_opened(region, "services", 1)
        followed.hear(healthy.cluster_id)
        touch(region, healthy, "service/gateway", "missed")
        await_opened(region, "services", 2, seconds=75 + 15)
        times = [asked.at for asked in region.proxy.asked if watches("services")(asked)]
        followed.hear(healthy.cluster_id)

        assert times[1] - times[0] < 75 + 5
        assert opened(region, "configmaps") == 1
        assert max(followed.watch.ages_seconds.values()) < 75


def test_a_watch_whose_server_is_gone_goes_on_when_it_is_back(
    region: Region, healthy: DesiredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarantee: it tries again by itself, without a list, and misses nothing."""
    monkeypatch.setattr(api_module, "SILENCE_SECONDS", SILENCE_SECONDS)
    with following(region) as followed:
        await_opened(region, "services", 1)
        followed.hear(healthy.cluster_id)
        followed.forget()
        with region.proxy.away() as met:
            touch(region, healthy, "service/gateway", "while it was away")
            assert eventually(lambda: sum(map(watches("services"), met.met)) >= 2, seconds=30)
            assert followed.told.empty()
        followed.hear(healthy.cluster_id, seconds=60)

        assert lists(region, "services") == 1


# --- F18: a history that is gone --------------------------------------------------------------------------------------


def test_a_history_that_is_gone_is_listed_once_and_nothing_is_missed(region: Region) -> None:
    """Guarantee: one list for each kind, and every change from before it is told: new, other, and gone."""
    changed, gone, beside = (region.healthy() for _ in range(3))
    made, before = region.desired(), region.uids(beside)
    with following(region) as followed:
        await_opened(region, "services", 1)
        await_opened(region, "configmaps", 1)
        followed.hear_all(changed.cluster_id, gone.cluster_id, beside.cluster_id)
        with region.proxy.away():
            time.sleep(2)  # what the second kind's list told of them may be on its way still
            followed.forget()
            touch(region, changed, "service/gateway", "while it was away")
            region.place(gone).kubectl("delete", "service/gateway")
            region.judge.backend.start(made, made.nodes, epoch=region.next_epoch())
            # An API server killed while it makes an object has charged the quota, which is counted anew after minutes.
            region.settle(made)
            with bed.without_api_server():
                bed.compact()
            assert followed.told.empty()
        told = followed.hear_all(changed.cluster_id, gone.cluster_id, made.cluster_id, seconds=60)
        assert eventually(lambda: [lists(region, kind) for kind in ("services", "configmaps")] == [2, 2], seconds=60)
        assert beside.cluster_id not in told
    region.another_backend().start(gone, (), epoch=region.next_epoch())
    for one in (changed, gone, made, beside):
        region.settle(one)
    assert region.uids(beside) == before
    for one in (changed, gone, made, beside):
        region.remove(one)


# --- F21: what was seen is not what happened --------------------------------------------------------------------------


def every_second(events: Iterable[Event]) -> Iterator[Event]:
    for number, event in enumerate(events):
        if number % 2:
            yield event


def none(events: Iterable[Event]) -> Iterator[Event]:
    yield from (event for event in events if event["type"] == "BOOKMARK")


def doubled(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        yield from (event, event)


def in_pairs_reversed(events: Iterable[Event]) -> Iterator[Event]:
    """The later one of two first; one that nothing follows is never told."""
    first: Event | None = None
    for event in events:
        if first is None:
            first = event
        else:
            yield from (event, first)
            first = None


@pytest.mark.parametrize("change", [every_second, none, doubled, in_pairs_reversed], ids=lambda change: change.__name__)
def test_events_that_are_lost_doubled_or_turned_round_change_nothing_in_the_end(
    region: Region, change: Callable[[Iterable[Event]], Iterable[Event]]
) -> None:
    """Guarantee: a watch is a hint. A whole life on such hints, with a look of its own now and then, ends the same."""
    desired = region.desired()
    with region.proxy.trouble(sift(change), lambda asked: asked.is_watch), following(region) as followed:
        live(region, desired, followed)
        region.settle(desired)
        region.place(desired).kubectl("delete", "service/gateway", "configmap/engine-files")
        live(region, desired, followed)
        region.settle(desired)
        live(region, replace(desired, lifecycle=Lifecycle.SUSPENDED), followed)
        assert "Pod/broker-0" not in region.uids(desired)
        live(region, desired, followed)
        region.settle(desired)
        live(region, replace(desired, lifecycle=Lifecycle.DELETED), followed)

    assert region.uid(desired) == ""


def live(region: Region, desired: DesiredCluster, followed: Followed) -> None:
    """Bring a cluster where it is wished: a look after each hint, and one without any after a while."""
    for _ in range(LOOKS):
        action = plan(desired, region.backend.observe(desired))
        if action is None or isinstance(action, CloseCluster):
            return
        with suppress(Temporary):
            execute(action, region.backend, desired, epoch=region.next_epoch())
        with suppress(queue.Empty):
            followed.told.get(timeout=RESYNC_SECONDS)
    raise AssertionError(f"it never came there: {action}")
