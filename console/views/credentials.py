"""Credentials: what programs sign in with, for one cluster or for our REST API.

One set of pages serves both: under a cluster's address they are about the cluster's clients, else about the API's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console.forms import ApiCredentialForm, CredentialForm, ExpiryForm
from console.views.doors import act_and_return, attempt, never_kept, organization_page, status_of
from provisioning import access, envfile
from provisioning import selectors as clusters
from provisioning.errors import NoEndpointYet
from tenants import selectors
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.roles import API_SCOPES, Permission
from tenants.services import NewSecret


@dataclass(frozen=True, slots=True)
class Place:
    """What the credentials on a page are for: `cluster` is None for the REST API's."""

    actor: Actor
    cluster_id: UUID | None
    cluster: clusters.ClusterView | None

    @property
    def services(self) -> ModuleType:
        """Whose verbs to use; both modules have the same ones."""
        return access if self.cluster_id else tenancy

    @property
    def where(self) -> dict[str, UUID]:
        """What the verbs need to know besides the actor."""
        return {"cluster_id": self.cluster_id} if self.cluster_id else {}

    @property
    def may_write(self) -> bool:
        """Whether the actor may make and change credentials here."""
        needed = Permission.CREDENTIALS_WRITE if self.cluster_id else Permission.API_CREDENTIALS_WRITE
        return needed in self.actor.permissions

    @property
    def page(self) -> str:
        """The list's name."""
        return "console:credentials" if self.cluster_id else "console:api_credentials"

    @property
    def arguments(self) -> tuple[UUID, ...]:
        """What the list's address needs."""
        return (self.cluster_id,) if self.cluster_id else ()

    @property
    def url(self) -> str:
        """The list's address; each credential's pages lie below it."""
        return reverse(self.page, args=self.arguments)


@require_http_methods(["GET", "POST"])
@never_kept
@organization_page
def credential_list(request: HttpRequest, actor: Actor, cluster_id: UUID | None = None) -> HttpResponse:
    """The credentials of a cluster or of the API; the form makes one more and shows its secret, once."""
    place = _place(actor, cluster_id)
    form = _creation_form(request, place)
    if form.is_valid() and (made := attempt(form, _creation(place, form))):
        return _secret_page(request, place, made)
    context = {
        "place": place,
        "cluster": place.cluster,
        "form": form if place.may_write else None,
        "credentials": selectors.credentials_of(actor, cluster_id).items,
    }
    return render(request, "console/credentials.html", context, status=status_of(form))


@require_http_methods(["GET", "POST"])
@never_kept
@organization_page
def credential(request: HttpRequest, actor: Actor, credential_id: UUID, cluster_id: UUID | None = None) -> HttpResponse:
    """One credential: its secrets with their last use, its end, and its exits."""
    place = _place(actor, cluster_id)
    row = selectors.credential(actor, credential_id, cluster_id)
    form = ExpiryForm(request.POST or None, initial={"expires_on": row.expires_at})
    if form.is_valid():
        change = partial(
            place.services.update_credential, actor=actor, credential_id=credential_id, **place.where,
            expires_at=form.expires_at(),
        )  # fmt: skip
        if attempt(form, change):
            return redirect(f"{place.url}/{credential_id}")
    context = {
        "place": place,
        "cluster": place.cluster,
        "credential": row,
        "form": form if place.may_write else None,
    }
    return render(request, "console/credential.html", context, status=status_of(form))


@require_POST
@never_kept
@organization_page
def secret_add(request: HttpRequest, actor: Actor, credential_id: UUID, cluster_id: UUID | None = None) -> HttpResponse:
    """Rotate: make a second live secret and show it, once."""
    place = _place(actor, cluster_id)
    made: list[NewSecret] = []

    def add() -> None:
        made.append(place.services.add_secret(actor=actor, credential_id=credential_id, **place.where))

    response = act_and_return(request, add, "Both secrets are live now.", place.page, *place.arguments)
    if made:
        return _secret_page(request, place, made[0], is_rotation=True)
    return response


