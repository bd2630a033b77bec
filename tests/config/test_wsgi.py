"""What the web process is served by."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import RequestFactory

from config.wsgi import Utf8Request, application


@pytest.mark.parametrize("charset", ["rot13", "hex", "undefined", "idna", "latin-1", "utf-8", "nonsense"])
def test_no_charset_reaches_a_codec(charset: str) -> None:
    environ = RequestFactory().get("/?name=%C3%A9").environ
    named = {"CONTENT_TYPE": f"application/json; charset={charset}", "wsgi.input": io.BytesIO()}
    request = Utf8Request({**environ, **named})
    assert request.GET["name"] == "é"
    assert request.content_type == "application/json"


def test_the_application_makes_such_requests() -> None:
    assert application.request_class is Utf8Request


@pytest.fixture
def _connections_stay() -> Iterator[None]:
    """Django closes connections at both ends of a request; a test has none that may be closed."""
    ends = (request_started, request_finished)
    for end in ends:
        end.disconnect(close_old_connections)
    yield
    for end in ends:
        end.connect(close_old_connections)


@pytest.mark.usefixtures("_connections_stay")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_has_a_chunk(method: str) -> None:
    # Hypercorn sends the status with the first chunk: an answer without any becomes a 500, a page without its style.
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"REQUEST_METHOD": method, "PATH_INFO": "/static/console/console.css", "HTTP_HOST": "localhost"}
    statuses: list[str] = []
    sent: dict[str, str] = {}

    def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        statuses.append(status)
        sent.update(headers)

    assert list(application(environ, start))
    environ["HTTP_IF_NONE_MATCH"] = sent["ETag"]
    assert list(application(environ, start))
    assert [status[:3] for status in statuses] == ["200", "304"]
