from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embedded.errors import SetupError
from embedded.files import alone, digest, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_mode_asked_for(tmp_path: Path) -> None:
    write_whole(tmp_path / "secret", "x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_second_holder_is_refused_with_the_sentence(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "lock", "taken"),
        pytest.raises(SetupError, match="taken"),
        alone(tmp_path / "lock", "taken"),
    ):
        pass


def test_a_lock_is_free_after_its_holder_left(tmp_path: Path) -> None:
    with alone(tmp_path, "taken"):
        pass
    with alone(tmp_path, "taken"):
        pass


def test_where_one_part_ends_changes_the_digest() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
