"""The organization: its name, who belongs to it, and what was done in it."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing import entitlements
from common.errors import NotFound
from console.forms import InvitationForm, OrganizationForm, RoleForm
from console.views.doors import act_and_return, attempt, organization_page, status_of
from console.words import ROLE_NOTES, wording_of
from tenants import selectors, services
from tenants.actor import Actor
from tenants.paging import parse_page
from tenants.roles import Permission


def member_limit(organization_id: UUID) -> int:
    """How many members the organization's plan includes."""
    return entitlements.plan_of(organization_id).max_members


@require_http_methods(["GET", "POST"])
@organization_page
def organization(request: HttpRequest, actor: Actor) -> HttpResponse:
    """The organization's name and plan."""
    row = selectors.organization(actor)
    form = OrganizationForm(request.POST or None, initial={"name": row.name})
    if form.is_valid():
        rename = partial(services.rename_organization, actor=actor, name=form.cleaned_data["name"])
        if attempt(form, rename):
            messages.success(request, "Saved.")
            return redirect("console:organization")
    context = {
        "form": form,
        "organization": row,
        "plan": entitlements.plan_of(actor.organization),
        "may_rename": Permission.ORGANIZATION_UPDATE in actor.permissions,
    }
    return render(request, "console/organization.html", context, status=status_of(form))


@require_http_methods(["GET", "POST"])
@organization_page
def members(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Who belongs here and who is invited; the form invites one more."""
    actor.require(Permission.MEMBERS_READ)
    grantable = selectors.grantable_roles(actor)
    form = InvitationForm(request.POST or None, roles=grantable)
    if form.is_valid():
        invite = partial(services.invite_member, actor=actor, member_limit=member_limit, **form.cleaned_data)
        if invitation := attempt(form, invite):
            messages.success(request, f"An invitation is on its way to {invitation.email}. It holds for 7 days.")
            return redirect("console:members")
    may_write = Permission.MEMBERS_WRITE in actor.permissions
    context = {
        "form": form if may_write else None,
        "members": selectors.members_of(actor).items,
        "invitations": selectors.invitations_of(actor).items if may_write else (),
        "roles": [(role.value, wording_of(role).word) for role in grantable],
        "notes": [(wording_of(role).word, note) for role, note in ROLE_NOTES.items()],
        "may_transfer": Permission.ORGANIZATION_TRANSFER in actor.permissions,
    }
    return render(request, "console/members.html", context, status=status_of(form))


@require_POST
@organization_page
def member_role(request: HttpRequest, actor: Actor, membership_id: UUID) -> HttpResponse:
    """Give a member another role."""
    _member(actor, membership_id)
    form = RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles in the list.")
        return redirect("console:members")
    change = partial(services.change_role, actor=actor, membership_id=membership_id, role=form.cleaned_data["role"])
    return act_and_return(request, change, "The role was changed.", "console:members")


@require_http_methods(["GET", "POST"])
@organization_page
def member_remove(request: HttpRequest, actor: Actor, membership_id: UUID) -> HttpResponse:
    """Take a member out, after asking; one's own membership may be given up by anybody."""
    member = _member(actor, membership_id)
    if request.method == "GET":
        context = {"member": member, "is_self": str(member.user_id) == actor.principal_id}
        return render(request, "console/member_remove.html", context)
    remove = partial(services.remove_member, actor=actor, membership_id=membership_id)
    success = f"{member.user.email} is not a member any more."
    is_self = str(member.user_id) == actor.principal_id
    return act_and_return(request, remove, success, "console:home" if is_self else "console:members")


@require_http_methods(["GET", "POST"])
@organization_page
def ownership_transfer(request: HttpRequest, actor: Actor, membership_id: UUID) -> HttpResponse:
    """Hand the organization over, after asking."""
    actor.require(Permission.ORGANIZATION_TRANSFER)
    member = _member(actor, membership_id)
    if request.method == "GET":
        return render(request, "console/ownership_transfer.html", {"member": member})
    transfer = partial(services.transfer_ownership, actor=actor, membership_id=membership_id)
    success = f"{member.user.email} owns the organization now; you are an admin of it."
    return act_and_return(request, transfer, success, "console:members")


@require_POST
@organization_page
def invitation_resend(request: HttpRequest, actor: Actor, invitation_id: UUID) -> HttpResponse:
    """Mail a new link."""
    resend = partial(services.resend_invitation, actor=actor, invitation_id=invitation_id)
    return act_and_return(request, resend, "A new link is on its way; the old one is worthless.", "console:members")


@require_POST
@organization_page
def invitation_revoke(request: HttpRequest, actor: Actor, invitation_id: UUID) -> HttpResponse:
    """Withdraw an invitation."""
    revoke = partial(services.revoke_invitation, actor=actor, invitation_id=invitation_id)
    return act_and_return(request, revoke, "The invitation was withdrawn.", "console:members")


@require_GET
@organization_page
def audit(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Who did what, newest first."""
    found = selectors.audit_events_of(actor, parse_page("50", request.GET.get("cursor", "")))
    return render(request, "console/audit.html", {"events": found.items, "next_cursor": found.next_cursor})


def _member(actor: Actor, membership_id: UUID) -> Any:
    """One of the members, with `.user`."""
    for member in selectors.members_of(actor).items:
        if member.pk == membership_id:
            return member
    raise NotFound("There is no such member in this organization.")
