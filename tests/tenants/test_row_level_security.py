"""The second wall: with every query set's filter taken away, one organization still sees nothing of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import ProgrammingError, connection, transaction

from tenants import services
from tenants.actor import Actor
from tenants.models import AuditEvent, Credential, Membership, Organization
from tenants.roles import Role
from tenants.scoping import OrganizationQuerySet, scope
from tests.conftest import RestClient, set_role, web_role
from tests.factories import (
    Person,
    make_audience,
    make_credential,
    make_invitation,
    make_organization,
    make_person,
)

pytestmark = pytest.mark.django_db

OWNED_TABLES = """
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'organization_id'
    ORDER BY table_name
"""


@pytest.fixture
def no_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the first wall away: whoever asks for one organization gets the rows of all."""
    monkeypatch.setattr(OrganizationQuerySet, "for_organization", lambda self, organization_id: self.all())


@pytest.fixture
def birch_rows(charlie: Person) -> dict[str, Any]:
    """One row of everything that Birch could own here."""
    member = make_person(charlie.organization, role=Role.VIEWER, email="hidden-member@birch.example")
    invitation, token = make_invitation(charlie.organization, email="hidden-guest@birch.example")
    credential = make_credential(charlie, name="hidden-credential")
    services.create_organization(actor=charlie.actor, name="Hidden Birch")
    make_credential(charlie, name="hidden-engine-client", audience_id=make_audience(charlie.organization).pk)
    return {
        "member": member.membership.pk,
        "invitation": invitation.pk,
        "token": token,
        "credential": credential.credential.pk,
        "secret": credential.secret_row.pk,
    }


def tables_with_organization() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(OWNED_TABLES)
        return [name for (name,) in cursor.fetchall()]


