"""What every page has in common: who asks, and how refusals become messages. Refusals that no form or button waits
for are translated into pages at the rim, by `config.problems`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.utils.cache import patch_cache_control

from common.errors import ControlPlaneError, NotFound
from provisioning import services
from tenants.actor import Actor
from tenants.auth import actor_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

ActorView = Callable[Concatenate[HttpRequest, Actor, _P], HttpResponse]
PlainView = Callable[Concatenate[HttpRequest, _P], HttpResponse]

# A form that was refused is shown again under this status.
UNPROCESSABLE = 422


def person_page(view: ActorView[_P]) -> PlainView[_P]:
    """A page for signed-in people, whether or not they belong to an organization yet."""

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: _P.args, **kwargs: _P.kwargs) -> HttpResponse:
        response = view(request, actor_of(request), *args, **kwargs)
        if not response.has_header("Cache-Control"):
            patch_cache_control(response, private=True, no_cache=True)
        return response

    return login_required(guarded)


def organization_page(view: ActorView[_P]) -> PlainView[_P]:
    """A page inside an organization; a person without one is led to making it."""

    @person_page
    @wraps(view)
    def inside(request: HttpRequest, actor: Actor, /, *args: _P.args, **kwargs: _P.kwargs) -> HttpResponse:
        if actor.organization_id is None:
            return redirect("console:organization_new")
        return view(request, actor, *args, **kwargs)

    return inside


def never_kept(view: PlainView[_P]) -> PlainView[_P]:
    """For pages that show secrets: no browser and no proxy keeps them."""

    @wraps(view)
    def unkept(request: HttpRequest, /, *args: _P.args, **kwargs: _P.kwargs) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response.headers["Cache-Control"] = "no-store"
        return response

    return unkept


def attempt(form: BaseForm, act: Callable[[], _T]) -> _T | None:
    """Run a service; its refusal becomes a message at the field it is about, and None is returned."""
    try:
        return act()
    except NotFound:
        raise
    except ControlPlaneError as error:
        field = error.details.get("field")
        form.add_error(field if field in form.fields else None, error.message)
        return None


def act_and_return(request: HttpRequest, act: Callable[[], Any], success: str, page: str, *args: Any) -> HttpResponse:
    """Run a service behind a plain button, say how it went, and show the page (post, redirect, get)."""
    try:
        act()
    except NotFound:
        raise
    except ControlPlaneError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, success)
    return redirect(page, *args)


def foresee(change: Callable[..., Any], **arguments: Any) -> tuple[services.Preview | None, str]:
    """The plan of a change, or the sentence why it would be refused."""
    try:
        return services.preview(change, **arguments), ""
    except NotFound:
        raise
    except ControlPlaneError as error:
        return None, error.message


def renew_generation(form: BaseForm, generation: int) -> None:
    """After a refusal the reader has seen the newest state, so the next try speaks of that."""
    form.data = {**form.data.dict(), "generation": str(generation)} if isinstance(form.data, QueryDict) else form.data


def status_of(form: BaseForm) -> int:
    """The status a form is shown with: refused input is not a success."""
    return UNPROCESSABLE if form.is_bound and form.errors else 200
