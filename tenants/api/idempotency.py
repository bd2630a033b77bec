"""`Idempotency-Key` for the write handlers of the REST door."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.errors import InvalidRequest
from tenants import idempotency
from tenants.actor import PrincipalKind
from tenants.api.base import actor_in
from tenants.idempotency import Answer

KEY_HEADER = "Idempotency-Key"
REPLAY_HEADER = "Idempotent-Replay"

SHOWN_BEFORE = (
    "This answers a repeated request, so the secret is left out: it was shown once, with the first answer. "
    "If it is lost, add a second secret and revoke this one."
)

# What a replay gives again besides the body.
_KEPT_HEADERS = ("Location", "ETag")

Handler = Callable[..., Any]


def idempotent(*, secret_fields: Sequence[str] = (), is_personal: bool = False) -> Callable[[Handler], Handler]:
    """Let a write handler run once for each key; without the header, or for a dry run, it just runs.

    A dry run of what has none is refused before anything is done: a view says with `has_dry_run` that it has one.

    Args:
        secret_fields: dotted paths in the answer that are neither kept nor given again; `notice` says so instead.
        is_personal: a person's key holds whatever organization it acts in: the first answer may be what brought it
            into one, and its repetition must find that answer all the same.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def once(view: APIView, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
            key = request.headers.get(KEY_HEADER)
            is_dry = request.query_params.get("dry_run", "false") != "false"
            if is_dry and not getattr(view, "has_dry_run", False):
                raise InvalidRequest("This cannot be tried out: there is no dry run of it.", field="dry_run")
            if key is None or is_dry:
                response: HttpResponse = handler(view, request, *args, **kwargs)
                return response
            mark = idempotency.fingerprint(str(request.method), request.get_full_path(), request.data)
            actor = actor_in(request)
            if is_personal and actor.kind is PrincipalKind.PERSON:
                actor = replace(actor, organization_id=None)
            begun = idempotency.begin(actor=actor, key=key, fingerprint=mark)
            if isinstance(begun, Answer):
                return _replay(begun)
            response = handler(view, request, *args, **kwargs)
            idempotency.finish(begun, _answer(response, secret_fields))
            return response

        once.is_idempotent = True  # type: ignore[attr-defined]  # read by the test that every write handler has it
        return once

    return decorate


def _answer(response: HttpResponse, secret_fields: Sequence[str]) -> Answer:
    data = _without(response.data, secret_fields) if isinstance(response, Response) else None
    body = "" if data is None else JSONRenderer().render(data).decode()
    return Answer(response.status_code, body, {name: response[name] for name in _KEPT_HEADERS if name in response})


def _replay(answer: Answer) -> HttpResponse:
    headers = dict(answer.headers) | {REPLAY_HEADER: "true"}
    return HttpResponse(answer.body, status=answer.status, content_type="application/json", headers=headers)


def _without(data: Any, secret_fields: Sequence[str]) -> Any:
    if not secret_fields:
        return data
    kept = deepcopy(dict(data))
    for path in secret_fields:
        *parents, name = path.split(".")
        holder = kept
        for parent in parents:
            holder = holder.get(parent) or {}
        if name in holder:
            holder[name] = None
    return kept | {"notice": SHOWN_BEFORE}
