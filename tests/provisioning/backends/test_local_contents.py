"""Which data an engine works on: the decision as a table, and the moves killed at every single step."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import pytest

from common.errors import Permanent, Temporary
from provisioning.backends.engine.origins import Contents, Move, Origin, Placement, decide, is_newer
from provisioning.backends.local import contents
from provisioning.backends.local.contents import let_go, put_in_place, read_contents, write_contents
from provisioning.backends.local.layout import BrokerFolder
from provisioning.spec import BackupRef, DesiredData
from tests.provisioning.dying import is_killed_in

BACKUP = BackupRef(UUID(int=1), 7)
OWN, RESTORED = DesiredData(), DesiredData(1, BACKUP)
OLD, NEW = "8.5.8", "8.6.0"
# What is done between two moments at which a worker may be killed.
STEPS = ("write_contents", "move_durably", "remove")


@pytest.fixture
def broker(tmp_path: Path) -> BrokerFolder:
    """The first broker of a cluster, with nothing in its folder."""
    path = tmp_path / "cluster"
    path.mkdir()
    return BrokerFolder(path, tmp_path / "lock", 0)


def fill(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "log").write_text(content)
    (folder / "below").mkdir()
    (folder / "below" / "more").write_text(content)


def content_of(folder: Path) -> str | None:
    return (folder / "log").read_text() if (folder / "log").exists() else None


# --- the decision -----------------------------------------------------------------------------------------------------


def mine(release: str = OLD, epoch: int = 0) -> Origin:
    return Origin(epoch, BACKUP if epoch else None, release)


@pytest.mark.parametrize(
    ("seated", "incoming", "wished", "release", "expected"),
    [
        # A new cluster, and one that goes on.
        (Contents(), None, OWN, OLD, Placement(Move.NONE, Origin(0))),
        (Contents(mine()), None, OWN, OLD, Placement(Move.NONE, mine())),
        # A later release, and back.
        (Contents(mine()), None, OWN, NEW, Placement(Move.NONE, mine(), keeps_copy=True)),
        (Contents(mine(NEW), mine()), None, OWN, OLD, Placement(Move.PUT_BACK, mine())),
        (Contents(mine(NEW), mine()), None, OWN, NEW, Placement(Move.NONE, mine(NEW))),
        # One between the two is an upgrade from the former.
        (Contents(mine(NEW), mine()), None, OWN, "8.5.9", Placement(Move.PUT_BACK, mine(), keeps_copy=True)),
        # A restore, twice started, and back.
        (Contents(mine()), mine(epoch=1), RESTORED, OLD, Placement(Move.TAKE_IN, mine(epoch=1))),
        (Contents(mine(epoch=1), mine()), mine(epoch=1), RESTORED, OLD, Placement(Move.NONE, mine(epoch=1))),
        (Contents(mine(epoch=1), mine()), None, OWN, OLD, Placement(Move.PUT_BACK, mine())),
        # A backup of an earlier release is opened by the later one without a copy: there is the backup.
        (Contents(mine()), mine(OLD, 1), RESTORED, NEW, Placement(Move.TAKE_IN, mine(OLD, 1))),
        # Data of which no release is known.
        (Contents(mine("")), None, OWN, NEW, Placement(Move.NONE, mine(""))),
    ],
)
def test_the_wished_data_comes_to_its_place(
    seated: Contents, incoming: Origin | None, wished: DesiredData, release: str, expected: Placement
) -> None:
    assert decide(seated, incoming, wished, release, may_be_empty=True) == expected


@pytest.mark.parametrize(
    ("seated", "release", "expected"),
    [
        # The way back is to be given the replicas anew, with a copy or without.
        (Contents(mine(NEW)), OLD, Placement(Move.EMPTY, Origin.of(OWN))),
        (Contents(mine(NEW), mine()), OLD, Placement(Move.EMPTY, Origin.of(OWN))),
        # A copy is kept all the same: nobody knows yet how many will have to go back.
        (Contents(mine()), NEW, Placement(Move.NONE, mine(), keeps_copy=True)),
        (Contents(mine(NEW)), NEW, Placement(Move.NONE, mine(NEW))),
    ],
)
def test_a_broker_whose_others_have_all_goes_back_by_beginning_with_nothing(
    seated: Contents, release: str, expected: Placement
) -> None:
    assert decide(seated, None, OWN, release, may_be_empty=True, others_have_all=True) == expected


@pytest.mark.parametrize(
    ("seated", "incoming", "wished", "sentence"),
    [
        (Contents(mine(NEW)), None, OWN, "The engine's data was last opened by release 8.6.0, which release 8.5.8"),
        (Contents(mine(NEW), mine(NEW, 1)), None, OWN, "no data from before is kept"),
        (Contents(mine()), mine(NEW, 1), RESTORED, "The backup was taken by release 8.6.0, which release 8.5.8"),
    ],
)
def test_data_of_a_newer_release_is_refused_with_a_way_out(
    seated: Contents, incoming: Origin | None, wished: DesiredData, sentence: str
) -> None:
    with pytest.raises(Permanent, match=sentence):
        decide(seated, incoming, wished, OLD, may_be_empty=True)


@pytest.mark.parametrize("seated", [Contents(), Contents(mine()), Contents(mine(), mine())])
def test_data_that_is_not_there_yet_is_waited_for(seated: Contents) -> None:
    with pytest.raises(Temporary, match="not in the region yet"):
        decide(seated, None, RESTORED, OLD, may_be_empty=False)


def test_a_broker_that_joins_others_begins_with_nothing_of_their_epoch() -> None:
    assert decide(Contents(), None, RESTORED, OLD, may_be_empty=True) == Placement(Move.NONE, Origin.of(RESTORED))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(NEW, OLD, True), (OLD, NEW, False), (OLD, OLD, False), ("", OLD, False), ("8.10.0", "8.9.9", True)],
)
def test_releases_are_compared_by_number(one: str, other: str, expected: bool) -> None:
    assert is_newer(one, other) is expected


# --- the moves, killed at every step ----------------------------------------------------------------------------------


def restored_beside_own(broker: BrokerFolder) -> Placement:
    fill(broker.data, "own")
    fill(broker.former, "rubbish")
    write_contents(broker, Contents(mine()))
    fill(broker.incoming, "restored")
    broker.restore.write_text("{}")
    return Placement(Move.TAKE_IN, mine(epoch=1))


def restored_into_nothing(broker: BrokerFolder) -> Placement:
    fill(broker.incoming, "restored")
    return Placement(Move.TAKE_IN, mine(epoch=1))


def tried_with_former(broker: BrokerFolder) -> Placement:
    fill(broker.data, "tried")
    fill(broker.former, "own")
    fill(broker.copying, "half a copy")
    write_contents(broker, Contents(mine(NEW), mine()))
    return Placement(Move.PUT_BACK, mine())


def tried_beside_others(broker: BrokerFolder) -> Placement:
    fill(broker.data, "tried")
    fill(broker.former, "own")
    write_contents(broker, Contents(mine(NEW), mine()))
    return Placement(Move.EMPTY, Origin.of(OWN))


def former_before_another_copy(broker: BrokerFolder) -> Placement:
    fill(broker.data, "restored")
    fill(broker.former, "own")
    write_contents(broker, Contents(mine(OLD, 1), mine()))
    return Placement(Move.NONE, mine(OLD, 1), keeps_copy=True)


def from_before_there_were_notes(broker: BrokerFolder) -> Placement:
    fill(broker.data, "own")
    fill(broker.incoming, "restored")
    return Placement(Move.TAKE_IN, mine(epoch=1))


@pytest.mark.parametrize(
    ("prepare", "data", "former"),
    [
        (restored_beside_own, "restored", "own"),
        (restored_into_nothing, "restored", None),
        (tried_with_former, "own", None),
        (tried_beside_others, None, None),
        (former_before_another_copy, "restored", None),
        (from_before_there_were_notes, "restored", "own"),
    ],
)
def test_a_move_that_is_killed_anywhere_comes_to_the_same_end(
    tmp_path: Path, prepare: Callable[[BrokerFolder], Placement], data: str | None, former: str | None
) -> None:
    kills = 0
    while True:
        path = tmp_path / f"killed-{kills}"
        path.mkdir()
        broker = BrokerFolder(path, tmp_path / "lock", 0)
        placement = prepare(broker)
        was_killed = killed_at(kills, partial(put_in_place, broker, placement))
        after = put_again(broker, placement)

        assert content_of(broker.data) == data
        assert content_of(broker.former) == former
        assert after.move is Move.NONE
        assert after.data == placement.data
        assert (after.former is None) is (former is None)
        assert not [left for left in (broker.discarded, broker.copying, broker.incoming) if left.exists()]
        if not was_killed:
            break
        kills += 1
    assert kills >= 3


def put_again(broker: BrokerFolder, placement: Placement) -> Contents:
    """What the next start does: it looks anew, and what was done already is not done again."""
    seated = read_contents(broker)
    is_done = seated.data == placement.data and not placement.keeps_copy
    return put_in_place(broker, Placement(Move.NONE, placement.data) if is_done else placement)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that kills itself at this step, removals half done; False when it got through."""

    def do() -> None:
        left = [step]
        for name in STEPS:
            patch.object(contents, name, dying(getattr(contents, name), left)).start()
        work()

    return is_killed_in(do)


