"""Invitations: bound to an address, good for one person, once, for some days."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from allauth.account.models import EmailAddress
from django.utils import timezone

from common.errors import EntitlementExceeded, NotFound, NotPermitted
from tenants import selectors, services, tokens
from tenants.errors import InvalidMember, InvitationUnusable
from tenants.models import AuditEvent, Invitation, Membership, OutgoingMail
from tenants.roles import Role
from tests.factories import Person, make_invitation, make_person, make_user, unique
from tests.tenants.mailbox import deliver_all, link_in

pytestmark = pytest.mark.django_db


def five(organization_id: UUID) -> int:
    return 5


def invite(alice: Person, email: str, role: str = "developer", limit: int = 5) -> Invitation:
    return services.invite_member(actor=alice.actor, email=email, role=role, member_limit=lambda _: limit)


def accept(person: Person, token: str, limit: int = 5) -> Any:
    return services.accept_invitation(actor=person.actor, token=token, member_limit=lambda _: limit)


def test_an_invitation_is_mailed_and_makes_its_addressee_a_member(alice: Person) -> None:
    guest = make_person()
    made = invite(alice, guest.user.email.upper())
    (message,) = deliver_all()
    assert message.to == [guest.user.email]
    token = link_in(message, "invitations/").rpartition("/")[2]
    assert token not in str(list(Invitation.objects.values())), "the row keeps a digest"
    assert token not in str(list(OutgoingMail.objects.values()))

    joined = accept(guest, token)
    assert joined.pk == alice.organization.pk
    assert Membership.objects.get(organization=joined, user=guest.user).role == "developer"
    made.refresh_from_db()
    assert made.accepted_at is not None
    (event,) = AuditEvent.objects.filter(action="invitation.accepted", organization=joined)
    assert event.actor_id == str(guest.user.pk)


def test_an_invitation_works_once(alice: Person) -> None:
    guest = make_person()
    _, token = make_invitation(alice.organization, email=guest.user.email)
    accept(guest, token)
    with pytest.raises(InvitationUnusable, match="accepted before"):
        accept(guest, token)


def test_an_invitation_is_no_good_to_anybody_else(alice: Person, charlie: Person) -> None:
    _, token = make_invitation(alice.organization)
    with pytest.raises(InvitationUnusable, match="another address"):
        accept(charlie, token)


def test_an_address_counts_only_when_it_is_confirmed(alice: Person) -> None:
    guest = make_person()
    _, token = make_invitation(alice.organization, email=guest.user.email)
    EmailAddress.objects.filter(user=guest.user).update(verified=False)
    with pytest.raises(InvitationUnusable, match="another address"):
        accept(guest, token)


def test_an_expired_or_withdrawn_invitation_is_useless(alice: Person) -> None:
    guest = make_person()
    _, old = make_invitation(
        alice.organization, email=guest.user.email, expires_at=timezone.now() - timedelta(seconds=1)
    )
    with pytest.raises(InvitationUnusable, match="has expired"):
        accept(guest, old)
    fresh = invite(alice, guest.user.email)
    services.revoke_invitation(actor=alice.actor, invitation_id=fresh.pk)
    with pytest.raises(InvitationUnusable, match="was withdrawn"):
        accept(guest, tokens.invitation_token(fresh.pk, fresh.expires_at))


def test_a_forged_token_finds_nothing(charlie: Person) -> None:
    with pytest.raises(NotFound):
        accept(charlie, "0" * 64)
    with pytest.raises(NotFound):
        selectors.presented_invitation("\x00")


def test_sending_again_makes_the_old_link_worthless(alice: Person) -> None:
    guest = make_person()
    invitation, old = make_invitation(alice.organization, email=guest.user.email)
    services.resend_invitation(actor=alice.actor, invitation_id=invitation.pk)
    with pytest.raises(NotFound):
        accept(guest, old)
    (message,) = deliver_all()
    accept(guest, link_in(message, "invitations/").rpartition("/")[2])


@pytest.mark.parametrize("email", ["", "nobody", "a@b", "x@example.com\nBcc: y@example.com"])
def test_an_invalid_address_is_refused(alice: Person, email: str) -> None:
    with pytest.raises(InvalidMember, match="not an e-mail address"):
        invite(alice, email)


def test_a_member_and_an_invited_address_are_not_invited_again(alice: Person, bob: Person) -> None:
    with pytest.raises(InvalidMember, match="belongs to a member"):
        invite(alice, bob.user.email)
    guest = f"{unique('guest')}@example.com"
    invite(alice, guest)
    with pytest.raises(InvalidMember, match="invited already"):
        invite(alice, guest.title())


@pytest.mark.parametrize("role", ["owner", "king", ""])
def test_a_role_that_cannot_be_given_is_refused(alice: Person, role: str) -> None:
    with pytest.raises(InvalidMember, match="not a role that you can give"):
        invite(alice, f"{unique('guest')}@example.com", role)


def test_open_invitations_take_seats(alice: Person, bob: Person) -> None:
    invite(alice, f"{unique('guest')}@example.com", limit=3)
    with pytest.raises(EntitlementExceeded) as refused:
        invite(alice, f"{unique('guest')}@example.com", limit=3)
    assert refused.value.details == {"limit": 3, "used": 3}


def test_a_seat_taken_meanwhile_is_not_given_twice(alice: Person, bob: Person) -> None:
    guest = make_person()
    _, token = make_invitation(alice.organization, email=guest.user.email)
    with pytest.raises(EntitlementExceeded):
        accept(guest, token, limit=2)
    accept(guest, token, limit=3)


def test_a_member_does_not_join_twice(alice: Person) -> None:
    guest = make_person()
    _, token = make_invitation(alice.organization, email=guest.user.email)
    Membership.objects.create(organization=alice.organization, user=guest.user, role="viewer")
    with pytest.raises(InvalidMember, match="member of this organization already"):
        accept(guest, token)


def test_only_who_may_write_members_invites(alice: Person, bob: Person) -> None:
    with pytest.raises(NotPermitted):
        services.invite_member(actor=bob.actor, email="x@example.com", role="viewer", member_limit=five)
    admin = make_person(alice.organization, role=Role.ADMIN)
    assert invite(admin, make_user().email, "admin").role == "admin"


def test_another_organizations_invitation_does_not_exist(alice: Person, charlie: Person) -> None:
    invitation, _ = make_invitation(charlie.organization)
    with pytest.raises(NotFound):
        services.revoke_invitation(actor=alice.actor, invitation_id=invitation.pk)
    with pytest.raises(NotFound):
        services.resend_invitation(actor=alice.actor, invitation_id=invitation.pk)


def test_the_links_holder_reads_where_it_leads(alice: Person) -> None:
    invitation, token = make_invitation(alice.organization)
    view = selectors.presented_invitation(token)
    assert (view.organization_name, view.email, view.role, view.state) == (
        "Acorn",
        invitation.email,
        "developer",
        "pending",
    )
