"""What the OpenAPI document says of every operation alike: how to sign in, and how errors look."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from config.problems import CONTENT_TYPE

_WRITES = ("post", "put", "patch", "delete")

_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An error (RFC 9457). `code` is stable; further members depend on it.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "urn:flowplane:problem:<code>"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for people: what is wrong and what to do."},
        "code": {"type": "string"},
        "request_id": {"type": "string", "description": "Quote it when you report the problem."},
        "field": {"type": "string", "description": "The member of the request that is wrong."},
        "errors": {"type": "object", "additionalProperties": True, "description": "All that is wrong, by member."},
        "limit": {"type": "integer"},
        "used": {"type": "integer"},
    },
    "additionalProperties": True,
}

_IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeats of this request under the same key are answered with the first answer, for two days.",
}

_ALWAYS = {"400": "The request can not work as it was put.", "401": "Not signed in.", "403": "Not allowed."}
_WITH_ID = {"404": "Nothing here by that id."}
_ON_WRITES = {
    "409": "The object is not in the state that this needs.",
    "415": "The body is not JSON.",
    "422": "The idempotency key was used for another request.",
}
_LAST = {
    "429": "Your organization asks for too much at once; see Retry-After.",
    "503": "Not available right now; see Retry-After.",
}


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """An access token of an API credential."""

    target_class = "tenants.auth.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """A token from /oauth/token."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The console's session."""

    target_class = "tenants.auth.ConsoleSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """The console's cookie; writes also need the X-CSRFToken header."""
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}


def only_our_api(endpoints: list[tuple[Any, ...]], **_: Any) -> list[tuple[Any, ...]]:
    """What the document covers: everything below /api/, and not what a third party mounts elsewhere."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith("/api/")]


def describe_problems(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add the problem responses and the idempotency header to every operation."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            is_write = method in _WRITES
            wanted = _ALWAYS | (_WITH_ID if "{" in path else {}) | (_ON_WRITES if is_write else {}) | _LAST
            for status, description in wanted.items():
                operation["responses"].setdefault(status, _response(description))
            if is_write:
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_PARAMETER)
    return result


def _response(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {CONTENT_TYPE: {"schema": schema}}}
