"""How we are watched: request ids, log lines that name what they are about and carry no payload, request metrics."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse
from prometheus_client import Histogram

REQUEST_ID_HEADER = "X-Request-Id"
# Where the apps find it: among the request's own facts.
REQUEST_ID_KEY = "flowplane.request_id"

request_id_var: ContextVar[str] = ContextVar("request_id", default="")

REQUEST_SECONDS = Histogram(
    "flowplane_http_request_seconds",
    "Time to answer, by route (never by path, which would name objects).",
    ["method", "route", "status"],
)

# The only extra fields a log line may carry: identities, never content.
_CONTEXT_FIELDS = ("organization_id", "cluster_id", "operation_id", "spec_generation", "turn_id", "seconds", "code")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class LineFormatter(logging.Formatter):
    """One line a record: text for people or JSON for machines."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Render the record with its known context fields."""
        fields = {
            "at": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            # Django logs an answer after the middleware is through, and brings the request along.
            "request_id": request_id_var.get() or _request_id_of(record),
        }
        fields |= {name: str(getattr(record, name)) for name in _CONTEXT_FIELDS if hasattr(record, name)}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(fields)
        context = " ".join(f"{name}={fields[name]}" for name in ("request_id", *_CONTEXT_FIELDS) if fields.get(name))
        line = f"{fields['at']} {fields['level']:7} {fields['logger']}: {fields['message']}"
        return "\n".join(part for part in (f"{line}  {context}".rstrip(), fields.get("exception", "")) if part)


class RequestMiddleware:
    """Gives each request an id (the caller's, when it is a plain one) and measures the answer by route."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer with the id in a header, so that a person can quote it."""
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request_id = given if given.isascii() and given.isalnum() and len(given) <= 64 else uuid.uuid4().hex
        request.META[REQUEST_ID_KEY] = request_id  # the apps below may not import this module
        token = request_id_var.set(request_id)
        started = time.monotonic()
        try:
            response = self._get_response(request)
        finally:
            request_id_var.reset(token)
        route = request.resolver_match.route if request.resolver_match else "none"
        # A made-up method would make a series of its own each time.
        method = request.method if request.method in _METHODS else "other"
        REQUEST_SECONDS.labels(method, route, str(response.status_code)).observe(time.monotonic() - started)
        response[REQUEST_ID_HEADER] = request_id
        return response


def _request_id_of(record: logging.LogRecord) -> str:
    request = getattr(record, "request", None)
    return str(request.META.get(REQUEST_ID_KEY, "")) if isinstance(request, HttpRequest) else ""
