"""Errors on their way out: one shape for programs, a page for people, and nothing of ours in either."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest
from django.test import RequestFactory
from rest_framework import exceptions as drf
from rest_framework.test import APIClient

from common.errors import (
    Conflict,
    ControlPlaneError,
    EntitlementExceeded,
    InvalidRequest,
    NotFound,
    NotPermitted,
    Permanent,
    Temporary,
)
from config import problems
from tests.conftest import WebClient
from tests.factories import Person

Api = Callable[[Person], APIClient]
CLUSTERS = "/api/v1/clusters"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("Bad."), 400, "invalid_request"),
        (NotFound("Gone."), 404, "not_found"),
        (NotPermitted("No."), 403, "not_permitted"),
        (EntitlementExceeded("Full."), 403, "entitlement_exceeded"),
        (Conflict("Changed."), 409, "conflict"),
        (Temporary("Later."), 503, "unavailable"),
        (Permanent("Stuck."), 500, "stalled"),
        (drf.ParseError(), 400, "invalid_request"),
        (drf.NotAuthenticated(), 401, "not_authenticated"),
        (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (drf.UnsupportedMediaType("text/xml"), 415, "unsupported_media_type"),
        (drf.Throttled(wait=3), 429, "too_many_requests"),
        (drf.ValidationError({"name": ["This field is required."]}), 400, "invalid_request"),
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "not_permitted"),
        (SuspiciousOperation(), 400, "invalid_request"),
        (OperationalError(), 503, "unavailable"),
        (InterfaceError(), 503, "unavailable"),
        (DataError(), 400, "invalid_request"),
    ],
)
def test_each_kind_of_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    problem = problems.problem_of(error)
    assert problem is not None
    assert (problem.status, problem.code) == (status, code)
    assert set(problem.body()) >= {"type", "title", "status", "detail", "code", "request_id"}
    assert problem.body()["type"] == f"urn:flowplane:problem:{code}"


def test_what_nobody_foresaw_has_no_problem_of_its_own() -> None:
    assert problems.problem_of(ZeroDivisionError("secret")) is None


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(Temporary("Later.", retry_after_seconds=2.2), "3"), (drf.Throttled(wait=1.5), "2"), (OperationalError(), "5")],
)
def test_what_may_be_retried_says_when(error: Exception, seconds: str) -> None:
    problem = problems.problem_of(error)
    assert problem is not None
    assert problems.to_json(problem)["Retry-After"] == seconds


def test_internal_detail_stays_inside() -> None:
    problem = problems.problem_of(ControlPlaneError("Public.", internal="password=hunter2", field="name"))
    assert problem is not None
    text = problems.to_json(problem).content.decode()
    assert "hunter2" not in text
    assert json.loads(text)["field"] == "name"


def test_details_never_replace_a_standard_member() -> None:
    problem = problems.problem_of(InvalidRequest("Bad.", code="mine", status=200))
    assert problem is not None
    assert (problem.body()["code"], problem.body()["status"]) == ("invalid_request", 400)


def test_the_first_wrong_member_is_named_however_deep() -> None:
    error = drf.ValidationError({"steps": [{}, {"name": ["Too long."]}]})
    problem = problems.problem_of(error)
    assert problem is not None
    assert problem.details["field"] == "steps.name"
    assert "Too long." in problem.detail


def test_an_unforeseen_error_is_answered_without_a_word_of_it() -> None:
    request: HttpRequest = RequestFactory().get("/api/v1/clusters")
    try:
        raise ZeroDivisionError("division of secrets")
    except ZeroDivisionError:
        response = problems.on_500(request)
    assert response.status_code == 500
    assert "secrets" not in response.content.decode()
    assert json.loads(response.content)["code"] == "internal_error"


def test_a_database_that_is_away_before_the_view_is_a_503() -> None:
    request: HttpRequest = RequestFactory().get("/api/v1/clusters")
    try:
        raise OperationalError("could not connect to server")
    except OperationalError:
        response = problems.on_500(request)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "server" not in json.loads(response.content)["detail"]


@pytest.mark.django_db
class TestAtTheDoor:
    def test_an_unknown_address_is_a_problem_below_api_and_a_page_elsewhere(self, client: WebClient) -> None:
        below = client.get("/api/v1/no-such-thing")
        assert (below.status_code, below["Content-Type"]) == (404, "application/problem+json")
        assert below.json()["request_id"] == below["X-Request-Id"]
        page = client.get("/no-such-page")
        assert (page.status_code, page["Content-Type"].split(";")[0]) == (404, "text/html")

    @pytest.mark.parametrize("identifier", ["1", "x" * 36, "%00", "00000000-0000-0000-0000-00000000000g"])
    def test_a_malformed_id_is_not_found(self, api: Api, alice: Person, identifier: str) -> None:
        answer = api(alice).get(f"{CLUSTERS}/{identifier}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"[]", 400),
            (b'"text"', 400),
            (b"null", 400),
            (b"NaN", 400),
            (b'{"name": Infinity}', 400),
            (b'{"name": "\\ud800"}', 400),
            (b'{"name": "\xff"}', 400),
            (b'{"na\\u0000me": "x"}', 400),
            (b"\0" * 100, 400),
            (b"[" * 100_000, 400),
            (b'{"a":' * 50_000, 400),
            (b'{"name": ' + b"9" * 10_000 + b"}", 400),
            (b'{"name": "' + b"x" * 10_000_000 + b'"}', 413),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_a_hostile_body_is_the_callers_fault(self, api: Api, alice: Person, body: bytes, status: int) -> None:
        client: Any = api(alice)
        answer = client.generic("POST", CLUSTERS, body, content_type="application/json")
        assert answer.status_code == status, answer.content
        assert answer["Content-Type"] == "application/problem+json"

    def test_another_media_type_is_refused(self, api: Api, alice: Person) -> None:
        client: Any = api(alice)
        answer = client.generic("POST", CLUSTERS, b"<a/>", content_type="application/xml")
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")

    def test_a_method_that_is_not_there_is_refused(self, api: Api, alice: Person) -> None:
        answer = api(alice).put(CLUSTERS, {}, format="json")
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")

    def test_a_body_with_an_unknown_charset_is_refused(self, api: Api, alice: Person) -> None:
        client: Any = api(alice)
        answer = client.generic("POST", CLUSTERS, b"{}", content_type="application/json; charset=utf-16")
        assert answer.status_code == 400