def dying(step: Callable[..., None], left: list[int]) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        if left[0] == 0:
            for argument in arguments:
                if step.__name__ == "remove" and isinstance(argument, Path) and argument.is_dir():
                    shutil.rmtree(argument / "below", ignore_errors=True)
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        step(*arguments)

    return run


def test_letting_go_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    kills, was_killed = 0, True
    while was_killed:
        path = tmp_path / f"killed-{kills}"
        path.mkdir()
        broker = BrokerFolder(path, tmp_path / "lock", 0)
        fill(broker.data, "new")
        fill(broker.former, "old")
        write_contents(broker, Contents(mine(NEW), mine()))
        was_killed = killed_at(kills, partial(let_go, broker))
        let_go(broker)

        assert content_of(broker.data) == "new"
        assert not broker.former.exists()
        assert read_contents(broker) == Contents(mine(NEW))
        kills += 1
    assert kills > 2


def test_data_from_before_there_were_notes_is_the_clusters_own(broker: BrokerFolder) -> None:
    assert read_contents(broker) == Contents()
    fill(broker.data, "own")
    broker.record.write_text('{"release": "8.5.8"}')

    assert read_contents(broker) == Contents(Origin(0, None, OLD))


def test_what_is_noted_is_read_back(broker: BrokerFolder) -> None:
    noted = Contents(mine(OLD, 1), mine(NEW), Move.PUT_BACK)
    write_contents(broker, noted)

    assert read_contents(broker) == noted
