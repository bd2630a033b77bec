"""The looks at several brokers, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provisioning.backends.engine.admin import BackupState
from provisioning.backends.engine.backups import BEGIN_SECONDS, PATIENCE_SECONDS, Request, judge
from provisioning.backends.engine.health import Look, Topology
from provisioning.backends.engine.view import MAX_LAG_POSITIONS, View
from provisioning.spec import Work
from tests.provisioning.backends.conftest import SMALL, TRIO

MEMBERS = Topology(1, (0, 1, 2))


def look(*led: int, **overrides: Any) -> Look:
    well = Look(answered=True, up=True, healthy=led, positions={1: 500, 2: 500, 3: 500}, topology=MEMBERS)
    return replace(well, **overrides)


WELL = {0: look(1), 1: look(2), 2: look(3)}


def test_when_all_are_well_nothing_is_waited_for() -> None:
    view = View(TRIO, WELL)

    assert view.is_available
    assert view.is_even
    assert view.waits_for() == ""
    assert all(view.is_healthy(node) for node in range(3))


@pytest.mark.parametrize(
    ("view", "sentence", "available"),
    [
        (View(TRIO, {**WELL, 1: Look()}), "Broker 2 of 3 runs and does not answer yet.", False),
        (View(TRIO, {0: look(1, 2), 2: look(3)}), "Broker 2 of 3 does not run.", True),
        (View(TRIO, {0: look(1, 2), 2: look(3)}, stopping=frozenset({1})), "Broker 2 of 3 is stopping.", True),
        (
            View(TRIO, {0: look(1, 2), 1: Look(), 2: look(3)}, copying=frozenset({1})),
            "Broker 2 of 3 keeps a copy of its data, for going back.",
            True,
        ),
        (View(TRIO, {**WELL, 2: look()}), "Partition 3 has no healthy leader yet.", False),
        (View(TRIO, {**WELL, 2: look(3, up=False)}), "Broker 3 of 3 does not call itself healthy yet.", True),
        (
            View(TRIO, {**WELL, 1: look(2, topology=Topology(2, (0, 1, 2), is_changing=True))}),
            "The engine is taking brokers in or letting them go.",
            True,
        ),
        (
            View(TRIO, {node: look(node + 1, topology=None) for node in range(3)}),
            "The engine does not say which brokers it counts on.",
            True,
        ),
        (
            View(TRIO, {**WELL, 1: look(2, topology=Topology(2, (0, 1, 2, 3), has_failed=True))}),
            "The engine's last change of its brokers came to nothing; it is asked again.",
            True,
        ),
        (View(TRIO, {**WELL, 1: look(2, topology=Topology(2, (0, 1, 2), has_failed=True))}), "", True),
        (View(SMALL, {0: Look()}), "The engine's process runs and does not answer yet.", False),
        (View(SMALL, {0: look()}), "The engine's partition 1 has no healthy leader yet.", False),
        (View(SMALL, {0: look(1, up=False)}), "The engine does not call itself healthy yet.", False),
        (
            View(SMALL, {0: Look(answered=True, is_paused=True)}),
            "The engine takes no commands, because its disk is nearly full. It goes on by itself as soon as there is "
            "room.",
            False,
        ),
        (View(SMALL, {}, stopping=frozenset({0})), "The engine is stopping.", False),
    ],
)
def test_what_is_missing_is_named(view: View, sentence: str, available: bool) -> None:
    assert view.waits_for() == sentence
    assert view.is_available is available


def test_a_broker_that_calls_itself_healthy_and_is_far_behind_is_not() -> None:
    behind = look(2, positions={1: 500, 2: 500, 3: 500})
    view = View(TRIO, {0: look(1, positions={1: 501 + MAX_LAG_POSITIONS}), 1: behind, 2: look(3)})

    assert not view.is_healthy(1)
    assert view.is_healthy(0)
    assert view.waits_for() == "Broker 2 of 3 has not caught up with partition 1 yet."


def test_the_newest_topology_counts_and_a_change_in_it() -> None:
    newer = Topology(4, (0, 1, 2, 3), is_changing=True)
    view = View(TRIO, {**WELL, 1: look(2, topology=newer), 2: look(3, topology=None)})

    assert view.topology == newer


@pytest.mark.parametrize(
    ("led", "members", "expected"),
    [
        (((1,), (2,), (3,)), 3, True),
        (((1, 2), (3,), ()), 3, False),
        (((1, 2, 3), (), ()), 3, False),
        (((1,), (2,), (3,), ()), 4, True),
    ],
)
def test_leaders_are_even_when_no_broker_has_two_more_than_another(
    led: tuple[tuple[int, ...], ...], members: int, expected: bool
) -> None:
    topology = Topology(1, tuple(range(members)))
    looks = {node: look(*partitions, topology=topology) for node, partitions in enumerate(led)}

    assert View(TRIO, looks).is_even is expected


def test_a_look_is_kept_whole_and_its_positions_are_no_news() -> None:
    one = look(1)

    assert Look.from_record(one.to_record()) == one
    assert Look.from_record(one.to_record()).positions == one.positions
    assert replace(one, positions={}) == one
    # As a watch of an earlier version wrote it.
    assert Look.from_record({"answered": True, "up": True, "healthy": [1]}) == Look(True, True, (1,))
    assert Topology.from_record({"version": 1, "members": [0, 1, 2], "is_changing": False}) == MEMBERS
    failed = look(1, topology=Topology(2, (0, 1, 2), has_failed=True))
    assert Look.from_record(failed.to_record()) == failed


RUNNING, DONE = BackupState(Work.RUNNING, is_whole=True), BackupState(Work.DONE, is_whole=True)
PARTIAL, FAILED = BackupState(Work.RUNNING, is_whole=False), BackupState(Work.FAILED, is_whole=False)
JUST, LATER, LONG = Request(1, 1.0), Request(1, BEGIN_SECONDS), Request(1, PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        (None, None, Work.ABSENT),
        (None, JUST, Work.RUNNING),
        (None, LATER, Work.FAILED),
        (PARTIAL, JUST, Work.RUNNING),
        (PARTIAL, LATER, Work.FAILED),
        (PARTIAL, None, Work.FAILED),
        (RUNNING, JUST, Work.RUNNING),
        (RUNNING, LATER, Work.RUNNING),
        (RUNNING, LONG, Work.FAILED),
        # Counted from when the engine was asked; nobody else counts.
        (RUNNING, Request(1, 899.0), Work.RUNNING),
        (RUNNING, Request(1, 900.0), Work.FAILED),
        (RUNNING, None, Work.RUNNING),
        (FAILED, JUST, Work.FAILED),
        (DONE, LONG, Work.DONE),
        (DONE, None, Work.DONE),
    ],
)
def test_patience_tells_a_backup_that_takes_long_from_one_that_never_comes(
    found: BackupState | None, asked: Request | None, expected: Work
) -> None:
    work, sentence = judge(found, asked)

    assert work is expected
    assert sentence.endswith(".") or work in {Work.DONE, Work.ABSENT}
