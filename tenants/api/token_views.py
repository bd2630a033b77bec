"""The token endpoint (RFC 6749, client credentials) and the public keys (RFC 7517), for any stock client."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from common.errors import Temporary
from tenants import tokens
from tenants.auth import source_address_of
from tenants.errors import InvalidClient, InvalidTarget

# Engines and mirrors may keep the keys this long; a new key signs only ten minutes after it was published.
JWKS_MAX_AGE_SECONDS = 60


class RefusedRequest(Exception):
    """The request is not one that RFC 6749 allows here."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client asks for."""

    grant_type: str
    client_id: str
    client_secret: str
    audience: str


@method_decorator(csrf_exempt, name="dispatch")
class TokenView(View):
    """POST /oauth/token: JSON, form, and HTTP Basic are all understood."""

    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        """An access token for a client id and its secret."""
        try:
            return self._issue(request)
        except RefusedRequest as refused:
            return _error(400, refused.error, refused.description)
        except InvalidClient as error:
            response = _error(401, "invalid_client", error.message)
            response["WWW-Authenticate"] = 'Basic realm="Flowplane"'
            return response
        except InvalidTarget as error:
            return _error(400, "invalid_target", error.message)
        except Temporary as error:
            response = _error(503, "temporarily_unavailable", error.message)
            response["Retry-After"] = str(int(error.retry_after_seconds))
            return response

    def _issue(self, request: HttpRequest) -> HttpResponse:
        asked = read_token_request(request)
        if asked.grant_type != "client_credentials":
            raise RefusedRequest("unsupported_grant_type", "grant_type must be client_credentials.")
        issued = tokens.issue_token(
            client_id=asked.client_id,
            client_secret=asked.client_secret,
            audience=asked.audience,
            source_address=source_address_of(request),
        )
        return _answer(
            200, {"access_token": issued.access_token, "token_type": "Bearer", "expires_in": issued.expires_in}
        )


class JwksView(View):
    """GET /.well-known/jwks.json."""

    http_method_names = ["get", "head"]

    def get(self, request: HttpRequest) -> HttpResponse:
        """Every public key that a valid token may be signed with, now or soon."""
        response = JsonResponse(tokens.public_jwks())
        response["Cache-Control"] = f"public, max-age={JWKS_MAX_AGE_SECONDS}"
        return response


def read_token_request(request: HttpRequest) -> TokenRequest:
    """What the client asks for, from body and Authorization header. Raises `RefusedRequest`."""
    fields = _fields(request)
    client_id, client_secret = _basic(request.headers.get("Authorization", ""))
    if client_id and fields.get("client_secret"):
        raise RefusedRequest("invalid_request", "Send the secret in the Authorization header or in the body, not both.")
    asked = TokenRequest(
        grant_type=fields.get("grant_type", ""),
        client_id=client_id or fields.get("client_id", ""),
        client_secret=client_secret or fields.get("client_secret", ""),
        audience=fields.get("audience", ""),
    )
    if missing := [name for name in ("grant_type", "client_id", "client_secret") if not getattr(asked, name)]:
        raise RefusedRequest("invalid_request", f"{missing[0]} is missing.")
    return asked


def _fields(request: HttpRequest) -> Mapping[str, str]:
    if request.content_type == "application/json":
        return _json_fields(request.body)
    repeated = [name for name, values in request.POST.lists() if len(values) > 1]
    if repeated:
        raise RefusedRequest("invalid_request", f"{repeated[0]} is given more than once.")
    return {name: str(value) for name, value in request.POST.items()}


def _json_fields(body: bytes) -> Mapping[str, str]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest("invalid_request", "The body is not valid JSON.") from error
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise RefusedRequest("invalid_request", "The body must be a JSON object whose values are texts.")
    return fields


def _basic(header: str) -> tuple[str, str]:
    """Id and secret of HTTP Basic, url-decoded as RFC 6749 2.3.1 wants; two empty texts without the header."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        client_id, separator, client_secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RefusedRequest("invalid_request", "The Authorization header is not valid HTTP Basic.") from error
    if not separator:
        raise RefusedRequest("invalid_request", "The Authorization header is not valid HTTP Basic.")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _error(status: int, error: str, description: str) -> HttpResponse:
    return _answer(status, {"error": error, "error_description": description})


def _answer(status: int, body: dict[str, Any]) -> HttpResponse:
    response = JsonResponse(body, status=status)
    response["Cache-Control"] = "no-store"
    response["Pragma"] = "no-cache"
    return response
