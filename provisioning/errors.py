"""What can go wrong with an engine cluster, each with a stable code."""

from __future__ import annotations

from common.errors import Conflict, InvalidRequest, Permanent, Temporary


class InvalidSpec(InvalidRequest):
    """A wish names something that is not on offer; `field` in the details says which part."""

    code = "invalid_spec"


class LicenceRefuses(InvalidRequest):
    """The engine release's licence does not allow this stage under this installation's offering."""

    code = "licence_refuses"
    http_status = 403


class StaleGeneration(Conflict):
    """The wish changed since the caller read it."""

    code = "stale_generation"
    http_status = 412


class DeletionProtected(Conflict):
    """The cluster is protected against deletion."""

    code = "deletion_protected"


class AlreadyDeleting(Conflict):
    """The cluster is being deleted, so this change is no longer possible."""

    code = "already_deleting"


class NotCancellable(Conflict):
    """The operation is past the point where it could be called off."""

    code = "not_cancellable"


class NotRetryable(Conflict):
    """The operation did not fail, so there is nothing to try again."""

    code = "not_retryable"


class ChangeUnderWay(Conflict):
    """Another change has to come to its end, or be called off, before this one can be accepted."""

    code = "change_under_way"


class NotAvailable(Conflict):
    """The change needs a healthy engine."""

    code = "not_available"


class PathBlocked(InvalidRequest):
    """The engine cannot go from where it is to what was asked for; `field` in the details says which part."""

    code = "path_blocked"
    http_status = 409


class BackupNotUsable(Conflict):
    """The backup is not there (any more), or does not fit what is to be started on it."""

    code = "backup_not_usable"


class NotForceable(Conflict):
    """The operation is not one that can be ended by force, or has not come to the point where that is needed."""

    code = "not_forceable"


class ThrowAwayCopy(Conflict):
    """The cluster is a drill's copy: it proves a backup and is removed by itself."""

    code = "throw_away_copy"


class NoEndpointYet(Conflict):
    """The cluster's engine has not been placed yet, so nobody can say where it will be reached."""

    code = "no_endpoint_yet"


class Fenced(Temporary):
    """A newer turn has taken over; whoever gets this must do nothing more."""

    code = "fenced"


class RegionUnreachable(Temporary):
    """The region does not answer."""

    code = "region_unreachable"


class NoPlace(Conflict):
    """No region can take one more cluster of this kind; the sentence says which rule excludes which."""

    code = "no_place"


class InMaintenance(Temporary):
    """The region is in maintenance: what is wished waits for its end."""

    code = "in_maintenance"


class NoCapacity(Temporary):
    """Memory, disk or ports are missing in the region; nothing was started. `resource` in the details says which."""

    code = "no_capacity"


class PortTaken(Temporary):
    """A port of this cluster's is used by another program, so its engine cannot start."""

    code = "port_taken"


class EngineKeepsEnding(Temporary):
    """The engine ended soon after its start; the next start waits longer each time."""

    code = "engine_keeps_ending"


class RemovalsHeld(Temporary):
    """Many clusters would be removed at once and nobody asked for it: an operator has to look first."""

    code = "removals_held"
    sentence = (
        "This cluster would be removed now, and others with it, although nobody asked for that. Nothing is removed "
        "until an operator has looked; the engine goes on as it is."
    )


class HeldBack(Temporary):
    """Nothing is done for this cluster until an operator has looked: what we know of it may be out of date."""

    code = "held_back"


class DataGone(Permanent):
    """What ran in the region is not there any more, and it was not we who removed it."""

    code = "data_gone"


class DataDamaged(Permanent):
    """The engine cannot read its data."""

    code = "data_damaged"


class BackupFailed(Permanent):
    """The engine did not complete a backup, or there is no store to put it into."""

    code = "backup_failed"


class RestoreFailed(Permanent):
    """A backup's data could not be fetched, or the engine does not run on it."""

    code = "restore_failed"


class UpgradeFailed(Permanent):
    """The engine does not run on the new release."""

    code = "upgrade_failed"


class ReleaseUnavailable(Permanent):
    """The engine archive could not be fetched or its checksum is wrong."""

    code = "release_unavailable"


class JavaMissing(Permanent):
    """No Java runtime is where the region expects it."""

    code = "java_missing"


class WorkerKeepsDying(Permanent):
    """Several turns in a row ended with their worker, so the next one was not begun."""

    code = "worker_keeps_dying"
