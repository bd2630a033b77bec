"""Have a cluster's engine take a backup, and tell how far it is.

The engine never says that a backup has failed: one whose broker died stays incomplete, one that the store refused is
not there, and its number is used up either way. So a note says when it was asked for, and patience decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from common.errors import Permanent, Temporary
from provisioning.backends.engine.admin import BackupState, EngineAdmin
from provisioning.backends.engine.door import Door
from provisioning.spec import BackupRef, Work

# A partition that has no part in a backup yet begins within the first second, when its leader hears of it.
BEGIN_SECONDS = 30.0
# Some hundred megabytes on a busy machine. A backup that takes longer is one whose broker or store has gone.
PATIENCE_SECONDS = 900.0

_LOST = "A broker ended while the backup was being taken, so it is incomplete. Ask for another one."
_REFUSED = (
    "The engine began the backup and the store has nothing of it. Check that the backup store answers, then ask for "
    "another one."
)
_NUMBER_USED = "The engine has had a backup of this number, or of a higher one, before. Ask for another one."
_SLOW = f"The backup was not complete after {PATIENCE_SECONDS / 60:.0f} minutes. Check the backup store."
_SILENT_STORE = "The backup store does not answer the engine."


@dataclass(frozen=True, slots=True)
class Request:
    """The backup that was asked for last, and how long ago."""

    number: int
    seconds: float


class Notes(Protocol):
    """Where a backend keeps which backup was asked for last, and when."""

    def read(self) -> Request | None:
        """The last request, None before the first."""

    def write(self, number: int) -> None:
        """Note that this backup is asked for now; durable."""


def begin(notes: Notes, backup: BackupRef, admin: EngineAdmin) -> None:
    """Ask for a backup, unless it was asked for before.

    Raises:
        Permanent: it came to nothing; the number cannot be used again.
        Temporary: the engine does not answer.
    """
    request = notes.read()
    was_asked = request is not None and request.number == backup.number
    if not was_asked:
        # Before the request: should we be killed between the two, a refusal must not read as ours being refused.
        notes.write(backup.number)
    if admin.begin_backup(backup.number):
        notes.write(backup.number)
        return
    work, sentence = judge(admin.backup_state(backup.number), notes.read() if was_asked else None)
    if work in {Work.FAILED, Work.ABSENT}:
        raise Permanent(sentence or _NUMBER_USED)


def state(notes: Notes, backup: BackupRef, doors: Iterable[Door]) -> tuple[Work, str]:
    """Return how far a backup is, with a sentence; asks the first of these."""
    request = notes.read()
    asked = request if request is not None and request.number == backup.number else None
    for door in doors:
        try:
            return judge(EngineAdmin(door).backup_state(backup.number), asked)
        except Temporary:
            break
        except Permanent as error:
            return Work.FAILED, error.message
    if asked is None:
        return Work.ABSENT, ""
    return (Work.RUNNING, _SILENT_STORE) if asked.seconds < PATIENCE_SECONDS else (Work.FAILED, _SLOW)


def judge(found: BackupState | None, asked: Request | None) -> tuple[Work, str]:
    """Return how far a backup is from what the engine says and how long ago we asked, if we did. Pure."""
    has_begun = asked is None or asked.seconds >= BEGIN_SECONDS
    if found is None:
        if asked is None:
            return Work.ABSENT, ""
        return (Work.FAILED, _REFUSED) if has_begun else (Work.RUNNING, "The engine begins the backup.")
    if found.work is Work.FAILED or (not found.is_whole and has_begun):
        return Work.FAILED, _LOST
    if found.work is Work.DONE:
        return Work.DONE, ""
    is_late = asked is not None and asked.seconds >= PATIENCE_SECONDS
    return (Work.FAILED, _SLOW) if is_late else (Work.RUNNING, "The engine writes the backup.")
