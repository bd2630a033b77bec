"""What the init container makes of a volume: a table of states, the laptop's decisions beside it, kills everywhere."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from uuid import UUID

import pytest

from common.errors import ControlPlaneError
from provisioning.backends.engine.origins import Contents, Move, Origin, decide
from provisioning.spec import BackupRef, DesiredData
from tests.charts.volumes import NAMED, Cut, Outcome, Volume

SCRIPT = "prepare-data.sh"
WRONG, UNFIT, LATER = 64, 65, 75
OLD, NEW = "8.5.8", "8.6.0"
ELSEWHERE = UUID("00000000-0000-4000-8000-000000000000")

# What lies there, what is wished (release, epoch), and what is there afterwards: content and origin of each folder.
Layout = dict[str, str]
Expected = dict[str, tuple[str, str]]
STATES: dict[str, tuple[Layout, tuple[str, str], Expected]] = {
    "a first start begins with nothing": ({}, (NEW, "0"), {"data": ("", f"{NEW} 0")}),
    "a restart changes nothing": ({"data": f"{NEW} 0"}, (NEW, "0"), {"data": (f"data {NEW} 0", f"{NEW} 0")}),
    "a restart keeps what is kept": (
        {"data": f"{NEW} 0", "former": f"{OLD} 0"},
        (NEW, "0"),
        {"data": (f"data {NEW} 0", f"{NEW} 0"), "former": (f"former {OLD} 0", f"{OLD} 0")},
    ),
    "a later release opens it after a copy": (
        {"data": f"{OLD} 0"},
        (NEW, "0"),
        {"data": (f"data {OLD} 0", f"{NEW} 0"), "former": (f"data {OLD} 0", f"{OLD} 0")},
    ),
    "a copy takes the place of an older one": (
        {"data": f"{OLD} 1", "former": "8.4.2 0"},
        (NEW, "1"),
        {"data": (f"data {OLD} 1", f"{NEW} 1"), "former": (f"data {OLD} 1", f"{OLD} 1")},
    ),
    "the earlier release takes the copy back": (
        {"data": f"{NEW} 0", "former": f"{OLD} 0"},
        (OLD, "0"),
        {"data": (f"former {OLD} 0", f"{OLD} 0")},
    ),
    "a restore is taken in": (
        {"data": f"{NEW} 0", "incoming": f"{NEW} 1"},
        (NEW, "1"),
        {"data": (f"incoming {NEW} 1", f"{NEW} 1"), "former": (f"data {NEW} 0", f"{NEW} 0")},
    ),
    "a restore of an earlier release's backup is taken in without a copy": (
        {"data": f"{NEW} 0", "incoming": f"{OLD} 1"},
        (NEW, "1"),
        {"data": (f"incoming {OLD} 1", f"{NEW} 1"), "former": (f"data {NEW} 0", f"{NEW} 0")},
    ),
    "a restore replaces what was kept": (
        {"data": f"{NEW} 0", "former": f"{OLD} 0", "incoming": f"{NEW} 1"},
        (NEW, "1"),
        {"data": (f"incoming {NEW} 1", f"{NEW} 1"), "former": (f"data {NEW} 0", f"{NEW} 0")},
    ),
    "a cluster begins on another's backup": (
        {"incoming": f"{OLD} 1"},
        (NEW, "1"),
        {"data": (f"incoming {OLD} 1", f"{NEW} 1")},
    ),
    "the epoch before is taken back": (
        {"data": f"{NEW} 1", "former": f"{NEW} 0"},
        (NEW, "0"),
        {"data": (f"former {NEW} 0", f"{NEW} 0")},
    ),
    "the epoch before is taken back, copied for a later release": (
        {"data": f"{NEW} 1", "former": f"{OLD} 0"},
        (NEW, "0"),
        {"data": (f"former {OLD} 0", f"{NEW} 0"), "former": (f"former {OLD} 0", f"{OLD} 0")},
    ),
    "an unfinished restore is left to its Job": (
        {"data": f"{NEW} 0", "incoming": ""},
        (NEW, "0"),
        {"data": (f"data {NEW} 0", f"{NEW} 0"), "incoming": ("incoming ", "")},
    ),
    "a restore for later waits": (
        {"data": f"{NEW} 0", "incoming": f"{NEW} 1"},
        (NEW, "0"),
        {"data": (f"data {NEW} 0", f"{NEW} 0"), "incoming": (f"incoming {NEW} 1", f"{NEW} 1")},
    ),
    "a restore that nobody will wish for goes": (
        {"data": f"{NEW} 1", "incoming": f"{NEW} 1"},
        (NEW, "1"),
        {"data": (f"data {NEW} 1", f"{NEW} 1")},
    ),
}


def lay(volume: Volume, layout: Layout) -> None:
    for folder, origin in layout.items():
        volume.put(folder, origin)


def prepare(volume: Volume, release: str, epoch: str, **more: str) -> Outcome:
    return volume.run(SCRIPT, release=release, epoch=epoch, **more)


def found(volume: Volume) -> Expected:
    return {name: (content or "", origin or "") for name, (content, origin) in volume.contents.items()}


@pytest.mark.parametrize("name", STATES)
def test_what_lies_there_becomes_what_is_wished(volume: Volume, name: str) -> None:
    layout, (release, epoch), expected = STATES[name]
    lay(volume, layout)

    for _ in range(2):
        outcome = prepare(volume, release, epoch)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert found(volume) == expected
        assert volume.folders == set(expected), "nothing of nobody's is left"
        kept = expected["former"][1] if "former" in expected else "none"
        assert outcome.message == f"data {release} {epoch}\nformer {kept}\n"


@pytest.mark.parametrize("where", Cut)
@pytest.mark.parametrize("name", STATES)
def test_killed_at_any_command_and_run_again_it_comes_to_the_same_end(tmp_path: Path, name: str, where: Cut) -> None:
    layout, (release, epoch), expected = STATES[name]
    for at in itertools.count(1):
        base = tmp_path / f"{where}-{at}"
        base.mkdir()
        volume = Volume(base)
        lay(volume, layout)
        if not volume.run_cut(SCRIPT, at, where, release=release, epoch=epoch):
            break
        kept = {content for content, _ in expected.values() if content}
        there = {volume.content(folder) for folder in NAMED}
        assert kept <= there, f"lost at call {at}"

        assert prepare(volume, release, epoch).status == 0
        assert found(volume) == expected, f"after a cut at call {at}"
        assert volume.folders == set(expected)
    assert at > 3, "it was cut several times"


@pytest.mark.parametrize("where", Cut)
def test_killed_while_taking_in_it_can_still_go_back(tmp_path: Path, where: Cut) -> None:
    for at in itertools.count(1):
        base = tmp_path / f"{where}-{at}"
        base.mkdir()
        volume = Volume(base)
        lay(volume, {"data": f"{NEW} 0", "former": f"{OLD} 0", "incoming": f"{NEW} 1"})
        if not volume.run_cut(SCRIPT, at, where, release=NEW, epoch="1"):
            break
        assert prepare(volume, NEW, "0").status == 0
        assert volume.contents["data"] == (f"data {NEW} 0", f"{NEW} 0")


@pytest.mark.parametrize(
    ("layout", "wish", "status", "sentence"),
    [
        ({"data": f"{NEW} 0"}, (OLD, "0"), UNFIT, "was last opened by release 8.6.0, which release 8.5.8 cannot read"),
        ({"data": "8.10.0 0"}, ("8.9.1", "0"), UNFIT, "Choose release 8.10.0 or a later one"),
        ({"data": f"{OLD} 0", "incoming": f"{NEW} 1"}, (OLD, "1"), UNFIT, "The backup was taken by release 8.6.0"),
        ({"data": f"{NEW} 0"}, (NEW, "1"), LATER, "The data of the wished backup (epoch 1) is not on the volume yet."),
        ({"data": f"{NEW} 0", "incoming": ""}, (NEW, "1"), LATER, "not on the volume yet"),
        ({}, (NEW, "1"), LATER, "not on the volume yet"),
        ({"data": f"{NEW} 2", "former": f"{NEW} 1"}, (NEW, "3"), LATER, "not on the volume yet"),
        ({"data": ""}, (NEW, "0"), UNFIT, "cannot be read from the volume, so it was left alone"),
        ({"data": "8.6.0"}, (NEW, "0"), UNFIT, "cannot be read"),
        ({"data": "8.6.0 0 1"}, (NEW, "0"), UNFIT, "cannot be read"),
        ({"data": "", "former": f"{NEW} 0"}, (NEW, "0"), UNFIT, "cannot be read"),
        ({"data": f"{NEW} 0"}, ("latest", "0"), WRONG, '"latest" is not an engine release.'),
        ({"data": f"{NEW} 0"}, (NEW, "one"), WRONG, '"one" is not a data epoch.'),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_and_left_as_it_is(
    volume: Volume, layout: Layout, wish: tuple[str, str], status: int, sentence: str
) -> None:
    lay(volume, layout)
    before = volume.contents

    outcome = prepare(volume, *wish)

    assert outcome.status == status
    assert sentence in outcome.message
    assert outcome.stderr == f"{outcome.message}\n"
    assert volume.contents == before


def test_data_of_which_nobody_knows_what_it_is_is_kept_when_a_restore_comes(volume: Volume) -> None:
    lay(volume, {"data": "", "incoming": f"{NEW} 1"})

    assert prepare(volume, NEW, "1").status == 0

    assert found(volume) == {"data": (f"incoming {NEW} 1", f"{NEW} 1"), "former": ("data ", "")}


def test_a_broker_that_joins_a_restored_cluster_begins_with_nothing(volume: Volume) -> None:
    assert volume.run(SCRIPT, epoch="2", node="2", MAY_BEGIN_EMPTY_FROM="3").status == LATER
    assert volume.run(SCRIPT, epoch="2", node="3", MAY_BEGIN_EMPTY_FROM="3").status == 0
    assert found(volume) == {"data": ("", f"{NEW} 2")}


def test_data_that_nothing_ever_opened_is_no_later_releases(volume: Volume) -> None:
    assert prepare(volume, NEW, "0").status == 0
    assert prepare(volume, OLD, "0").message == f"data {OLD} 0\nformer none\n"


@pytest.mark.parametrize("where", Cut)
def test_a_broker_that_is_told_to_begins_anew_once(tmp_path: Path, where: Cut) -> None:
    for at in itertools.count(1):
        base = tmp_path / f"{at}"
        base.mkdir()
        volume = Volume(base)
        lay(volume, {"data": f"{NEW} 0", "former": f"{OLD} 0"})
        assert volume.run("begin-anew.sh", release=OLD, epoch="0").status == 0
        is_cut = volume.run_cut(SCRIPT, at, where, release=OLD, epoch="0")
        if is_cut:
            assert prepare(volume, OLD, "0").status == 0
        assert found(volume) == {"data": ("", f"{OLD} 0"), "former": (f"former {OLD} 0", f"{OLD} 0")}
        assert volume.folders == {"data", "former"}
        if not is_cut:
            break


def test_being_told_to_begin_anew_means_nothing_where_the_data_is_usable(volume: Volume) -> None:
    lay(volume, {"data": f"{NEW} 0"})
    volume.run("begin-anew.sh", release=NEW, epoch="0")

    assert prepare(volume, NEW, "0").status == 0
    assert found(volume) == {"data": (f"data {NEW} 0", f"{NEW} 0")}
    assert volume.folders == {"data"}


def test_a_copy_for_which_there_is_no_room_is_not_begun(volume: Volume, tmp_path: Path) -> None:
    lay(volume, {"data": f"{OLD} 0", "former": "8.4.2 0"})
    small = tmp_path / "small"
    small.mkdir()
    (small / "df").write_text("#!/bin/sh\nprintf 'Avail\\n500\\n'\n")
    (small / "df").chmod(0o755)
    before = volume.contents

    outcome = prepare(volume, NEW, "0", PATH=f"{small}:{os.environ['PATH']}")

    assert outcome.status == LATER
    assert "Disk is short" in outcome.message
    assert volume.contents == before


def test_what_is_kept_can_be_let_go_beside_the_engine(volume: Volume) -> None:
    lay(volume, {"data": f"{NEW} 0", "former": f"{OLD} 0", "incoming": f"{NEW} 1"})

    for _ in range(2):
        outcome = volume.run("let-go.sh")
        assert (outcome.status, outcome.message) == (0, "former none\n")
        assert set(volume.contents) == volume.folders == {"data", "incoming"}


@pytest.mark.parametrize("where", Cut)
def test_letting_go_can_be_cut_off_and_leaves_no_half_of_it(tmp_path: Path, where: Cut) -> None:
    for at in itertools.count(1):
        base = tmp_path / f"{at}"
        base.mkdir()
        volume = Volume(base)
        lay(volume, {"data": f"{NEW} 0", "former": f"{OLD} 0"})
        if not volume.run_cut("let-go.sh", at, where):
            break
        assert volume.content("former") in (None, f"former {OLD} 0")
        assert volume.run("let-go.sh").status == 0
        assert volume.folders == {"data"}


ORIGINS = (None, f"{OLD} 0", f"{NEW} 0", f"{OLD} 1", f"{NEW} 1")


def as_wish(epoch: int) -> DesiredData:
    return DesiredData(epoch, BackupRef(ELSEWHERE, epoch) if epoch else None)


def as_origin(text: str | None) -> Origin | None:
    if text is None:
        return None
    release, epoch = text.split()
    return Origin.of(as_wish(int(epoch)), release)


@pytest.mark.parametrize("release", [OLD, NEW])
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("data", ORIGINS)
def test_it_decides_as_a_laptop_does(tmp_path: Path, data: str | None, epoch: int, release: str) -> None:
    for number, (former, incoming) in enumerate(itertools.product(ORIGINS, (None, f"{OLD} 1", f"{NEW} 1"))):
        base = tmp_path / str(number)
        base.mkdir()
        volume = Volume(base)
        layout = {"data": data, "former": former, "incoming": incoming}
        lay(volume, {name: origin for name, origin in layout.items() if origin})
        before = volume.contents

        outcome = prepare(volume, release, str(epoch))

        contents = Contents(as_origin(data), as_origin(former))
        try:
            placement = decide(
                contents, as_origin(incoming), as_wish(epoch), release, may_be_empty=epoch == 0, others_have_all=False
            )
        except ControlPlaneError:
            assert outcome.status in (UNFIT, LATER), layout
            assert volume.contents == before
            continue
        assert outcome.status == 0, (layout, outcome)
        source = {Move.NONE: "data", Move.PUT_BACK: "former", Move.TAKE_IN: "incoming"}[placement.move]
        assert volume.content("data") == (f"{source} {layout[source]}" if layout[source] else "")
        if placement.keeps_copy:
            assert volume.content("former") == volume.content("data")
        elif placement.move is Move.TAKE_IN and data:
            assert volume.content("former") == f"data {data}"
        elif placement.move is Move.PUT_BACK:
            assert volume.content("former") is None
