"""The web process's application."""

import os
from typing import Any

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.utils.http import parse_header_parameters


class Utf8Request(WSGIRequest):
    """A request whose text is UTF-8 whatever `charset` its sender names.

    Django decodes the query with that name before any middleware runs, and Python knows codecs that are none for text
    ("rot13", "hex", "undefined"): the error would leave by nobody's door, without an answer of ours.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))


class Application(WSGIHandler):
    """Django's, with our kind of request."""

    request_class = Utf8Request


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)
application = Application()
