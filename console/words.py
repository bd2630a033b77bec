"""The words and hues in which states are shown: one vocabulary for all pages. Pure.

Hues: good, busy (on its way), slow, bad, you (the reader must act), calm (at rest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioning.states import (
    BackupReason,
    BackupState,
    Condition,
    ConditionType,
    OperationKind,
    OperationState,
    Phase,
    StepState,
    Truth,
)
from provisioning.verdicts import Verdict
from tenants.roles import Role


@dataclass(frozen=True, slots=True)
class Wording:
    """A word with the hue that goes with it."""

    word: str
    hue: str = "calm"


# By value, so that a word from a row is as good as its enumeration's member; what shares a value shares its word, as
# a backup that failed does with an operation.
WORDINGS: dict[str, Wording] = {
    Phase.CREATING: Wording("Creating", "busy"),
    Phase.UPDATING: Wording("Updating", "busy"),
    Phase.HEALTHY: Wording("Healthy", "good"),
    Phase.UNHEALTHY: Wording("Unhealthy", "bad"),
    Phase.SUSPENDING: Wording("Suspending", "busy"),
    Phase.SUSPENDED: Wording("Suspended", "calm"),
    Phase.RESUMING: Wording("Resuming", "busy"),
    Phase.DELETION_SCHEDULED: Wording("Deletion scheduled", "slow"),
    Phase.DELETING: Wording("Deleting", "bad"),
    Phase.DELETED: Wording("Deleted", "calm"),
    Verdict.PROGRESSING: Wording("Progressing", "busy"),
    Verdict.SLOW: Wording("Slower than usual", "slow"),
    Verdict.STUCK: Wording("Stuck", "bad"),
    Verdict.NEEDS_YOU: Wording("Needs you", "you"),
    Verdict.NEEDS_US: Wording("Needs us", "bad"),
    OperationState.PENDING: Wording("Waiting to begin", "busy"),
    OperationState.RUNNING: Wording("Running", "busy"),
    OperationState.SUCCEEDED: Wording("Done", "good"),
    OperationState.FAILED: Wording("Failed", "bad"),
    OperationState.CANCELLED: Wording("Called off", "calm"),
    OperationKind.CREATE: Wording("Create"),
    OperationKind.UPDATE: Wording("Change"),
    OperationKind.SUSPEND: Wording("Suspend"),
    OperationKind.RESUME: Wording("Resume"),
    OperationKind.DELETE: Wording("Delete"),
    OperationKind.RESTORE: Wording("Restore"),
    OperationKind.REVOKE_ACCESS: Wording("Revoke access"),
    OperationKind.RESIZE: Wording("Resize"),
    OperationKind.UPGRADE: Wording("Upgrade"),
    OperationKind.BACK_UP: Wording("Back up"),
    OperationKind.RESTORE_BACKUP: Wording("Restore a backup"),
    BackupState.WANTED: Wording("Being taken", "busy"),
    BackupState.COMPLETED: Wording("Complete", "good"),
    BackupState.REMOVING: Wording("Being removed", "slow"),
    BackupState.REMOVED: Wording("Removed", "calm"),
    BackupReason.ASKED_FOR: Wording("Asked for"),
    BackupReason.SCHEDULED: Wording("Scheduled"),
    BackupReason.BEFORE_UPGRADE: Wording("Before an upgrade"),
    Role.OWNER: Wording("Owner"),
    Role.ADMIN: Wording("Admin"),
    Role.DEVELOPER: Wording("Developer"),
    Role.BILLING: Wording("Billing"),
    Role.VIEWER: Wording("Viewer"),
}

# Steps share their words with no other state: a running operation has a verdict, a running step has a clock.
_STEPS: dict[StepState, Wording] = {
    StepState.PENDING: Wording("Not begun"),
    StepState.RUNNING: Wording("Running", "busy"),
    StepState.DONE: Wording("Done", "good"),
    StepState.FAILED: Wording("Failed", "bad"),
    StepState.SKIPPED: Wording("Not needed"),
}

# What the operations of a drill's copy are to whoever asked for the drill.
_DRILLS = {OperationKind.CREATE: "Prove a backup", OperationKind.DELETE: "Remove a drill’s copy"}

# Fields of a cluster whose change is worth a line; the others are ids, or follow from these.
_FIELDS = {
    "name": "Name",
    "stage": "Stage",
    "plan_type": "Size",
    "release": "Engine release",
    "is_protected": "Protected",
    "backup_every_hours": "Hours between backups",
    "backups_kept": "Scheduled backups kept",
    "drill_every_days": "Days between drills",
}

ROLE_NOTES = {
    Role.OWNER: "Everything, and handing the organization over. Exactly one.",
    Role.ADMIN: "Everything except handing the organization over.",
    Role.DEVELOPER: "Clusters and their credentials; no deletion, no members.",
    Role.BILLING: "Plan and invoices; sees clusters and members.",
    Role.VIEWER: "Sees clusters, credentials and members; changes nothing.",
}

STAGE_NOTES = {
    "dev": "Development",
    "test": "Tests",
    "stage": "Staging",
    "prod": "Production",
}


def wording_of(value: Any) -> Wording:
    """The wording of a state, verdict, kind or role; an unknown word stands for itself."""
    if isinstance(value, StepState):
        return _STEPS[value]
    return WORDINGS.get(str(value)) or Wording(str(value).replace("_", " ").capitalize())


def title_of(kind: OperationKind, *, is_drill: bool) -> str:
    """What an operation is called."""
    return _DRILLS[kind] if is_drill and kind in _DRILLS else wording_of(kind).word


def changes_of(changes: Mapping[str, Sequence[Any]]) -> list[tuple[str, str]]:
    """Title and "before → after" of what a change did to a cluster's own fields."""
    return [(title, _before_and_after(*changes[name])) for name, title in _FIELDS.items() if name in changes]


