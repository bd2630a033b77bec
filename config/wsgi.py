"""The web process's application."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.utils.http import parse_header_parameters

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Utf8Request(WSGIRequest):
    """A request whose text is UTF-8 whatever `charset` its sender names.

    Django decodes the query with that name before any middleware runs, and Python knows codecs that are none for text
    ("rot13", "hex", "undefined"): the error would leave by nobody's door, without an answer of ours.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))


class Application(WSGIHandler):
    """Django's, with our kind of request, and with a first chunk always.

    Hypercorn sends the status with the first chunk: an answer without any (a static file's 304) becomes a 500.
    """

    request_class = Utf8Request

    def __call__(  # type: ignore[override]
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterator[bytes]:
        """Answer one request."""
        answer = super().__call__(environ, start_response)
        try:
            yield b""
            yield from answer
        finally:
            answer.close()


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)
application = Application()
