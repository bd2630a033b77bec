"""How an error leaves the house: `application/problem+json` for programs, a page for people.

The only translator at the web door. What is raised on purpose carries its own sentence; whatever else reaches this
module is a bug or an outage and is answered without any text of its own, only with the id under which the log has it.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import DatabaseError, DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.utils.cache import add_never_cache_headers
from psycopg.errors import IdleInTransactionSessionTimeout, ReadOnlySqlTransaction
from rest_framework import exceptions as drf
from rest_framework.views import set_rollback

from common.errors import ControlPlaneError, Temporary
from config.observability import request_id_var

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:flowplane:problem:"

# Everything below these paths is read by programs.
_PROGRAM_PATHS = ("/api/", "/oauth/", "/.well-known/", "/healthz", "/readyz", "/metrics")

# PostgreSQL restarts within seconds; asking sooner only adds to its load.
_DATABASE_RETRY_SECONDS = 5

# How deep a body's validation errors are looked into for the first sentence.
_MAX_DEPTH = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as its reader gets it.

    Attributes:
        details: further members of the problem body; they never replace a standard one.
        headers: such as `Retry-After`.
    """

    status: int
    code: str
    detail: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The code in words."""
        return self.code.replace("_", " ").capitalize()

    def body(self) -> dict[str, Any]:
        """The members of RFC 9457, ours after them."""
        return dict(self.details) | {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id_var.get(),
        }


NOT_FOUND = Problem(404, "not_found", "There is nothing at this address, or it is not yours to see.")
BAD_REQUEST = Problem(400, "invalid_request", "The server could not make sense of this request.")
FORBIDDEN = Problem(403, "not_permitted", "This request was refused.")
UNSTORABLE = Problem(400, "invalid_request", "A value in this request cannot be stored: check it for odd characters.")
INTERNAL = Problem(500, "internal_error", "Something went wrong on our side. Quote the request id when you report it.")
DATABASE_AWAY = Problem(
    503,
    "unavailable",
    "The control plane's database does not answer right now. Nothing was changed; try again in a few seconds.",
    headers={"Retry-After": str(_DATABASE_RETRY_SECONDS)},
)

DATABASE_READ_ONLY = Problem(
    503,
    "read_only",
    "The control plane can only be read right now: its database takes no changes. Nothing was changed; engines go on. "
    "Try again in a while.",
    headers={"Retry-After": str(_DATABASE_RETRY_SECONDS)},
)


def problem_of(error: BaseException) -> Problem | None:
    """What is said about an error; None for one that nobody foresaw."""
    if isinstance(error.__cause__, ReadOnlySqlTransaction):
        return DATABASE_READ_ONLY
    if isinstance(error.__cause__, IdleInTransactionSessionTimeout):
        return DATABASE_AWAY
    for kind, translate in _TRANSLATIONS:
        if isinstance(error, kind):
            return translate(error)
    return None


def handle(error: Exception, context: Mapping[str, Any]) -> HttpResponse | None:
    """The REST door's exception handler: undo the transaction, answer with a problem.

    None makes the framework raise the error on, so that it is logged with its traceback and answered by `on_500`.
    """
    problem = problem_of(error)
    if problem is None:
        return None
    _log(error, problem)
    set_rollback()
    return to_json(problem)


def to_json(problem: Problem) -> HttpResponse:
    """The problem for a program."""
    response = JsonResponse(
        problem.body(),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
        json_dumps_params={"ensure_ascii": False},
    )
    add_never_cache_headers(response)
    return response


def to_page(problem: Problem) -> HttpResponse:
    """The problem for a person: the status's own template, or the general one.

    Rendered without the request: the transaction that knew who asks is over, and a page about an outage must not need
    the database.
    """
    template = loader.select_template([f"{problem.status}.html", "500.html"])
    content = template.render({"problem": problem, "request_id": request_id_var.get()})
    return HttpResponse(content, status=problem.status, headers=dict(problem.headers))


def respond(request: HttpRequest, problem: Problem) -> HttpResponse:
    """JSON below the API's paths, a page elsewhere."""
    return to_json(problem) if request.path.startswith(_PROGRAM_PATHS) else to_page(problem)


