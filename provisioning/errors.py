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


class NoEndpointYet(Conflict):
    """The cluster's engine has not been placed yet, so nobody can say where it will be reached."""

    code = "no_endpoint_yet"


class Fenced(Temporary):
    """A newer turn has taken over; whoever gets this must do nothing more."""

    code = "fenced"


class RegionUnreachable(Temporary):
    """The region does not answer."""

    code = "region_unreachable"


class NoCapacity(Temporary):
    """Memory, disk or ports are missing in the region; nothing was started. `resource` in the details says which."""

    code = "no_capacity"


class PortTaken(Temporary):
    """A port of this cluster's is used by another program, so its engine cannot start."""

    code = "port_taken"


class EngineKeepsEnding(Temporary):
    """The engine ended soon after its start; the next start waits longer each time."""

    code = "engine_keeps_ending"


class ReleaseUnavailable(Permanent):
    """The engine archive could not be fetched or its checksum is wrong."""

    code = "release_unavailable"


class JavaMissing(Permanent):
    """No Java runtime is where the region expects it."""

    code = "java_missing"
