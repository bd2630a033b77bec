"""Clearing a log behind its checkpoint, on segments made here and read back as the engine's reader walks them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from provisioning.backends.local.journal import UnexpectedLog, clear, clear_all, frames, last_segment

SEGMENT_BYTES = 4096


def frame(position: int, size: int = 40) -> bytes:
    data = b"\0" * 8 + struct.pack("<qq", 1, position) + b"r" * size
    return b"\x01" + struct.pack("<HHHH", 12, 1, 7, 2) + struct.pack("<QI", 99, len(data)) + data


def make_segment(*positions: int, junk: bytes = b"") -> bytes:
    """A segment with a frame for each position, and junk behind: its first byte is 0, as the restore leaves it."""
    descriptor = b"\x02" + struct.pack("<HHHH", 8, 4, 7, 2) + bytes(8) + struct.pack("<HHHH", 32, 1, 7, 2) + bytes(32)
    content = descriptor + b"".join(frame(position) for position in positions)
    cut_off = b"\0" + junk[1:] if junk else b""
    return (content + cut_off).ljust(SEGMENT_BYTES, b"\0")


def test_what_lies_behind_the_checkpoint_is_cleared_and_all_before_it_stays(tmp_path: Path) -> None:
    segment = tmp_path / "raft-partition-partition-1-1.log"
    whole, dirty = make_segment(3, 4, 9), make_segment(3, 4, 9, junk=frame(12) + b"x" * 100 + frame(13))
    segment.write_bytes(dirty)
    assert dirty != whole

    clear(segment, 9)
    clear(segment, 9)

    assert segment.read_bytes() == whole
    assert [one.position for one in frames(whole)] == [3, 4, 9]


@pytest.mark.parametrize(
    "content",
    [
        make_segment(3, 4),
        make_segment(),
        make_segment(3, 4, 9, 12),
        b"\x01" + make_segment(9)[1:],
        b"",
        make_segment(9)[:60] + b"\xff" * 100,
    ],
)
def test_a_log_that_does_not_end_with_its_checkpoint_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    segment = tmp_path / "raft-partition-partition-1-1.log"
    segment.write_bytes(content)

    with pytest.raises((UnexpectedLog, ValueError)):
        clear(segment, 9)
    assert segment.read_bytes() == content


def test_of_several_segments_the_last_by_number_is_cleared(tmp_path: Path) -> None:
    partition = tmp_path / "raft-partition" / "partitions" / "1"
    partition.mkdir(parents=True)
    for number, positions in ((2, (5,)), (9, (6,)), (10, (7,))):
        (partition / f"raft-partition-partition-1-{number}.log").write_bytes(make_segment(*positions, junk=frame(8)))
    (partition / "raft-partition-partition-1.meta").write_bytes(b"meta")

    assert last_segment(partition).name.endswith("-10.log")
    clear_all(tmp_path, {1: 7})
    assert last_segment(partition).read_bytes() == make_segment(7)


def test_a_partition_without_a_log_or_a_checkpoint_is_refused(tmp_path: Path) -> None:
    partition = tmp_path / "raft-partition" / "partitions" / "1"
    partition.mkdir(parents=True)
    with pytest.raises(UnexpectedLog, match="has no log"):
        clear_all(tmp_path, {1: 7})
    with pytest.raises(UnexpectedLog, match="not in the backup"):
        clear_all(tmp_path, {2: 7})


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(make_segment(9, junk=frame(10)))
    (tmp_path / "x-1.log").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="Too many levels"):
        clear(tmp_path / "x-1.log", 9)
