"""Bodies as the REST door reads them: JSON of a bounded size, and nothing the database could not hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser


class PayloadTooLarge(APIException):
    """The body is larger than any request of ours needs."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes, the most that is read."
    default_code = "payload_too_large"


class BoundedJSONParser(BaseParser):
    """Reads UTF-8 JSON; refuses what is too long, too deep, not a number, or not text."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The body as Python values; raises `ParseError` or `PayloadTooLarge`."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise PayloadTooLarge
        try:
            text = raw.decode()
            value = json.loads(text, parse_constant=_refuse_constant)
            # A lone surrogate ("\\ud800") is valid JSON and no text: nothing could store or show it.
            json.dumps(value, ensure_ascii=False).encode()
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error
        except UnicodeError as error:
            raise ParseError("The body is not valid UTF-8 text.") from error
        except ValueError as error:
            raise ParseError(f"The body is not valid JSON: {error}") from error
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
