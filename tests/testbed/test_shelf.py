from __future__ import annotations

from pathlib import Path

import pytest

from testbed.shelf import files_below, keep


def test_it_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    made: list[Path] = []
    first = keep(tmp_path, "thing", [b"a", b"b"], made.append)
    assert keep(tmp_path, "thing", [b"a", b"b"], made.append) == first
    assert keep(tmp_path, "thing", [b"a", b"c"], made.append) != first
    assert len(made) == 2


def test_what_was_made_halfway_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        (folder / "half").chmod(0o400)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        keep(tmp_path, "thing", [b"a"], fail)
    assert not list((tmp_path / "testbed").iterdir())


def test_a_file_s_name_and_content_both_count(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("same")
    before = files_below(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    assert files_below(tmp_path) != before
