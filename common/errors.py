"""The control plane's error tree: each branch answers "may it be retried?" and "what may the customer read?".

`message` is public: a sentence for the person who meets it, saying what was wrong and what to do. `internal` is for
our logs only. Subclasses live in each app's `errors.py`; only `config.problems` and the reconciler's rim translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ControlPlaneError(Exception):
    """Base of every error we raise on purpose.

    Attributes:
        code: stable, snake_case, part of the API contract.
        http_status: what the REST door answers.
        message: public sentence.
        internal: detail for logs, never shown to a customer.
        details: public, JSON-ready members for the problem body, such as `field` or `limit`.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, internal: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.internal = internal
        self.details: Mapping[str, Any] = details


class InvalidRequest(ControlPlaneError):
    """The request can never work as it was put."""

    code = "invalid_request"
    http_status = 400


class NotFound(ControlPlaneError):
    """Nothing here by that name; also said of another organization's object."""

    code = "not_found"
    http_status = 404


class NotPermitted(ControlPlaneError):
    """The actor's role inside its own organization is too weak."""

    code = "not_permitted"
    http_status = 403


class EntitlementExceeded(ControlPlaneError):
    """The organization's plan does not allow (more of) this."""

    code = "entitlement_exceeded"
    http_status = 403


class Conflict(ControlPlaneError):
    """The object is not in the state the request assumed; read it again."""

    code = "conflict"
    http_status = 409


class Temporary(ControlPlaneError):
    """Worth another try, not before `retry_after_seconds`."""

    code = "unavailable"
    http_status = 503

    def __init__(self, message: str, *, retry_after_seconds: float = 5.0, internal: str = "", **details: Any) -> None:
        super().__init__(message, internal=internal, **details)
        self.retry_after_seconds = retry_after_seconds


class Permanent(ControlPlaneError):
    """No use in trying again until a person has acted; becomes the `Stalled` reason."""

    code = "stalled"
    http_status = 500
