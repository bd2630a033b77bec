"""What the web process is served by."""

from __future__ import annotations

import io

import pytest
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
