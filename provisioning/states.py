"""Words for the state of clusters and operations. Pure.

Conditions are for programs, phases for people: nothing branches on a phase.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from provisioning.spec import Lifecycle


class ConditionType(StrEnum):
    """Each is True, False or Unknown; the last two are negative ones."""

    ACCEPTED = "Accepted"
    APPLIED = "Applied"
    AVAILABLE = "Available"
    UP_TO_DATE = "UpToDate"
    STALLED = "Stalled"
    DELETING = "Deleting"


class Truth(StrEnum):
    """Kubernetes' three-valued condition status."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One fact about a cluster, with a CamelCase reason for programs and a sentence for people."""

    type: ConditionType
    status: Truth
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_at: str = ""


class Phase(StrEnum):
    """The one word for people, computed on read."""

    CREATING = "creating"
    UPDATING = "updating"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    RESUMING = "resuming"
    DELETION_SCHEDULED = "deletion_scheduled"
    DELETING = "deleting"
    DELETED = "deleted"


class Stage(StrEnum):
    """What a cluster is for; the engine's licence may depend on it."""

    DEV = "dev"
    TEST = "test"
    STAGE = "stage"
    PROD = "prod"


class StoredWord(StrEnum):
    """A word that stands in a column.

    While a release is rolled out, the newer code writes words that this code has never heard of: such a word is read
    as it stands. It equals no member and is none, so nothing here offers or chooses it.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_, word._value_ = value.upper(), value
        return word


class OperationKind(StoredWord):
    """What was asked for."""

    CREATE = "create"
    UPDATE = "update"
    SUSPEND = "suspend"
    RESUME = "resume"
    DELETE = "delete"
    RESTORE = "restore"
    REVOKE_ACCESS = "revoke_access"
    RESIZE = "resize"
    UPGRADE = "upgrade"
    BACK_UP = "back_up"
    RESTORE_BACKUP = "restore_backup"


class OperationState(StrEnum):
    """How far an operation is. The last three are final, except that a failed one can be retried."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_STATES = (OperationState.PENDING, OperationState.RUNNING)


class StepKind(StoredWord):
    """The single steps an operation is made of; each is one kind of action of the planner's."""

    TAKE_BACKUP = "take_backup"
    PREPARE_RELEASE = "prepare_release"
    RESTORE_DATA = "restore_data"
    STOP_ENGINE = "stop_engine"
    START_ENGINE = "start_engine"
    ROLL_BROKERS = "roll_brokers"
    AWAIT_HEALTHY = "await_healthy"
    RESCALE = "rescale"
    RETIRE_BROKERS = "retire_brokers"
    REBALANCE = "rebalance"
    LET_GO = "let_go"
    UNDO_WINDOW = "undo_window"
    REMOVE = "remove"
    CLOSE = "close"


class StepState(StrEnum):
    """How far a step is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


# Steps that are behind an operation.
PASSED_STEPS = (StepState.DONE, StepState.SKIPPED)


class BackupReason(StrEnum):
    """Why a backup was taken."""

    ASKED_FOR = "asked_for"
    SCHEDULED = "scheduled"
    BEFORE_UPGRADE = "before_upgrade"


class BackupState(StrEnum):
    """How far a backup is. What failed or is not kept any more is removed from the store."""

    WANTED = "wanted"
    COMPLETED = "completed"
    FAILED = "failed"
    REMOVING = "removing"
    REMOVED = "removed"


class Hold(StrEnum):
    """Why nothing is done for a cluster until an operator has looked."""

    NONE = ""
    SET_BACK = "set_back"
    UNEXPLAINED = "unexplained"


class RegionState(StrEnum):
    """What an operator has said of a region. Clusters that are there are served in all of them but maintenance."""

    OPEN = "open"
    CLOSED = "closed"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


class LeftoverKind(StrEnum):
    """What is left over; or what is not there any more."""

    CLUSTER = "cluster"
    BACKUP = "backup"
    LOSS = "loss"


class LeftoverState(StrEnum):
    """What is to become of it: found and missing things wait for an operator, forced ones are removed."""

    FOUND = "found"
    # Of a loss: it is wished there and has been there, and nothing of it is.
    MISSING = "missing"
    REMOVING = "removing"
    GONE = "gone"
    ADOPTED = "adopted"
    # Of a loss: it is there again, or not wished any more.
    SETTLED = "settled"


STEP_TITLES: dict[StepKind, str] = {
    StepKind.TAKE_BACKUP: "Take a backup",
    StepKind.PREPARE_RELEASE: "Make the engine release ready",
    StepKind.RESTORE_DATA: "Fetch the backup’s data beside the present one",
    StepKind.STOP_ENGINE: "Stop the engine, keeping its data",
    StepKind.START_ENGINE: "Start the engine",
    StepKind.ROLL_BROKERS: "Restart the brokers one after the other, while the others serve",
    StepKind.AWAIT_HEALTHY: "Wait until the engine reports every partition healthy",
    StepKind.RESCALE: "Have the engine spread its partitions over the new brokers",
    StepKind.RETIRE_BROKERS: "Stop the brokers that are not needed any more and remove their copies",
    StepKind.REBALANCE: "Spread the partitions’ leaders evenly",
    StepKind.LET_GO: "Let go of what was kept for going back",
    StepKind.UNDO_WINDOW: "Keep everything until the undo window closes",
    StepKind.REMOVE: "Remove the engine and its data",
    StepKind.CLOSE: "Close the books on this cluster",
}


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether the condition is known to hold."""
    return any(c.type is kind and c.status is Truth.TRUE for c in conditions)


def summarize(
    conditions: Iterable[Condition],
    *,
    lifecycle: Lifecycle,
    was_healthy: bool,
    operation: OperationKind | None,
    is_seen: bool = True,
    is_gone: bool = False,
    undo_window_open: bool = False,
) -> Phase:
    """The one word for people.

    Args:
        operation: the one in progress, if any.
        was_healthy: the cluster has been available at some time.
        is_seen: a turn has looked since the latest wish; the conditions speak of an older one otherwise.
    """
    facts = tuple(conditions)
    is_settled = is_true(facts, ConditionType.UP_TO_DATE) and (is_seen or operation is None)
    if is_gone:
        return Phase.DELETED
    if lifecycle is Lifecycle.DELETED:
        return Phase.DELETION_SCHEDULED if undo_window_open else Phase.DELETING
    if lifecycle is Lifecycle.SUSPENDED:
        return Phase.SUSPENDED if is_settled else Phase.SUSPENDING
    if is_settled and is_true(facts, ConditionType.AVAILABLE):
        return Phase.HEALTHY
    if not was_healthy:
        return Phase.CREATING
    if operation in (OperationKind.RESUME, OperationKind.RESTORE):
        return Phase.RESUMING
    # An engine that serves is not unhealthy, whatever is still to be done about it.
    is_changing = operation is not None or is_true(facts, ConditionType.AVAILABLE)
    return Phase.UPDATING if is_changing else Phase.UNHEALTHY
