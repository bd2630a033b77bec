"""Organizations and who belongs to them."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction

from common.errors import NotFound, NotPermitted
from tenants import audit
from tenants.actor import Actor, PrincipalKind
from tenants.errors import InvalidMember, LastOwner
from tenants.models import Membership, Organization
from tenants.naming import clean_name
from tenants.roles import Permission, Role, grantable_with
from tenants.scoping import acting_in


@transaction.atomic
def create_organization(*, actor: Actor, name: str) -> Organization:
    """Make an organization; the person who does is its owner.

    Raises:
        InvalidName: empty, too long, or holding invisible characters.
        NotPermitted: a program asked.
    """
    if actor.kind is not PrincipalKind.PERSON:
        raise NotPermitted("Only a person can make an organization: sign in to the console.")
    organization = Organization(id=uuid4(), name=clean_name(name))
    with acting_in(organization.pk):
        organization.save(force_insert=True)
        Membership.objects.create(organization=organization, user_id=actor.principal_id, role=Role.OWNER.value)
        audit.record(
            actor, action="organization.created", target=organization, changes={"name": (None, organization.name)}
        )
    return organization


@transaction.atomic
def rename_organization(*, actor: Actor, name: str) -> Organization:
    """Give the actor's organization another name. Raises `InvalidName`, `NotPermitted`."""
    actor.require(Permission.ORGANIZATION_UPDATE)
    organization = lock_organization(actor.organization)
    before, organization.name = organization.name, clean_name(name)
    if organization.name != before:
        organization.save(update_fields=["name"])
        audit.record(
            actor, action="organization.renamed", target=organization, changes={"name": (before, organization.name)}
        )
    return organization


@transaction.atomic
def change_role(*, actor: Actor, membership_id: UUID, role: str) -> Membership:
    """Give a member another role.

    Raises:
        InvalidMember: no such role, or one that the actor may not hand out.
        LastOwner: the owner's role changes by a transfer only.
        NotFound, NotPermitted.
    """
    actor.require(Permission.MEMBERS_WRITE)
    wanted = grantable_role(actor, role)
    membership = _lock_member(actor, membership_id)
    _refuse_owner(membership)
    _set_role(actor, membership, wanted)
    return membership


@transaction.atomic
def remove_member(*, actor: Actor, membership_id: UUID) -> None:
    """Take somebody out of the organization; its next request there is refused. Removing oneself is leaving.

    Raises:
        LastOwner: the owner has to hand the organization over first.
        NotFound, NotPermitted.
    """
    membership = _lock_member(actor, membership_id)
    if str(membership.user_id) != actor.principal_id:
        actor.require(Permission.MEMBERS_WRITE)
    _refuse_owner(membership)
    audit.record(
        actor,
        action="member.removed",
        target=membership,
        changes={"email": (membership.user.email, None), "role": (membership.role, None)},
    )
    membership.delete()


def leave_organization(*, actor: Actor) -> None:
    """Give up one's own membership. Raises `LastOwner`."""
    own = _own_membership(actor)
    remove_member(actor=actor, membership_id=own.pk)


@transaction.atomic
def transfer_ownership(*, actor: Actor, membership_id: UUID) -> None:
    """Make another member the owner; the old owner becomes an admin.

    Raises:
        InvalidMember: it is the owner already.
        NotFound, NotPermitted.
    """
    actor.require(Permission.ORGANIZATION_TRANSFER)
    lock_organization(actor.organization)
    heir = _lock_member(actor, membership_id)
    owner = Membership.objects.for_organization(actor.organization).get(role=Role.OWNER.value)
    if str(owner.user_id) != actor.principal_id:
        raise NotPermitted("Only the owner can transfer the ownership, and somebody else is the owner by now.")
    if heir.pk == owner.pk:
        raise InvalidMember("This member is the owner already.", field="member_id")
    # In this order: the database allows one owner at a time, and none only inside a transaction.
    _set_role(actor, owner, Role.ADMIN)
    _set_role(actor, heir, Role.OWNER)


def lock_organization(organization_id: UUID) -> Organization:
    """Hold the organization's row until the transaction ends: whoever counts what belongs to it does so under this.

    Not against rows that merely refer to it: whoever holds one of its members or invitations writes an audit event
    next, and would wait for a holder of this lock that waits for that member or invitation.
    """
    return Organization.objects.select_for_update(no_key=True).get(pk=organization_id)


def grantable_role(actor: Actor, role: str) -> Role:
    """The role of that name, if the actor may hand it out. Raises `InvalidMember`."""
    allowed = sorted(grantable_with(actor.permissions))
    if role not in allowed:
        raise InvalidMember(
            f"“{role}” is not a role that you can give. Choose one of: {', '.join(allowed)}.", field="role"
        )
    return Role(role)


def _lock_member(actor: Actor, membership_id: UUID) -> Membership:
    members = Membership.objects.for_organization(actor.organization)
    membership = members.select_for_update(of=("self",)).select_related("user").filter(pk=membership_id).first()
    if membership is None:
        raise NotFound("There is no such member in this organization.")
    return membership


def _own_membership(actor: Actor) -> Membership:
    own = None
    if actor.kind is PrincipalKind.PERSON:
        own = Membership.objects.for_organization(actor.organization).filter(user_id=actor.principal_id).first()
    if own is None:
        raise NotFound("You are not a member of this organization.")
    return own


def _refuse_owner(membership: Membership) -> None:
    if membership.role == Role.OWNER:
        raise LastOwner(
            "An organization always has one owner. Transfer the ownership to another member first, then try again."
        )


def _set_role(actor: Actor, membership: Membership, role: Role) -> None:
    before, membership.role = membership.role, role.value
    if before != role.value:
        membership.save(update_fields=["role"])
        audit.record(
            actor, action="member.role_changed", target=membership, changes={"role": (before, membership.role)}
        )
