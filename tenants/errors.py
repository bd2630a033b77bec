"""What can go wrong with people, organizations and credentials, each with a stable code."""

from __future__ import annotations

from common.errors import Conflict, InvalidRequest, NotPermitted


class InvalidName(InvalidRequest):
    """A name is empty, too long, or holds characters that would mislead a reader."""

    code = "invalid_name"


class InvalidMember(InvalidRequest):
    """The person or role named cannot be a member in this way."""

    code = "invalid_member"


class InvitationUnusable(Conflict):
    """The invitation was accepted before, revoked, has expired, or is meant for another address."""

    code = "invitation_unusable"


class LastOwner(Conflict):
    """An organization must keep exactly one owner."""

    code = "last_owner"


class CredentialLimit(Conflict):
    """The credential already holds as many live secrets as rotation needs."""

    code = "credential_limit"


class IdempotencyMismatch(InvalidRequest):
    """The idempotency key was used before with another request."""

    code = "idempotency_key_reused"
    http_status = 422


class InvalidClient(NotPermitted):
    """The token endpoint does not know this client, its secret is wrong, or it was disabled or has expired."""

    code = "invalid_client"
    http_status = 401


class InvalidTarget(InvalidRequest):
    """A token was asked for an audience that this client is not for, or that is closed."""

    code = "invalid_target"


class InvalidToken(NotPermitted):
    """An access token is forged, expired, for another audience, or its credential is not live any more."""

    code = "invalid_token"
    http_status = 401


class SignInNeeded(NotPermitted):
    """Nobody is signed in, or the account was closed."""

    code = "sign_in_needed"
    http_status = 401


class NameTaken(Conflict):
    """Another live object of the same kind has this name."""

    code = "name_taken"
