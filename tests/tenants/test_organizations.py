"""Organizations and their members, by the rules of the services."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from common.errors import NotFound, NotPermitted
from tenants import selectors, services
from tenants.errors import InvalidMember, InvalidName, LastOwner
from tenants.models import AuditEvent, Membership, Organization
from tenants.roles import Permission, Role
from tests.factories import Person, make_actor, make_membership, make_organization, make_person

pytestmark = pytest.mark.django_db


def roles_in(organization: Organization) -> dict[str, str]:
    return {member.user.email: member.role for member in Membership.objects.for_organization(organization.pk)}


def events_about(target_id: object) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(target_id=str(target_id)).order_by("at", "id"))


def test_whoever_makes_an_organization_owns_it(charlie: Person) -> None:
    made = services.create_organization(actor=charlie.actor, name="  Second  ")
    assert made.name == "Second"
    assert roles_in(made) == {charlie.user.email: "owner"}
    (event,) = events_about(made.pk)
    assert (event.action, event.organization_id, event.changes) == (
        "organization.created",
        made.pk,
        {"name": [None, "Second"]},
    )
    assert (event.actor_kind, event.actor_id, event.actor_label) == ("person", str(charlie.user.pk), charlie.user.email)
    assert (event.source_address, event.request_id) == ("192.0.2.1", "test")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("x" * 51, "has 51 characters; 50 is the most"),
        ("line\nbreak", "invisible or a control character"),
        ("abc\u202edef", "(U+202E) is invisible"),
        ("zero\u200bwidth", "(U+200B) is invisible"),
        ("nul\x00", "(U+0000) is invisible"),
    ],
)
def test_a_misleading_name_is_refused_and_nothing_is_made(charlie: Person, name: str, sentence: str) -> None:
    before = Organization.objects.count()
    with pytest.raises(InvalidName, match=r".") as refused:
        services.create_organization(actor=charlie.actor, name=name)
    assert sentence in refused.value.message
    assert refused.value.details["field"] == "name"
    assert Organization.objects.count() == before


def test_renaming_is_audited_with_both_names(alice: Person) -> None:
    services.rename_organization(actor=alice.actor, name="Oak")
    (event,) = events_about(alice.organization.pk)
    assert event.changes == {"name": ["Acorn", "Oak"]}


def test_renaming_to_the_same_name_leaves_no_event(alice: Person) -> None:
    services.rename_organization(actor=alice.actor, name="Acorn")
    assert events_about(alice.organization.pk) == []


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.BILLING, Role.VIEWER])
def test_a_weak_role_changes_neither_name_nor_members(acorn: Organization, alice: Person, role: Role) -> None:
    weak = make_person(acorn, role=role)
    with pytest.raises(NotPermitted):
        services.rename_organization(actor=weak.actor, name="Mine")
    with pytest.raises(NotPermitted):
        services.change_role(actor=weak.actor, membership_id=weak.membership.pk, role="admin")
    with pytest.raises(NotPermitted):
        services.remove_member(actor=weak.actor, membership_id=alice.membership.pk)


def test_an_owner_changes_a_members_role(alice: Person, bob: Person) -> None:
    services.change_role(actor=alice.actor, membership_id=bob.membership.pk, role="billing")
    assert roles_in(alice.organization)[bob.user.email] == "billing"
    (event,) = events_about(bob.membership.pk)
    assert (event.action, event.changes) == ("member.role_changed", {"role": ["developer", "billing"]})


@pytest.mark.parametrize("role", ["owner", "king", ""])
def test_a_role_that_cannot_be_given_is_refused_with_the_choices(alice: Person, bob: Person, role: str) -> None:
    with pytest.raises(InvalidMember) as refused:
        services.change_role(actor=alice.actor, membership_id=bob.membership.pk, role=role)
    assert "Choose one of: admin, billing, developer, viewer." in refused.value.message
    assert roles_in(alice.organization)[bob.user.email] == "developer"


def test_nobody_takes_the_role_or_the_membership_of_the_owner(alice: Person) -> None:
    admin = make_person(alice.organization, role=Role.ADMIN)
    with pytest.raises(LastOwner):
        services.change_role(actor=admin.actor, membership_id=alice.membership.pk, role="viewer")
    with pytest.raises(LastOwner):
        services.remove_member(actor=admin.actor, membership_id=alice.membership.pk)
    with pytest.raises(LastOwner):
        services.leave_organization(actor=alice.actor)


def test_a_member_leaves_without_asking(bob: Person) -> None:
    services.leave_organization(actor=bob.actor)
    assert bob.user.email not in roles_in(bob.organization)


def test_removing_a_member_says_whom(alice: Person, bob: Person) -> None:
    services.remove_member(actor=alice.actor, membership_id=bob.membership.pk)
    assert bob.user.email not in roles_in(alice.organization)
    (event,) = events_about(bob.membership.pk)
    assert event.changes == {"email": [bob.user.email, None], "role": ["developer", None]}


def test_a_transfer_makes_one_owner_of_two_people(alice: Person, bob: Person) -> None:
    services.transfer_ownership(actor=alice.actor, membership_id=bob.membership.pk)
    assert roles_in(alice.organization) == {alice.user.email: "admin", bob.user.email: "owner"}


def test_only_the_owner_transfers_and_not_to_itself(alice: Person, bob: Person) -> None:
    admin = make_person(alice.organization, role=Role.ADMIN)
    with pytest.raises(NotPermitted):
        services.transfer_ownership(actor=admin.actor, membership_id=admin.membership.pk)
    with pytest.raises(InvalidMember):
        services.transfer_ownership(actor=alice.actor, membership_id=alice.membership.pk)


def test_another_organizations_member_does_not_exist(alice: Person, charlie: Person) -> None:
    for change in (
        lambda: services.change_role(actor=alice.actor, membership_id=charlie.membership.pk, role="viewer"),
        lambda: services.remove_member(actor=alice.actor, membership_id=charlie.membership.pk),
        lambda: services.transfer_ownership(actor=alice.actor, membership_id=charlie.membership.pk),
    ):
        with pytest.raises(NotFound):
            change()


def test_the_database_allows_no_second_owner(alice: Person, bob: Person) -> None:
    with pytest.raises(IntegrityError, match="membership_one_owner"), transaction.atomic():
        Membership.objects.filter(pk=bob.membership.pk).update(role="owner")


def test_the_database_lets_no_organization_go_without_an_owner(alice: Person) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        Membership.objects.filter(pk=alice.membership.pk).delete()
        with pytest.raises(IntegrityError, match="would be without an owner"):
            cursor.execute("SET CONSTRAINTS membership_owner_stays IMMEDIATE")
        transaction.set_rollback(True)


def test_lists_show_ones_own_organizations_only(alice: Person, charlie: Person) -> None:
    make_membership(make_organization(name="Zebra"), user=alice.user, role="viewer")
    assert [(one.name, one.role) for one in selectors.organizations_of(alice.actor)] == [
        ("Acorn", "owner"),
        ("Zebra", "viewer"),
    ]


def test_members_are_listed_newest_first_with_their_addresses(alice: Person, bob: Person) -> None:
    assert {member.user.email for member in selectors.members_of(alice.actor)} == {alice.user.email, bob.user.email}


def test_reading_needs_the_permission_too(alice: Person) -> None:
    nobody = make_actor(alice.membership, permissions=frozenset())
    for read in (
        selectors.organization,
        selectors.members_of,
        selectors.invitations_of,
        selectors.audit_events_of,
        selectors.credentials_of,
    ):
        with pytest.raises(NotPermitted):
            read(nobody)


def test_roles_that_may_be_given_are_never_stronger_than_ones_own(alice: Person, bob: Person) -> None:
    assert selectors.grantable_roles(alice.actor) == [Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER]
    assert selectors.grantable_roles(bob.actor) == []
    clerk = make_actor(bob.membership, permissions=bob.actor.permissions | {Permission.MEMBERS_WRITE})
    assert selectors.grantable_roles(clerk) == [Role.DEVELOPER, Role.VIEWER]
