"""Organizations, members and invitations in the console."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.urls import reverse

from tenants.models import Invitation, Membership, Organization
from tenants.roles import Role
from tests.conftest import WebClient
from tests.factories import Person, make_invitation, make_person, make_user

Browser = Callable[[Person], WebClient]


def page(name: str, *args: object) -> str:
    """A console page's address."""
    return reverse(f"console:{name}", args=args)


def test_a_new_organization_becomes_the_current_one(client: WebClient) -> None:
    client.force_login(make_user())
    answer = client.post(page("organization_new"), {"name": "Harbour Coffee"}, follow=True)
    assert answer.redirect_chain == [(page("clusters"), 302)]
    assert "Harbour Coffee" in answer.content.decode()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "Give it a name: it is empty."),
        ("o" * 60, "This name has 60 characters; 50 is the most."),
        ("Harb\u200eour", "Character 5 of this name (U+200E) is invisible"),
    ],
)
def test_a_bad_name_is_said_and_kept(client: WebClient, name: str, sentence: str) -> None:
    person = make_user()
    client.force_login(person)
    answer = client.post(page("organization_new"), {"name": name})
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert name in answer.content.decode()
    assert not Membership.objects.filter(user=person).exists()


def test_the_settings_rename(browser: Browser, alice: Person) -> None:
    session = browser(alice)
    assert "Saved." in session.post(page("organization"), {"name": "Oak"}, follow=True).content.decode()
    assert "Give it a name" in session.post(page("organization"), {"name": " "}).content.decode()
    alice.organization.refresh_from_db()
    assert alice.organization.name == "Oak"


def test_an_invitation_appears_and_is_withdrawn(browser: Browser, alice: Person) -> None:
    session = browser(alice)
    wish = {"email": "grace@example.com", "role": "developer"}
    assert "on its way to grace@example.com" in session.post(page("members"), wish, follow=True).content.decode()
    invitation = Invitation.objects.get(email="grace@example.com")
    session.post(page("invitation_resend", invitation.pk))
    text = session.post(page("invitation_revoke", invitation.pk), follow=True).content.decode()
    assert "The invitation was withdrawn." in text


@pytest.mark.parametrize(
    ("email", "sentence"),
    [("", "Whom do you invite?"), ("not an address", "This is not an e-mail address.")],
)
def test_a_bad_address_is_said_and_kept(browser: Browser, alice: Person, email: str, sentence: str) -> None:
    answer = browser(alice).post(page("members"), {"email": email, "role": "viewer"})
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert f'value="{email}"' in answer.content.decode() or not email


def test_a_developer_sees_members_and_invites_nobody(browser: Browser, bob: Person) -> None:
    session = browser(bob)
    assert "Invite somebody" not in session.get(page("members")).content.decode()
    session.post(page("members"), {"email": "grace@example.com", "role": "owner"})
    assert not Invitation.objects.for_organization(bob.organization.pk).exists()


def test_the_owner_changes_a_role_and_hands_over(browser: Browser, alice: Person, bob: Person) -> None:
    session = browser(alice)
    session.post(page("member_role", bob.membership.pk), {"role": "admin"})
    assert "becomes" not in session.get(page("ownership_transfer", bob.membership.pk)).content.decode()
    session.post(page("ownership_transfer", bob.membership.pk))
    bob.membership.refresh_from_db()
    assert bob.membership.role == Role.OWNER


def test_a_role_that_does_not_exist_is_said(browser: Browser, alice: Person, bob: Person) -> None:
    answer = browser(alice).post(page("member_role", bob.membership.pk), {"role": "emperor"}, follow=True)
    assert "Choose one of the roles in the list." in answer.content.decode()


def test_leaving_leads_home(browser: Browser, alice: Person, bob: Person) -> None:
    session, address = browser(bob), page("member_remove", bob.membership.pk)
    assert "Leave the organization" in session.get(address).content.decode()
    assert session.post(address, follow=True).redirect_chain[-1][0] == page("organization_new")


def test_the_owner_cannot_leave_and_is_told_why(browser: Browser, alice: Person) -> None:
    answer = browser(alice).post(page("member_remove", alice.membership.pk), follow=True)
    assert "Transfer the ownership" in answer.content.decode()


def test_an_invitation_says_what_it_offers_before_sign_in(client: WebClient, acorn: Organization) -> None:
    _, token = make_invitation(acorn, email="grace@example.com")
    answer = client.get(page("invitation", token))
    assert "Join “Acorn”" in answer.content.decode()
    assert "Sign up with this address" in answer.content.decode()
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_invited_person_joins_with_a_button(client: WebClient, acorn: Organization, alice: Person) -> None:
    grace = make_user(email="grace@example.com")
    _, token = make_invitation(acorn, email="grace@example.com")
    client.force_login(grace)
    assert "Accept the invitation" in client.get(page("invitation", token)).content.decode()
    text = client.post(page("invitation_accept", token), follow=True).content.decode()
    assert "Welcome to Acorn." in text
    assert "accepted before" in client.get(page("invitation", token)).content.decode()


def test_an_invitation_for_another_address_is_refused_with_a_sentence(
    browser: Browser, acorn: Organization, alice: Person, charlie: Person
) -> None:
    _, token = make_invitation(acorn, email="grace@example.com")
    text = browser(charlie).post(page("invitation_accept", token), follow=True).content.decode()
    assert "This invitation was sent to another address." in text


def test_the_audit_names_what_changed(browser: Browser, alice: Person) -> None:
    session = browser(alice)
    session.post(page("organization"), {"name": "Oak"})
    text = session.get(page("audit")).content.decode()
    assert "organization.renamed" in text
    assert "Acorn → Oak" in text


def test_the_list_of_roles_offers_only_what_one_may_give(browser: Browser, acorn: Organization, alice: Person) -> None:
    admin = make_person(acorn, role=Role.ADMIN)
    form = browser(admin).get(page("members")).context["form"]
    assert "owner" not in [value for value, _ in form.fields["role"].choices]