class ProblemMiddleware:
    """Answers for views outside the REST framework, and for a database that is away before any view begins."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Nothing to do on the way in or out."""
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Translate what was raised on purpose; leave the rest to Django, which logs it."""
        problem = problem_of(error) if isinstance(error, ControlPlaneError | DatabaseError | InterfaceError) else None
        if problem is None:
            return None
        _log(error, problem)
        return respond(request, problem)


def on_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's answer to a request it refuses to look at."""
    return respond(request, problem_of(exception) or BAD_REQUEST)


def on_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's answer to `PermissionDenied`."""
    return respond(request, FORBIDDEN)


def on_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """No such address."""
    return respond(request, NOT_FOUND)


def on_500(request: HttpRequest) -> HttpResponse:
    """The last resort; Django logs the error with its traceback under the same request id."""
    error = sys.exc_info()[1]
    return respond(request, (problem_of(error) if error else None) or INTERNAL)


def on_csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form came back without the token that this session gave out."""
    return respond(
        request,
        Problem(403, "csrf_failed", "This form is no longer valid. Go back, reload the page and send it again."),
    )


def _from_ours(error: Any) -> Problem:
    headers = {}
    if isinstance(error, Temporary):
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return Problem(error.http_status, error.code, error.message, error.details, headers)


_DRF_CODES = {
    400: "invalid_request",
    401: "not_authenticated",
    403: "not_permitted",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


def _from_drf(error: Any) -> Problem:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    wait = math.ceil(getattr(error, "wait", None) or 0)
    if wait:
        headers["Retry-After"] = str(wait)
    status = error.status_code
    code = _DRF_CODES.get(status, "invalid_request")
    if isinstance(error, drf.ValidationError):
        return _from_validation(error.detail)
    if isinstance(error, drf.Throttled):
        return Problem(
            status, code, f"Your organization asks for too much at once. Ask again in {wait} s.", headers=headers
        )
    if status == 404:
        return NOT_FOUND
    return Problem(status, code, str(error.detail), headers=headers)


def _from_validation(detail: Any) -> Problem:
    name, sentence = _first_sentence(detail)
    if not name:
        return Problem(400, "invalid_request", sentence)
    return Problem(
        400, "invalid_request", f"“{name}”: {sentence}", {"field": name, "errors": json.loads(json.dumps(detail))}
    )


def _first_sentence(detail: Any) -> tuple[str, str]:
    """The first field that is wrong, as a dotted path, and what is wrong with it."""
    path: list[str] = []
    while isinstance(detail, dict | list) and detail and len(path) < _MAX_DEPTH:
        if isinstance(detail, dict):
            key, detail = next(iter(detail.items()))
            path += [] if key == "non_field_errors" else [str(key)]
        else:
            detail = next((item for item in detail if item), "")
    return ".".join(path), str(detail)


_TRANSLATIONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Callable[[Any], Problem]], ...] = (
    (ControlPlaneError, _from_ours),
    (drf.APIException, _from_drf),
    (Http404, lambda _: NOT_FOUND),
    (PermissionDenied, lambda _: FORBIDDEN),
    (SuspiciousOperation, lambda _: BAD_REQUEST),
    ((OperationalError, InterfaceError), lambda _: DATABASE_AWAY),
    (DataError, lambda _: UNSTORABLE),
)


def _log(error: Exception, problem: Problem) -> None:
    """Ours to look into from 500 on; below that the caller already reads what is wrong."""
    internal = error.internal if isinstance(error, ControlPlaneError) else ""
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s: %s", problem.code, internal or problem.detail, extra={"code": problem.code}, exc_info=error)
    elif internal:
        logger.info("%s: %s", problem.code, internal, extra={"code": problem.code})
