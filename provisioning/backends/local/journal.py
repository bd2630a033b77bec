"""Clear what the engine's restore application leaves behind the end of a partition's log.

A backup holds whole segments of the log, with records from after its checkpoint in them. The application cuts those off
by marking the first one only. What is appended later lands among the old bytes, and the engine's reader stops at them:
an engine that was restored from a backup taken under load calls itself healthy and processes nothing. Seen on 8.5.8 and
8.6.0 in eight of eight restores, never after the bytes were cleared; see docs/adr/0009.

A segment is a descriptor and then frames: one byte 1 (0 is the end), a header of 8 bytes that begins with the length of
the block behind it, that block (checksum, length of the data), the data. Little endian. Standard library only.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Version, header, block of one checksum, header: the length of the descriptor's own block is in the second header.
DESCRIPTOR_BLOCK_LENGTH = 17
DESCRIPTOR_START = 25
DESCRIPTOR_VERSION = 2
FRAME_START = 1 + 8
FRAME_BLOCK = struct.Struct("<QI")
VALID = 1
# Behind the data's own header of 8 bytes: the log's index and the position of the record.
POSITION_OFFSET = 16
SEGMENT = re.compile(r"-(\d+)\.log$")


class UnexpectedLog(Exception):
    """A log is not what it should be, so it was left as it is."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One entry of a segment: where the next one begins, and the position of its record."""

    end: int
    position: int


def clear_all(data: Path, checkpoints: Mapping[int, int]) -> None:
    """Clear every partition's log in a broker's data behind its checkpoint's position. May run twice.

    Raises:
        UnexpectedLog: a log does not end with its checkpoint; that one and later ones were not touched.
    """
    for partition in sorted((data / "raft-partition" / "partitions").iterdir()):
        number = int(partition.name)
        if number not in checkpoints:
            raise UnexpectedLog(f"partition {number} is not in the backup")
        clear(last_segment(partition), checkpoints[number])


def last_segment(partition: Path) -> Path:
    numbered = [(int(found[1]), path) for path in partition.iterdir() if (found := SEGMENT.search(path.name))]
    if not numbered:
        raise UnexpectedLog(f"{partition} has no log")
    return max(numbered)[1]


def clear(segment: Path, checkpoint: int) -> None:
    """Overwrite all behind the last frame, which must be the checkpoint's, with zeros."""
    descriptor = os.open(segment, os.O_RDWR | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "r+b") as file, mmap.mmap(descriptor, 0) as content:
        found = deque(frames(content), maxlen=1)
        if not found or found[0].position != checkpoint:
            raise UnexpectedLog(f"{segment} ends with {found}, and the checkpoint is at {checkpoint}")
        (last,) = found
        left = len(content[last.end :].rstrip(b"\0"))
        content[last.end : last.end + left] = bytes(left)
        content.flush()
        os.fsync(file.fileno())


def frames(content: mmap.mmap | bytes) -> Iterator[Frame]:
    """Yield the frames of a segment up to its end. Raises `UnexpectedLog` for another format."""
    if len(content) < DESCRIPTOR_START or content[0] != DESCRIPTOR_VERSION:
        raise UnexpectedLog("a segment begins with another descriptor")
    (block_length,) = struct.unpack_from("<H", content, DESCRIPTOR_BLOCK_LENGTH)
    at = DESCRIPTOR_START + block_length
    while at + FRAME_START + FRAME_BLOCK.size < len(content) and content[at] == VALID:
        (frame_block_length,) = struct.unpack_from("<H", content, at + 1)
        _, length = FRAME_BLOCK.unpack_from(content, at + FRAME_START)
        data = at + FRAME_START + frame_block_length
        at = data + length
        if frame_block_length != FRAME_BLOCK.size or length < POSITION_OFFSET + 8 or at > len(content):
            raise UnexpectedLog("a segment holds a frame of another format")
        (position,) = struct.unpack_from("<q", content, data + POSITION_OFFSET)
        yield Frame(at, position)
