"""Rows for tests: functions with sensible values, each of which a keyword overrides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from allauth.account.models import EmailAddress
from django.utils import timezone

from tenants import services, tokens
from tenants.actor import Actor, PrincipalKind
from tenants.models import Audience, Credential, Invitation, Membership, Organization, User
from tenants.roles import Role, permissions_of
from tenants.services import NewSecret


@dataclass(frozen=True)
class Person:
    """A person in an organization, and the actor that its requests would be."""

    user: User
    organization: Organization
    membership: Membership

    @property
    def actor(self) -> Actor:
        """Who this person is to a service."""
        return make_actor(self.membership)


def unique(word: str) -> str:
    """A word that no other test uses."""
    return f"{word}-{uuid4().hex[:8]}"


def make_user(**overrides: Any) -> User:
    """A person with a confirmed address; without `password=...` nobody can sign in as it (hashing is slow)."""
    is_verified = overrides.pop("is_verified", True)
    fields = {"email": f"{unique('person')}@example.com", **overrides}
    user = User.objects.create_user(**fields)
    EmailAddress.objects.create(user=user, email=user.email, verified=is_verified, primary=True)
    return user


def make_organization(**overrides: Any) -> Organization:
    """An organization without members."""
    return Organization.objects.create(**{"name": unique("Organization"), **overrides})


def make_membership(organization: Organization, /, **overrides: Any) -> Membership:
    """A developer of the organization."""
    if "user" not in overrides:
        overrides["user"] = make_user()
    return Membership.objects.create(**{"organization": organization, "role": Role.DEVELOPER.value, **overrides})


def make_person(organization: Organization | None = None, /, **overrides: Any) -> Person:
    """A person with a role (owner of a new organization, when none is given)."""
    role = overrides.pop("role", Role.DEVELOPER if organization else Role.OWNER)
    place = organization or make_organization()
    user = make_user(**overrides)
    return Person(user, place, make_membership(place, user=user, role=Role(role).value))


def make_actor(membership: Membership, /, **overrides: Any) -> Actor:
    """The actor that a member's request is."""
    fields: dict[str, Any] = {
        "kind": PrincipalKind.PERSON,
        "principal_id": str(membership.user_id),
        "label": membership.user.email,
        "organization_id": membership.organization_id,
        "permissions": permissions_of(Role(membership.role)),
        "source_address": "192.0.2.1",
        "request_id": "test",
    }
    return Actor(**{**fields, **overrides})


def make_invitation(organization: Organization, /, **overrides: Any) -> tuple[Invitation, str]:
    """A pending invitation and the token that its mail carries."""
    fields: dict[str, Any] = {
        "id": uuid4(),
        "email": f"{unique('guest')}@example.com",
        "role": Role.DEVELOPER.value,
        "expires_at": timezone.now() + timedelta(days=1),
        **overrides,
    }
    token = tokens.invitation_token(fields["id"], fields["expires_at"])
    digest = tokens.digest(token)
    return Invitation.objects.create(organization=organization, token_digest=digest, **fields), token


def make_audience(organization: Organization, /, **overrides: Any) -> Audience:
    """Something that tokens can be asked for, as each engine cluster is."""
    return Audience.objects.create(**{"organization": organization, **overrides})


def make_credential(person: Person, /, **overrides: Any) -> NewSecret:
    """A credential with one secret: for the REST API, or with `audience_id=...` for a cluster."""
    fields: dict[str, Any] = {"name": unique("credential"), "audience_id": None, "limit": None, **overrides}
    if fields["audience_id"] is None:
        fields.setdefault("scopes", ("organization:read",))
    return services.create_credential(actor=person.actor, **fields)


def expire(credential: Credential) -> None:
    """Let a credential's time be over."""
    Credential.objects.filter(pk=credential.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