def _before_and_after(before: Any, after: Any) -> str:
    return _plain(after) if before is None else f"{_plain(before)} → {_plain(after)}"


def _plain(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def every_hours(hours: int) -> str:
    """A backup's rhythm: every day, every 6 hours, only when somebody asks."""
    return _every(hours, {0: "Only when somebody asks", 1: "Every hour", 24: "Every day", 168: "Every week"}, "hours")


def every_days(days: int) -> str:
    """A drill's rhythm."""
    return _every(days, {0: "Only when somebody asks", 1: "Every day", 7: "Every week"}, "days")


def _every(count: int, named: Mapping[int, str], unit: str) -> str:
    return named.get(count) or f"Every {count} {unit}"


def layout(brokers: int, partitions: int, replication_factor: int) -> str:
    """3 brokers, 3 partitions, 3 copies of each."""
    words = [_counted(brokers, "broker"), _counted(partitions, "partition")]
    return ", ".join(words if replication_factor == 1 else [*words, f"{replication_factor} copies of each"])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 2 min 5 s, 1 h 3 min, 2 days."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


@dataclass(frozen=True, slots=True)
class Fact:
    """A condition in words."""

    title: str
    answer: str
    hue: str
    detail: str
    since: str


# Title, then what True, False and Unknown mean for people.
_QUESTIONS: dict[ConditionType, tuple[str, str, str, str]] = {
    ConditionType.ACCEPTED: ("Your wish", "accepted", "not accepted", "unknown"),
    ConditionType.APPLIED: ("Configuration", "in place", "not in place yet", "unknown"),
    ConditionType.AVAILABLE: ("Engine", "answers, all partitions healthy", "not available", "no sight of it"),
    ConditionType.UP_TO_DATE: ("As you wished it", "yes", "not yet", "unknown"),
    ConditionType.STALLED: ("Stalled", "yes, somebody must act", "no", "unknown"),
    ConditionType.DELETING: ("Deletion", "requested", "not requested", "unknown"),
}
_NEGATIVE = (ConditionType.STALLED, ConditionType.DELETING)


def facts_of(conditions: Sequence[Condition]) -> list[Fact]:
    """The conditions as a reader wants them: what holds, and why not."""
    return [_fact(condition) for condition in conditions]


def _fact(condition: Condition) -> Fact:
    title, yes, no, unknown = _QUESTIONS[condition.type]
    is_well = (condition.status is Truth.TRUE) != (condition.type in _NEGATIVE)
    answer = {Truth.TRUE: yes, Truth.FALSE: no, Truth.UNKNOWN: unknown}[condition.status]
    hue = "good" if is_well and condition.type not in _NEGATIVE else "calm"
    if condition.status is Truth.UNKNOWN:
        hue = "slow"
    if condition.type is ConditionType.STALLED and condition.status is Truth.TRUE:
        hue = "bad"
    return Fact(title, answer, hue, condition.message, condition.last_transition_at)
