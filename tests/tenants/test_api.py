"""The REST door of organizations, members, invitations, audit and API credentials."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.api.throttling import OrganizationThrottle
from tenants.models import Invitation, Membership, Organization
from tenants.roles import Role
from tests.conftest import RestClient
from tests.factories import Person, make_audience, make_credential, make_invitation, make_person, make_user, unique
from tests.tenants.mailbox import deliver_all, link_in

pytestmark = pytest.mark.django_db


def problem(answer: Any) -> tuple[int, str, str]:
    """Status, code and sentence of a refused request."""
    assert answer["Content-Type"] == "application/problem+json", answer.content
    body = answer.json()
    assert body["status"] == answer.status_code
    return answer.status_code, body["code"], body["detail"]


def test_me_says_who_asks_and_what_is_permitted(api: Any, bob: Person) -> None:
    body = api(bob).get("/api/v1/me").json()
    assert body == {
        "kind": "person",
        "label": bob.user.email,
        "organization_id": str(bob.organization.pk),
        "permissions": [
            "clusters:read",
            "clusters:write",
            "credentials:read",
            "credentials:write",
            "members:read",
            "organization:read",
        ],
    }


def test_one_organization_does_not_take_the_door_from_others(
    api: Any, bearer: Any, alice: Person, charlie: Person, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.API_REQUESTS = {"reads": 3, "writes": 2}
    now = 1000.0
    monkeypatch.setattr(OrganizationThrottle, "timer", staticmethod(lambda: now))
    mine, program, other = api(alice), bearer(alice, "organization:read"), api(charlie)
    assert [client.get("/api/v1/me").status_code for client in (mine, program, mine, program)] == [200, 200, 200, 429]
    refused = mine.get("/api/v1/me")
    assert problem(refused) == (
        429,
        "too_many_requests",
        "Your organization asks for too much at once. Ask again in 10 s.",
    )
    assert refused["Retry-After"] == "10"
    assert [mine.post("/api/v1/invitations", {}, format="json").status_code for _ in range(3)] == [400, 400, 429]
    assert other.get("/api/v1/me").status_code == 200
    now += 10.1
    assert mine.get("/api/v1/me").status_code == 200


def test_a_person_makes_a_first_organization(anonymous: RestClient) -> None:
    anonymous.force_login(make_user())
    assert anonymous.get("/api/v1/me").json()["organization_id"] is None
    answer = anonymous.post("/api/v1/organizations", {"name": "First"}, format="json")
    assert answer.status_code == 201
    assert answer.json() == {**answer.json(), "name": "First", "role": "owner"}
    assert anonymous.get("/api/v1/me").json()["organization_id"] == answer.json()["id"]
    assert [one["name"] for one in anonymous.get("/api/v1/organizations").json()["items"]] == ["First"]


def test_outside_all_organizations_one_is_told_to_choose(anonymous: RestClient) -> None:
    anonymous.force_login(make_user())
    assert problem(anonymous.get("/api/v1/members"))[:2] == (403, "not_permitted")


def test_a_program_makes_no_organization(bearer: Any, alice: Person) -> None:
    answer = bearer(alice, "organization:read").post("/api/v1/organizations", {"name": "Mine"}, format="json")
    assert problem(answer)[:2] == (403, "not_permitted")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "invalid_request", "name"),
        ({"name": ""}, "invalid_name", "it is empty"),
        ({"name": "x" * 51}, "invalid_name", "has 51 characters"),
        ({"name": "a\u202eb"}, "invalid_name", "U+202E"),
        ({"name": "bell\x07"}, "invalid_name", "U+0007"),
        ({"name": "nul\x00"}, "invalid_request", "name"),
        ({"name": ["x"]}, "invalid_request", "name"),
        ({"name": "x", "colour": "red"}, "invalid_request", "colour"),
        ({"name": "x", "id": "00000000-0000-0000-0000-000000000000"}, "invalid_request", "id"),
        ([], "invalid_request", ""),
        ("x", "invalid_request", ""),
    ],
)
def test_a_bad_organization_is_refused_with_a_sentence(
    api: Any, alice: Person, body: Any, code: str, words: str
) -> None:
    before = Organization.objects.count()
    status, found, sentence = problem(api(alice).post("/api/v1/organizations", body, format="json"))
    assert (status, found) == (400, code)
    assert words in sentence
    assert Organization.objects.count() == before


def test_the_current_organization_has_its_plan_and_can_be_renamed(api: Any, alice: Person) -> None:
    body = api(alice).get("/api/v1/organizations/current").json()
    assert body["plan"] == {
        "slug": "free",
        "name": "Free",
        "max_clusters": 2,
        "max_members": 5,
        "max_credentials_per_cluster": 10,
    }
    renamed = api(alice).patch("/api/v1/organizations/current", {"name": "Oak"}, format="json")
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Oak")


def test_members_are_listed_changed_and_removed(api: Any, alice: Person, bob: Person) -> None:
    client = api(alice)
    items = client.get("/api/v1/members").json()["items"]
    assert {(one["email"], one["role"]) for one in items} == {
        (alice.user.email, "owner"),
        (bob.user.email, "developer"),
    }
    changed = client.patch(f"/api/v1/members/{bob.membership.pk}", {"role": "viewer"}, format="json")
    assert changed.json()["role"] == "viewer"
    assert client.delete(f"/api/v1/members/{bob.membership.pk}").status_code == 204
    assert problem(api(bob).get("/api/v1/members"))[0] == 404, "access ends at once"


def test_a_removed_members_session_finds_no_organization_any_more(
    browser: Any, api: Any, alice: Person, bob: Person
) -> None:
    api(alice).delete(f"/api/v1/members/{bob.membership.pk}")
    assert browser(bob).get("/api/v1/me").json()["organization_id"] is None


@pytest.mark.parametrize("role", ["owner", "king", "", None, 7])
def test_a_wrong_role_is_refused(api: Any, alice: Person, bob: Person, role: Any) -> None:
    answer = api(alice).patch(f"/api/v1/members/{bob.membership.pk}", {"role": role}, format="json")
    assert problem(answer)[0] == 400


def test_the_last_owner_stays(api: Any, alice: Person) -> None:
    client = api(alice)
    path = f"/api/v1/members/{alice.membership.pk}"
    assert problem(client.delete(path))[:2] == (409, "last_owner")
    assert problem(client.patch(path, {"role": "viewer"}, format="json"))[:2] == (409, "last_owner")


def test_ownership_is_handed_over(api: Any, alice: Person, bob: Person) -> None:
    body = {"member_id": str(bob.membership.pk)}
    assert api(alice).post("/api/v1/organizations/current/transfer", body, format="json").status_code == 204
    assert problem(api(alice).post("/api/v1/organizations/current/transfer", body, format="json"))[0] == 403
    assert Membership.objects.get(pk=bob.membership.pk).role == "owner"


def test_an_invitation_travels_by_mail_only(api: Any, alice: Person) -> None:
    guest = make_person()
    made = api(alice).post("/api/v1/invitations", {"email": guest.user.email, "role": "developer"}, format="json")
    assert made.status_code == 201
    assert set(made.json()) == {"id", "email", "role", "created_at", "expires_at"}
    assert [one["email"] for one in api(alice).get("/api/v1/invitations").json()["items"]] == [guest.user.email]
    (message,) = deliver_all()
    token = link_in(message, "invitations/").rpartition("/")[2]
    joined = api(guest).post("/api/v1/invitations/accept", {"token": token}, format="json")
    assert (joined.status_code, joined.json()["name"], joined.json()["role"]) == (200, "Acorn", "developer")
    replay = api(guest).post("/api/v1/invitations/accept", {"token": token}, format="json")
    assert problem(replay)[:2] == (409, "invitation_unusable")


def test_an_invitation_is_withdrawn(api: Any, alice: Person) -> None:
    invitation, _ = make_invitation(alice.organization)
    path = f"/api/v1/invitations/{invitation.pk}"
    assert api(alice).delete(path).status_code == 204
    assert problem(api(alice).delete(path))[:2] == (409, "invitation_unusable")


def test_the_plan_says_how_many_are_invited(api: Any, alice: Person) -> None:
    client = api(alice)
    answers = [
        client.post("/api/v1/invitations", {"email": f"{unique('g')}@example.com", "role": "viewer"}, format="json")
        for _ in range(5)
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 201, 403]
    assert problem(answers[-1])[1] == "entitlement_exceeded"
    assert Invitation.objects.filter(organization=alice.organization).count() == 4


def test_audit_events_name_actor_target_and_change(api: Any, alice: Person) -> None:
    api(alice).patch("/api/v1/organizations/current", {"name": "Oak"}, format="json", headers={"X-Request-Id": "req7"})
    (event,) = api(alice).get("/api/v1/audit-events").json()["items"]
    assert event["action"] == "organization.renamed"
    assert event["actor"] == {"kind": "person", "id": str(alice.user.pk), "label": alice.user.email}
    assert event["target"] == {"kind": "organization", "id": str(alice.organization.pk)}
    assert event["changes"] == {"name": ["Acorn", "Oak"]}
    assert (event["source_address"], event["request_id"]) == ("127.0.0.1", "req7")


def test_a_developer_does_not_read_the_audit_trail(api: Any, bob: Person) -> None:
    assert problem(api(bob).get("/api/v1/audit-events"))[:2] == (403, "not_permitted")


def test_pages_reach_every_event_once(api: Any, alice: Person) -> None:
    client = api(alice)
    for number in range(5):
        client.patch("/api/v1/organizations/current", {"name": f"Oak {number}"}, format="json")
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/api/v1/audit-events", {"limit": 2, "cursor": cursor}).json()
        seen += [event["changes"]["name"][1] for event in page["items"]]
        cursor = page["next_cursor"]
    assert seen == ["Oak 4", "Oak 3", "Oak 2", "Oak 1", "Oak 0"]


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": "bogus"}, {"cursor": "AAAA"}]
)
def test_a_bad_page_is_refused(api: Any, alice: Person, query: dict[str, Any]) -> None:
    assert problem(api(alice).get("/api/v1/members", query))[0] == 400


def test_an_api_credential_lives_its_life(api: Any, alice: Person) -> None:
    client = api(alice)
    body = {"name": "pipeline", "scopes": ["clusters:read"], "expires_at": "2099-01-01T00:00:00Z"}
    made = client.post("/api/v1/api-credentials", body, format="json")
    assert made.status_code == 201
    created = made.json()
    assert created["client_secret"].startswith(created["secret_prefix"])
    path = f"/api/v1/api-credentials/{created['id']}"
    shown = client.get(path).json()
    assert "client_secret" not in shown
    assert [secret["prefix"] for secret in shown["secrets"]] == [created["secret_prefix"]]
    changed = client.patch(path, {"is_disabled": True, "expires_at": None}, format="json").json()
    assert (changed["is_disabled"], changed["expires_at"], changed["name"]) == (True, None, "pipeline")
    second = client.post(f"{path}/secrets", {}, format="json")
    assert second.status_code == 201
    assert problem(client.post(f"{path}/secrets", {}, format="json"))[:2] == (409, "credential_limit")
    assert client.delete(f"{path}/secrets/{second.json()['id']}").status_code == 204
    assert len(client.get(path).json()["secrets"]) == 1
    assert client.delete(path).status_code == 204
    assert problem(client.get(path))[0] == 404
    assert client.get("/api/v1/api-credentials").json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": ["api_credentials:write"]},
        {"name": "x", "scopes": ["clusters:read"], "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["clusters:read"], "expires_at": "soon"},
        {"name": "", "scopes": ["clusters:read"]},
        {"name": "x", "scopes": ["clusters:read"], "client_id": "mine"},
    ],
)
def test_a_bad_api_credential_is_refused(api: Any, alice: Person, body: dict[str, Any]) -> None:
    assert problem(api(alice).post("/api/v1/api-credentials", body, format="json"))[0] == 400
    assert api(alice).get("/api/v1/api-credentials").json()["items"] == []


def test_a_clusters_credential_is_not_found_among_the_apis(api: Any, alice: Person) -> None:
    from_cluster = make_credential(alice, audience_id=make_audience(alice.organization).pk).credential
    assert problem(api(alice).get(f"/api/v1/api-credentials/{from_cluster.pk}"))[0] == 404
    assert problem(api(alice).delete(f"/api/v1/api-credentials/{from_cluster.pk}"))[0] == 404


def test_a_replayed_creation_answers_without_the_secret(api: Any, alice: Person) -> None:
    body = {"name": "pipeline", "scopes": ["clusters:read"]}
    key = {"Idempotency-Key": unique("key")}
    first = api(alice).post("/api/v1/api-credentials", body, format="json", headers=key)
    again = api(alice).post("/api/v1/api-credentials", body, format="json", headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotent-Replay"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["client_secret"] is None


def test_a_browser_must_show_its_csrf_token(alice: Person) -> None:
    strict = RestClient(enforce_csrf_checks=True)
    strict.force_login(alice.user)
    answer = strict.patch("/api/v1/organizations/current", {"name": "Oak"}, format="json")
    assert answer.status_code == 403


ROLE_TABLE: dict[str, set[Role]] = {
    "/api/v1/organizations/current": set(Role),
    "/api/v1/members": set(Role),
    "/api/v1/invitations": set(Role),
    "/api/v1/audit-events": {Role.OWNER, Role.ADMIN},
    "/api/v1/api-credentials": {Role.OWNER, Role.ADMIN, Role.DEVELOPER, Role.VIEWER},
}


@pytest.mark.parametrize("role", list(Role))
def test_each_role_reads_what_it_may(api: Any, alice: Person, role: Role) -> None:
    person = alice if role is Role.OWNER else make_person(alice.organization, role=role)
    client = api(person)
    for path, allowed in ROLE_TABLE.items():
        assert client.get(path).status_code == (200 if role in allowed else 403), path


def test_a_newcomer_s_repeated_request_makes_one_organization(db: None) -> None:
    client = RestClient()
    client.force_login(make_user())
    key = {"Idempotency-Key": unique("key")}
    answers = [client.post("/api/v1/organizations", {"name": "Oak"}, format="json", headers=key) for _ in "12"]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[1]["Idempotent-Replay"] == "true"
    assert answers[0].json() == answers[1].json()


def test_a_newcomer_s_repeated_acceptance_is_answered_alike(alice: Person) -> None:
    newcomer, client = make_user(), RestClient()
    client.force_login(newcomer)
    _, token = make_invitation(alice.organization, email=newcomer.email)
    key = {"Idempotency-Key": unique("key")}
    body = {"token": token}
    answers = [client.post("/api/v1/invitations/accept", body, format="json", headers=key) for _ in "12"]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