@require_POST
@organization_page
def secret_revoke(
    request: HttpRequest, actor: Actor, credential_id: UUID, secret_id: UUID, cluster_id: UUID | None = None
) -> HttpResponse:
    """Make one secret worthless."""
    place = _place(actor, cluster_id)
    revoke = partial(
        place.services.revoke_secret, actor=actor, credential_id=credential_id, secret_id=secret_id, **place.where
    )
    return _back_to_list(request, place, revoke, "The secret was revoked: it gets no token any more.")


@require_POST
@organization_page
def credential_disable(
    request: HttpRequest, actor: Actor, credential_id: UUID, cluster_id: UUID | None = None
) -> HttpResponse:
    """Switch a credential off or on again."""
    place = _place(actor, cluster_id)
    is_disabled = request.POST.get("is_disabled") == "true"
    change = partial(
        place.services.update_credential,
        actor=actor, credential_id=credential_id, **place.where, is_disabled=is_disabled,
    )  # fmt: skip
    success = "The credential is disabled: it gets no token." if is_disabled else "The credential is enabled again."
    return _back_to_list(request, place, change, success)


@require_POST
@organization_page
def credential_revoke(
    request: HttpRequest, actor: Actor, credential_id: UUID, cluster_id: UUID | None = None
) -> HttpResponse:
    """End a credential for good."""
    place = _place(actor, cluster_id)
    revoke = partial(place.services.revoke_credential, actor=actor, credential_id=credential_id, **place.where)
    return _back_to_list(request, place, revoke, "The credential was deleted: it gets no token any more.")


@require_GET
@organization_page
def connect(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """How to reach a cluster: the environment file and the first lines of a client."""
    place = _place(actor, cluster_id)
    return render(request, "console/connect.html", {"cluster": place.cluster, "env_file": _env_file(place)})


def _place(actor: Actor, cluster_id: UUID | None) -> Place:
    return Place(actor, cluster_id, clusters.cluster(actor, cluster_id) if cluster_id else None)


def _creation_form(request: HttpRequest, place: Place) -> CredentialForm:
    if place.cluster_id:
        return CredentialForm(request.POST or None)
    return ApiCredentialForm(request.POST or None, scopes=sorted(API_SCOPES & place.actor.permissions))


def _creation(place: Place, form: CredentialForm) -> Callable[[], NewSecret]:
    wish: dict[str, Any] = {"name": form.cleaned_data["name"], "expires_at": form.expires_at()}
    if "scopes" in form.cleaned_data:
        wish["scopes"] = form.cleaned_data["scopes"]
    return partial(place.services.create_credential, actor=place.actor, **wish, **place.where)


def _back_to_list(request: HttpRequest, place: Place, act: Callable[[], Any], success: str) -> HttpResponse:
    return act_and_return(request, act, success, place.page, *place.arguments)


def _secret_page(request: HttpRequest, place: Place, made: NewSecret, *, is_rotation: bool = False) -> HttpResponse:
    """The only page that ever shows a secret: an answer to a post, so no address leads to it again."""
    context = {
        "place": place,
        "cluster": place.cluster,
        "credential": made.credential,
        "secret": made.secret,
        "is_rotation": is_rotation,
        "env_file": _env_file(place, made.credential.client_id, made.secret),
        "token_url": settings.TOKEN_URL,
        "api_url": settings.API_URL,
    }
    return render(request, "console/secret.html", context)


def _env_file(place: Place, client_id: str = "", client_secret: str = "") -> str:
    """The file's text; "" while the cluster has no address yet, and for the REST API."""
    if place.cluster_id is None:
        return ""
    try:
        values = access.environment(place.actor, place.cluster_id, client_id=client_id, client_secret=client_secret)
    except NoEndpointYet:
        return ""
    return envfile.render(values)
