"""Offers of membership, each bound to one e-mail address. The token is in the mail only; the row holds its digest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

from allauth.account.models import EmailAddress
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models.functions import Now

from common.errors import EntitlementExceeded, NotFound, NotPermitted
from tenants import audit, tokens
from tenants.actor import Actor, PrincipalKind
from tenants.clock import database_now
from tenants.errors import InvalidMember, InvitationUnusable
from tenants.models import Invitation, MailKind, Membership, Organization
from tenants.roles import Permission
from tenants.scoping import OrganizationQuerySet, acting_in, scope
from tenants.services.mails import queue_mail
from tenants.services.organizations import grantable_role, lock_organization

INVITATION_LIFETIME = timedelta(days=7)

# Organization id -> how many members its plan includes. Plans are known one floor up, so the door brings the question.
MemberLimit = Callable[[UUID], int]


@transaction.atomic
def invite_member(*, actor: Actor, email: str, role: str, member_limit: MemberLimit) -> Invitation:
    """Offer membership to an address and mail the link. Pending invitations count as members.

    Raises:
        InvalidMember: not an address, a member already, invited already, or a role that the actor may not give.
        EntitlementExceeded: the plan has no seat left.
        NotPermitted.
    """
    actor.require(Permission.MEMBERS_WRITE)
    address = _clean_address(email)
    wanted = grantable_role(actor, role)
    organization = lock_organization(actor.organization)
    _refuse_known(organization, address)
    _require_seat(organization, member_limit, pending=_pending(organization.pk).count())
    expires_at = database_now() + INVITATION_LIFETIME
    invitation = Invitation(
        id=uuid4(), organization=organization, email=address, role=wanted.value, expires_at=expires_at
    )
    invitation.token_digest = tokens.digest(tokens.invitation_token(invitation.pk, expires_at))
    invitation.save(force_insert=True)
    audit.record(
        actor,
        action="invitation.created",
        target=invitation,
        changes={"email": (None, address), "role": (None, wanted.value)},
    )
    queue_mail(kind=MailKind.INVITATION, address=address, invitation=invitation)
    return invitation


@transaction.atomic
def resend_invitation(*, actor: Actor, invitation_id: UUID) -> Invitation:
    """Mail a new link with a new expiry; the old link is worthless from now on. Raises `InvitationUnusable`."""
    actor.require(Permission.MEMBERS_WRITE)
    invitation = _lock_open(actor, invitation_id)
    before, invitation.expires_at = invitation.expires_at, database_now() + INVITATION_LIFETIME
    invitation.token_digest = tokens.digest(tokens.invitation_token(invitation.pk, invitation.expires_at))
    invitation.save(update_fields=["expires_at", "token_digest"])
    audit.record(
        actor,
        action="invitation.resent",
        target=invitation,
        changes={"expires_at": (before, invitation.expires_at)},
    )
    queue_mail(kind=MailKind.INVITATION, address=invitation.email, invitation=invitation)
    return invitation


@transaction.atomic
def revoke_invitation(*, actor: Actor, invitation_id: UUID) -> None:
    """Make an invitation's link worthless. Raises `InvitationUnusable` when it was accepted or revoked before."""
    actor.require(Permission.MEMBERS_WRITE)
    invitation = _lock_open(actor, invitation_id)
    invitation.revoked_at = database_now()
    invitation.save(update_fields=["revoked_at"])
    audit.record(actor, action="invitation.revoked", target=invitation, changes={"email": (invitation.email, None)})


@transaction.atomic
def accept_invitation(*, actor: Actor, token: str, member_limit: MemberLimit) -> Organization:
    """Become a member by showing the link's token, as the person to whose confirmed address it was sent.

    Raises:
        InvitationUnusable: accepted, revoked or expired, or meant for another address.
        InvalidMember: a member already.
        EntitlementExceeded: the plan has no seat left.
        NotFound: no such invitation.
    """
    if actor.kind is not PrincipalKind.PERSON:
        raise NotPermitted("Only a person can accept an invitation: sign in to the console.")
    presented = _presented(token)
    with acting_in(presented.organization_id):
        organization = lock_organization(presented.organization_id)
        invitation = Invitation.objects.select_for_update().get(pk=presented.pk)
        _require_usable(invitation, actor)
        _require_seat(organization, member_limit, pending=0)
        _join(invitation, actor)
    return organization


