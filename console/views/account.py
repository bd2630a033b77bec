"""What belongs to a person alone: the way in, organizations, and invitations. Sign-in itself is allauth's."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import ControlPlaneError, NotFound
from console.forms import OrganizationForm
from console.views.doors import attempt, never_kept, person_page, status_of
from console.views.organization import member_limit
from tenants import auth, selectors, services
from tenants.actor import Actor


@require_GET
@person_page
def home(_request: HttpRequest, actor: Actor) -> HttpResponse:
    """Where a person lands: the clusters, or making the first organization."""
    return redirect("console:clusters" if actor.organization_id else "console:organization_new")


@require_http_methods(["GET", "POST"])
@person_page
def organization_new(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Make an organization and step into it."""
    form = OrganizationForm(request.POST or None)
    if form.is_valid():
        make = partial(services.create_organization, actor=actor, name=form.cleaned_data["name"])
        if organization := attempt(form, make):
            auth.switch_organization(request, organization.pk)
            return redirect("console:clusters")
    context = {"form": form, "is_first": not selectors.organizations_of(actor)}
    return render(request, "console/organization_new.html", context, status=status_of(form))


@require_POST
@person_page
def organization_switch(request: HttpRequest, _actor: Actor) -> HttpResponse:
    """Go on in another organization."""
    try:
        auth.switch_organization(request, UUID(request.POST.get("organization", "")))
    except ValueError:
        messages.error(request, "That is not an organization. Choose one from the list.")
    return redirect("console:home")


@require_GET
@never_kept
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """What an invitation offers, signed in or not. The link alone changes nothing: mail scanners follow links too."""
    return render(request, "console/invitation.html", {"invitation": selectors.presented_invitation(token)})


@require_POST
@never_kept
@person_page
def invitation_accept(request: HttpRequest, actor: Actor, token: str) -> HttpResponse:
    """Become a member."""
    try:
        organization = services.accept_invitation(actor=actor, token=token, member_limit=member_limit)
    except NotFound:
        raise
    except ControlPlaneError as error:
        messages.error(request, error.message)
        return redirect("console:invitation", token)
    auth.switch_organization(request, organization.pk)
    messages.success(request, f"Welcome to {organization.name}.")
    return redirect("console:clusters")
