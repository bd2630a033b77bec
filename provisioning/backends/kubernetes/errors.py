"""What a region's API server refuses, in our words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from common.errors import ControlPlaneError, Permanent, Temporary
from provisioning.errors import NoCapacity, RegionUnreachable

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE, INVALID, TOO_MANY = 401, 403, 404, 409, 410, 422, 429
DEFAULT_PAUSE_SECONDS = 1.0


class Missing(Temporary):
    """The object, or its namespace, is not there (any more)."""

    code = "region_changed"


class Changed(Temporary):
    """Somebody changed the object since it was read."""

    code = "region_changed"


class Expired(Temporary):
    """A watch or a list cannot go on from where it was."""

    code = "region_changed"


class Invalid(Permanent):
    """What was sent cannot be made of the object, or the object would break a rule of its kind."""


def refusal(status: int, body: bytes, headers: Mapping[str, str], what: str) -> ControlPlaneError:
    """Return the error for an answer of 400 or above; `what` names the object in a sentence."""
    answer = _content(body)
    reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))[:500]
    internal = f"{status} {reason} {message}"
    if status == UNAUTHORIZED:
        return RegionUnreachable("The region does not accept our credentials. Renew them.", internal=internal)
    if status == TOO_MANY or (status >= 500 and "Retry-After" in headers):
        return Temporary("The region's API server is busy.", retry_after_seconds=pause_in(headers), internal=internal)
    if status == NOT_FOUND:
        return Missing(f"The region has no {what}.", internal=internal)
    if status == GONE or reason == "Expired":
        return Expired("The region's history is gone.", internal=internal)
    if _is_terminating(answer, message):
        return Temporary("The cluster's namespace is being removed.", internal=internal)
    if status == CONFLICT:
        return Changed(f"The {what} was changed at the same time.", retry_after_seconds=1.0, internal=internal)
    if status == FORBIDDEN:
        return _forbidden(what, message, internal)
    if status >= 500:
        return Temporary("The region's API server has trouble.", internal=internal)
    unfit = Invalid if status == INVALID else Permanent
    return unfit(f"The region refuses the {what}. Check the chart's values for this region.", internal=internal)


def pause_in(headers: Mapping[str, str]) -> float:
    """Return for how many seconds the server asks to be left alone."""
    try:
        return max(0.0, float(headers.get("Retry-After", DEFAULT_PAUSE_SECONDS)))
    except ValueError:
        return DEFAULT_PAUSE_SECONDS


def _forbidden(what: str, message: str, internal: str) -> ControlPlaneError:
    if "exceeded quota" in message:
        return NoCapacity(f"The region's quota does not allow the {what}.", internal=internal, resource="quota")
    if "is forbidden: User" in message:
        return Permanent(
            f"The region does not allow us to touch the {what}. Give us the rights of docs/region-rights.yaml.",
            internal=internal,
        )
    return Permanent(f"A rule of the region refuses the {what}.", internal=internal)


def _is_terminating(answer: Mapping[str, Any], message: str) -> bool:
    causes = (answer.get("details") or {}).get("causes") or ()
    return any(one.get("reason") == "NamespaceTerminating" for one in causes) or "being terminated" in message


def _content(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
