"""What may be read about people, organizations and credentials. Everything is asked for on behalf of an actor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from common.errors import NotFound
from tenants import tokens
from tenants.actor import Actor, PrincipalKind
from tenants.models import AuditEvent, Credential, CredentialSecret, Invitation, Membership, Organization
from tenants.paging import MAX_LIMIT, Page, Slice, slice_newest_first
from tenants.roles import Permission, Role, grantable_with
from tenants.scoping import scope

FIRST_PAGE = Page(limit=MAX_LIMIT)


class Unset:
    """Says that a value was not given, where None is a value of its own."""


UNSET = Unset()


@dataclass(frozen=True, slots=True)
class OrganizationEntry:
    """An organization as the list of a person's organizations shows it."""

    id: UUID
    name: str
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation as the person sees it who holds its link."""

    organization_name: str
    email: str
    role: str
    state: str
    expires_at: datetime


def organizations_of(actor: Actor) -> list[OrganizationEntry]:
    """The person's organizations by name; a credential's only one. One query."""
    if actor.kind is not PrincipalKind.PERSON:
        own = organization(actor)
        return [OrganizationEntry(own.pk, own.name, "", own.created_at)]
    memberships = Membership.objects.filter(user_id=actor.principal_id).select_related("organization")
    return [
        OrganizationEntry(one.organization_id, one.organization.name, one.role, one.organization.created_at)
        for one in memberships.order_by("organization__name", "organization_id")
    ]


def organization(actor: Actor) -> Organization:
    """The organization acted in. One query."""
    actor.require(Permission.ORGANIZATION_READ)
    found = Organization.objects.filter(pk=actor.organization).first()
    if found is None:
        raise NotFound("There is no such organization.")
    return found


def members_of(actor: Actor, page: Page = FIRST_PAGE) -> Slice[Membership]:
    """The organization's members with `.user`, newest first. One query."""
    actor.require(Permission.MEMBERS_READ)
    members = Membership.objects.for_organization(actor.organization).select_related("user")
    return slice_newest_first(members, page)


def grantable_roles(actor: Actor) -> list[Role]:
    """The roles that the actor may give to others, strongest first. No query."""
    allowed = grantable_with(actor.permissions)
    return [role for role in Role if role in allowed]


def invitations_of(actor: Actor, page: Page = FIRST_PAGE) -> Slice[Invitation]:
    """The organization's open invitations, newest first; ran-out ones are among them until replaced. One query."""
    actor.require(Permission.MEMBERS_READ)
    invitations = Invitation.objects.for_organization(actor.organization)
    return slice_newest_first(invitations.filter(accepted_at=None, revoked_at=None), page)


def presented_invitation(token: str) -> InvitationView:
    """What the link's holder may know, signed in or not. Two statements; the scope opens just that row.

    Raises:
        NotFound: no such invitation.
    """
    digest = tokens.digest(token)
    scope(presented=digest)
    found = Invitation.objects.select_related("organization").filter(token_digest=digest).first()
    if found is None:
        raise NotFound("There is no such invitation. Use the newest link that was mailed to you.")
    return InvitationView(found.organization.name, found.email, found.role, invitation_state(found), found.expires_at)


def invitation_state(invitation: Invitation) -> str:
    """`pending`, `accepted`, `revoked` or `expired`. No query."""
    if invitation.accepted_at:
        return "accepted"
    if invitation.revoked_at:
        return "revoked"
    return "pending" if invitation.expires_at > timezone.now() else "expired"


def audit_events_of(actor: Actor, page: Page = FIRST_PAGE) -> Slice[AuditEvent]:
    """What was done in the organization, newest first. One query."""
    actor.require(Permission.AUDIT_READ)
    return slice_newest_first(AuditEvent.objects.for_organization(actor.organization), page, time_field="at")


def credentials_of(actor: Actor, audience_id: UUID | None = None, page: Page = FIRST_PAGE) -> Slice[Credential]:
    """Credentials that were not revoked, for the REST API (None) or a cluster, with their live secrets in
    `.live_secrets`. Two queries.
    """
    actor.require(Permission.CREDENTIALS_READ)
    live = Credential.objects.for_organization(actor.organization).filter(Q(audience_id=audience_id), revoked_at=None)
    return slice_newest_first(live.prefetch_related(_live_secrets()), page)


def credential(actor: Actor, credential_id: UUID, audience_id: UUID | Unset | None = UNSET) -> Credential:
    """One credential with `.live_secrets`: of the REST API (None), of a cluster, or wherever it is. Two queries.

    Raises:
        NotFound, NotPermitted.
    """
    actor.require(Permission.CREDENTIALS_READ)
    live = Credential.objects.for_organization(actor.organization).filter(revoked_at=None)
    if not isinstance(audience_id, Unset):
        live = live.filter(Q(audience_id=audience_id))
    found = live.prefetch_related(_live_secrets()).filter(pk=credential_id).first()
    if found is None:
        raise NotFound("There is no such credential here.")
    return found


def _live_secrets() -> Prefetch[str, QuerySet[CredentialSecret], str]:
    secrets: QuerySet[CredentialSecret] = CredentialSecret.objects.filter(revoked_at=None).order_by("created_at")
    return Prefetch("secrets", queryset=secrets, to_attr="live_secrets")


def access_changed_within(span: timedelta, *, limit: int) -> list[dict[str, str]]:
    """Who was given or lost access lately: each secret by its visible beginning, and what it opens. One query.

    For the installation itself. `revoked_at` is "" while the secret is live.
    """
    rows = _secrets().filter(Q(created_at__gt=Now() - span) | Q(ended_at__gt=Now() - span))
    return [
        {
            "client_id": row.credential.client_id,
            "secret": row.prefix,
            "name": row.credential.name,
            "organization": str(row.organization_id),
            "cluster": str(row.credential.audience_id or ""),
            "created_at": row.created_at.isoformat(),
            "revoked_at": row.ended_at.isoformat() if row.ended_at else "",
        }
        for row in rows.order_by("-created_at")[:limit]
    ]


def is_audited_since(moment: datetime) -> bool:
    """Whether anybody has changed anything since then. One query. For the installation itself."""
    return AuditEvent.objects.filter(at__gt=moment).exists()


def secrets_of(client_ids: Iterable[str]) -> dict[tuple[str, str], bool]:
    """Client id and visible beginning of the secrets that these clients have here -> whether it is live. One query."""
    rows = _secrets().filter(credential__client_id__in=list(client_ids))
    return {(row.credential.client_id, row.prefix): row.ended_at is None for row in rows}


def _secrets() -> QuerySet[Any]:
    return CredentialSecret.objects.select_related("credential").annotate(
        ended_at=Coalesce("revoked_at", "credential__revoked_at")
    )