def rows_seen(table: str, organization_column: str = "organization_id") -> set[str]:
    """The organizations of all the rows that the current role and scope show."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {organization_column}::text FROM {table}")
        return {value for (value,) in cursor.fetchall()}


@pytest.fixture
def as_web(alice: Person, charlie: Person) -> Iterator[None]:
    with web_role():
        yield


def test_every_table_with_an_organization_stands_behind_the_wall() -> None:
    tables = [*tables_with_organization(), "tenants_organization"]
    assert "tenants_credential" in tables
    assert "provisioning_cluster" in tables
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relkind = 'r'")
        walled = {name for (name,) in cursor.fetchall()}
        cursor.execute(
            "SELECT tablename, array_agg(cmd ORDER BY cmd) FROM pg_policies WHERE 'flowplane_app' = ANY (roles)"
            " AND schemaname = 'public' GROUP BY tablename"
        )
        policies = dict(cursor.fetchall())
    assert [table for table in tables if table not in walled] == []
    assert [table for table in tables if table not in policies] == []


def test_no_role_of_ours_walks_around_the_wall() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname FROM pg_roles"
            " WHERE rolname LIKE 'flowplane%' AND (rolbypassrls OR rolsuper OR rolcreaterole)"
        )
        assert cursor.fetchall() == []
        cursor.execute("SELECT rolinherit FROM pg_roles WHERE rolname = 'flowplane_app'")
        assert cursor.fetchone() == (False,)


@pytest.mark.usefixtures("birch_rows", "as_web")
def test_without_a_scope_nothing_is_seen(alice: Person) -> None:
    assert {table: rows_seen(table) for table in tables_with_organization() if rows_seen(table)} == {}
    assert rows_seen("tenants_organization", "id") == set()


@pytest.mark.usefixtures("birch_rows", "as_web")
def test_a_scope_shows_its_own_organization_only(alice: Person) -> None:
    scope(organization_id=alice.organization.pk, user_id=alice.user.pk)
    own = {str(alice.organization.pk)}
    for table in tables_with_organization():
        assert rows_seen(table) <= own, table
    assert rows_seen("tenants_organization", "id") == own
    assert rows_seen("tenants_membership") == own


@pytest.mark.usefixtures("as_web")
def test_nothing_is_written_into_another_organization(alice: Person, charlie: Person) -> None:
    scope(organization_id=alice.organization.pk, user_id=alice.user.pk)
    with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        Membership.objects.create(organization=charlie.organization, user=alice.user, role="admin")
    with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        Membership.objects.filter(pk=alice.membership.pk).update(organization_id=charlie.organization.pk)
    assert Membership.objects.filter(pk=charlie.membership.pk).update(role="viewer") == 0
    assert Membership.objects.filter(pk=charlie.membership.pk).delete()[0] == 0
    assert Organization.objects.filter(pk=charlie.organization.pk).update(name="Mine") == 0


def test_being_a_member_elsewhere_shows_and_changes_only_ones_own_row_there(alice: Person, charlie: Person) -> None:
    own = Membership.objects.create(organization=charlie.organization, user=alice.user, role="viewer")
    with web_role():
        scope(organization_id=alice.organization.pk, user_id=alice.user.pk)
        there = Membership.objects.filter(organization=charlie.organization)
        assert [one.pk for one in there] == [own.pk]
        assert there.update(role="admin") == 0
        assert there.delete()[0] == 0


@pytest.mark.parametrize("role", ["NONE", "flowplane_system"])
@pytest.mark.parametrize("statement", ["UPDATE tenants_auditevent SET action = 'x'", "DELETE FROM tenants_auditevent"])
def test_nobody_rewrites_the_audit_trail(role: str, statement: str) -> None:
    set_role(role)
    with (
        connection.cursor() as cursor,
        pytest.raises(ProgrammingError, match="permission denied"),
        transaction.atomic(),
    ):
        cursor.execute(statement)
    set_role("flowplane_system")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tenants_signingkey (kid) VALUES ('x')",
        "DELETE FROM tenants_signingkey",
        "SELECT address FROM tenants_outgoingmail",
        "UPDATE tenants_outgoingmail SET address = 'x'",
        "DELETE FROM tenants_organization",
        "DELETE FROM tenants_credential",
        "ALTER TABLE tenants_membership DISABLE ROW LEVEL SECURITY",
        "SET LOCAL ROLE flowplane_owner",
    ],
)
@pytest.mark.usefixtures("as_web")
def test_a_web_request_may_not(statement: str) -> None:
    refusal = "permission denied|must be owner"
    with connection.cursor() as cursor, pytest.raises(ProgrammingError, match=refusal), transaction.atomic():
        cursor.execute(statement)


READS = [
    "/api/v1/me",
    "/api/v1/organizations",
    "/api/v1/organizations/current",
    "/api/v1/members?limit=100",
    "/api/v1/invitations?limit=100",
    "/api/v1/audit-events?limit=100",
    "/api/v1/api-credentials?limit=100",
    "/api/v1/clusters?limit=100",
    "/api/v1/operations?limit=100",
]


@pytest.mark.usefixtures("birch_rows", "no_filters")
@pytest.mark.parametrize("path", READS)
def test_with_no_filter_left_no_list_leaks(api: Any, alice: Person, charlie: Person, path: str) -> None:
    answer = api(alice).get(path)
    assert answer.status_code == 200
    shown = answer.content.decode().lower()
    assert "birch" not in shown
    assert "hidden" not in shown
    assert charlie.user.email not in shown
    assert str(charlie.organization.pk) not in shown


@pytest.mark.usefixtures("birch_rows", "no_filters")
@pytest.mark.parametrize("path", [path for path in READS if "/organizations" not in path])
def test_with_no_filter_left_no_list_leaks_to_a_program(bearer: Any, alice: Person, path: str) -> None:
    scopes = ("organization:read", "members:read", "credentials:read", "clusters:read", "audit:read")
    answer = bearer(alice, *scopes).get(path)
    assert answer.status_code == 200
    assert "birch" not in answer.content.decode().lower()


def attempts(rows: dict[str, Any]) -> list[tuple[str, str, dict[str, Any] | None]]:
    credential = f"/api/v1/api-credentials/{rows['credential']}"
    return [
        ("patch", f"/api/v1/members/{rows['member']}", {"role": "admin"}),
        ("delete", f"/api/v1/members/{rows['member']}", None),
        ("post", "/api/v1/organizations/current/transfer", {"member_id": str(rows["member"])}),
        ("delete", f"/api/v1/invitations/{rows['invitation']}", None),
        ("post", f"/api/v1/invitations/{rows['invitation']}/resend", {}),
        ("get", credential, None),
        ("patch", credential, {"name": "mine"}),
        ("delete", credential, None),
        ("post", f"{credential}/secrets", {}),
        ("delete", f"{credential}/secrets/{rows['secret']}", None),
    ]


def foreign_state(organization: Organization) -> str:
    with connection.cursor() as cursor:
        state = []
        for table in tables_with_organization():
            cursor.execute(f"SELECT * FROM {table} WHERE organization_id = %s ORDER BY 1", [organization.pk])
            state.append((table, cursor.fetchall()))
        return str(state)


@pytest.mark.parametrize("is_filtered", [True, False])
def test_another_organizations_ids_are_404_and_change_nothing(
    is_filtered: bool, api: Any, alice: Person, charlie: Person, birch_rows: dict[str, Any], request: Any
) -> None:
    if not is_filtered:
        request.getfixturevalue("no_filters")
    client: RestClient = api(alice)
    before = foreign_state(charlie.organization)
    for method, path, body in attempts(birch_rows):
        answer = getattr(client, method)(path, body, format="json")
        unknown = path
        for known in birch_rows.values():
            unknown = unknown.replace(str(known), str(uuid4()))
        missing_body = {"member_id": str(uuid4())} if body and "member_id" in body else body
        missing = getattr(client, method)(unknown, missing_body, format="json")
        assert answer.status_code == 404, (method, path)
        assert {**answer.json(), "request_id": ""} == {**missing.json(), "request_id": ""}, "as if it did not exist"
    assert foreign_state(charlie.organization) == before


def test_a_session_does_not_act_in_another_organization(api: Any, alice: Person, charlie: Person) -> None:
    client = api(alice)
    for other in (str(charlie.organization.pk), str(uuid4()), "x", "'; --", "\x00"):
        client.credentials(HTTP_X_ORGANIZATION=other)
        assert client.get("/api/v1/members").status_code == 404, other


def test_services_work_as_the_web_process_within_a_scope(alice: Person) -> None:
    """What other tests do as the system must hold for the role that really does it."""
    with web_role():
        scope(organization_id=alice.organization.pk, user_id=alice.user.pk)
        actor: Actor = alice.actor
        made = services.create_organization(actor=actor, name="Third")
        services.rename_organization(actor=actor, name="Oak")
        services.invite_member(actor=actor, email="guest@example.com", role="viewer", member_limit=lambda _: 9)
        audience = services.open_audience(organization_id=alice.organization.pk)
        new = services.create_credential(actor=actor, name="worker", audience_id=audience.pk, limit=3)
        services.add_secret(actor=actor, credential_id=new.credential.pk)
        services.revoke_credential(actor=actor, credential_id=new.credential.pk)
        services.advance_audience(audience.pk)
        services.close_audience(audience.pk)
        assert not AuditEvent.objects.filter(organization=made).exists(), "the scope is Acorn's again"
        assert Credential.objects.filter(pk=new.credential.pk).exists()
    assert AuditEvent.objects.filter(organization=made, action="organization.created").exists()


def test_a_person_joins_through_an_invitation_as_the_web_process(alice: Person) -> None:
    guest = make_person(make_organization())
    _, token = make_invitation(alice.organization, email=guest.user.email)
    with web_role():
        scope(organization_id=guest.organization.pk, user_id=guest.user.pk)
        services.accept_invitation(actor=guest.actor, token=token, member_limit=lambda _: 9)
    assert Membership.objects.filter(organization=alice.organization, user=guest.user).exists()