def _presented(token: str) -> Invitation:
    """The invitation whose token was shown; the scope opens just that row."""
    digest = tokens.digest(token)
    scope(presented=digest)
    invitation = Invitation.objects.filter(token_digest=digest).first()
    if invitation is None:
        raise NotFound("There is no such invitation. Use the newest link that was mailed to you.")
    return invitation


def _require_usable(invitation: Invitation, actor: Actor) -> None:
    if invitation.accepted_at:
        raise InvitationUnusable("This invitation was accepted before. It works once.")
    if invitation.revoked_at:
        raise InvitationUnusable("This invitation was withdrawn. Ask whoever invited you for a new one.")
    if invitation.expires_at <= database_now():
        raise InvitationUnusable("This invitation has expired. Ask whoever invited you for a new one.")
    owned = EmailAddress.objects.filter(user_id=actor.principal_id, verified=True, email__iexact=invitation.email)
    if not owned.exists():
        raise InvitationUnusable(
            "This invitation was sent to another address. Sign in with the account of that address to accept it."
        )


def _join(invitation: Invitation, actor: Actor) -> None:
    members = Membership.objects.for_organization(invitation.organization_id)
    if members.filter(user_id=actor.principal_id).exists():
        raise InvalidMember("You are a member of this organization already.")
    membership = Membership.objects.create(
        organization_id=invitation.organization_id, user_id=actor.principal_id, role=invitation.role
    )
    invitation.accepted_at = database_now()
    invitation.save(update_fields=["accepted_at"])
    audit.record(
        actor,
        action="invitation.accepted",
        target=membership,
        changes={"email": (None, invitation.email), "role": (None, invitation.role)},
    )


def _clean_address(email: str) -> str:
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError as error:
        raise InvalidMember("This is not an e-mail address. Write it like name@example.com.", field="email") from error
    return address


def _refuse_known(organization: Organization, address: str) -> None:
    if Membership.objects.for_organization(organization.pk).filter(user__email__iexact=address).exists():
        raise InvalidMember("This address belongs to a member of the organization already.", field="email")
    # One that ran out makes room for a new one; the database allows one open invitation for each address.
    same = Invitation.objects.for_organization(organization.pk).filter(email__iexact=address)
    same.filter(accepted_at=None, revoked_at=None, expires_at__lte=Now()).update(revoked_at=Now())
    if same.filter(accepted_at=None, revoked_at=None).exists():
        raise InvalidMember(
            "This address has been invited already. Send that invitation again, or withdraw it first.", field="email"
        )


def _require_seat(organization: Organization, member_limit: MemberLimit, *, pending: int) -> None:
    limit = member_limit(organization.pk)
    used = Membership.objects.for_organization(organization.pk).count() + pending
    if used >= limit:
        raise EntitlementExceeded(
            f"The organization's plan includes {limit} members and all seats are used, open invitations included. "
            "Remove a member or an invitation, or ask for a larger plan.",
            limit=limit,
            used=used,
        )


def _pending(organization_id: UUID) -> OrganizationQuerySet[Invitation]:
    return Invitation.objects.for_organization(organization_id).filter(
        accepted_at=None, revoked_at=None, expires_at__gt=Now()
    )


def _lock_open(actor: Actor, invitation_id: UUID) -> Invitation:
    invitations = Invitation.objects.for_organization(actor.organization)
    invitation = invitations.select_for_update().filter(pk=invitation_id).first()
    if invitation is None:
        raise NotFound("There is no such invitation in this organization.")
    if invitation.accepted_at or invitation.revoked_at:
        raise InvitationUnusable("This invitation was accepted or withdrawn before.")
    return invitation
