"""Every address is walked as a member of another organization, with ids that exist: nothing is there.

The addresses come from the resolver. One that the walk does not know how to fill in fails the test, so a new page or
endpoint cannot be left out. The walk is taken twice: as the code is, and with the query sets' filters switched off, so
that only row-level security stands between the organizations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from provisioning import services
from tenants.scoping import OrganizationQuerySet
from tests.architecture.conftest import Belongings, imprint, undone
from tests.architecture.routes import Route, all_routes
from tests.conftest import RestClient, WebClient
from tests.factories import Person, make_user
from tests.provisioning.api.conftest import wish
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db

# Why some addresses with a parameter are not about an organization's objects.
HOLDERS = {
    "/invitations/<str:token>": "whoever holds the link may see the invitation; see tests/tenants/test_invitations.py",
    "/invitations/<str:token>/accept": "refuses every address but the invited one; see the same",
}
# Fragments that a page asks for again and again: an absent object sends the page away, whosever it was.
POLLED = ("/clusters/<uuid:cluster_id>/live",)
OTHERS = ("/accounts/", "/operator/")

# Bodies that are right, so that nothing but the missing object can be the reason for a refusal.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/api/v1/clusters/<uuid:cluster_id>/credentials"): {"name": "mine"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/resize"): {"plan_type": "small"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/upgrade"): {"release": "8.6.0"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/restore-backup"): {"backup": str(uuid4())},
    ("patch", "/api/v1/members/<uuid:member_id>"): {"role": "viewer"},
    ("post", "/members/<uuid:membership_id>/role"): {"role": "viewer"},
}

# Filters as they are, and all of them gone.
FILTERS = ("kept", "gone")


@pytest.fixture(params=FILTERS)
def filters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the first wall away: only the database's own is left."""
    if request.param == "gone":
        monkeypatch.setattr(OrganizationQuerySet, "for_organization", lambda rows, _organization_id: rows.all())
    return str(request.param)


def with_parameters(prefix: str) -> list[Route]:
    """Routes that name an object."""
    return [
        route
        for route in all_routes(prefix)
        if route.parameters and route.pattern not in HOLDERS and not route.pattern.startswith(OTHERS)
    ]


def without_parameters(prefix: str) -> list[Route]:
    """Routes that name none: lists and forms."""
    return [route for route in all_routes(prefix) if not route.parameters and not route.pattern.startswith(OTHERS)]


def call(client: Any, method: str, address: str, body: Any) -> Any:
    """One request, undone afterwards."""
    options = {"format": "json"} if isinstance(client, APIClient) else {}
    with undone():
        return getattr(client, method)(address, body, **options) if method != "get" else client.get(address)


def same_answer(one: Any, other: Any) -> bool:
    """Whether two problems differ in nothing but the request's id."""
    return {**one.json(), "request_id": ""} == {**other.json(), "request_id": ""}


def test_another_organizations_object_is_not_there_for_programs(
    acorns: Belongings, charlie: Person, api: Callable[[Person], APIClient], filters: str
) -> None:
    client, before = api(charlie), imprint(acorns.owner.organization)
    for route in with_parameters("/api/"):
        ids = acorns.ids_for(route.pattern)
        nobodys = dict.fromkeys(ids, str(uuid4()))
        for method in route.methods:
            body = BODIES.get((method, route.pattern), {})
            answer = call(client, method, route.address(ids), body)
            assert answer.status_code == 404, (method, route.pattern, answer.content)
            absent = call(client, method, route.address(nobodys), body)
            assert same_answer(answer, absent), f"{method} {route.pattern} tells an existing object from none"
    assert imprint(acorns.owner.organization) == before


def test_another_organizations_object_is_not_there_for_people(
    acorns: Belongings, charlie: Person, browser: Callable[[Person], WebClient], filters: str
) -> None:
    client, before = browser(charlie), imprint(acorns.owner.organization)
    for route in with_parameters("/"):
        if route.pattern.startswith("/api/"):
            continue
        for method in route.methods:
            body = BODIES.get((method, route.pattern), {})
            answer = call(client, method, route.address(acorns.ids_for(route.pattern)), body)
            is_sent_away = route.pattern in POLLED and "HX-Redirect" in answer and not answer.content
            assert is_sent_away or answer.status_code in (404, 405), (method, route.pattern, answer.status_code)
            assert not shown(answer, acorns)
    assert imprint(acorns.owner.organization) == before


def test_lists_hold_nothing_of_another_organization(
    acorns: Belongings,
    charlie: Person,
    api: Callable[[Person], APIClient],
    browser: Callable[[Person], WebClient],
    filters: str,
) -> None:
    for route in without_parameters("/"):
        client = api(charlie) if route.pattern.startswith("/api/") else browser(charlie)
        if "get" in route.methods and route.pattern not in ("/metrics",):
            answer = call(client, "get", route.pattern, None)
            assert answer.status_code < 500, route.pattern
            assert not shown(answer, acorns), f"{route.pattern} shows {shown(answer, acorns)}"


def test_a_token_is_no_better_than_a_session(
    acorns: Belongings, charlie: Person, bearer: Callable[..., APIClient]
) -> None:
    scopes = ("organization:read", "members:read", "clusters:read", "clusters:write", "clusters:delete")
    client = bearer(charlie, *scopes, "credentials:read", "credentials:write", "audit:read")
    for route in with_parameters("/api/"):
        for method in route.methods:
            body = BODIES.get((method, route.pattern), {})
            answer = call(client, method, route.address(acorns.ids_for(route.pattern)), body)
            assert answer.status_code in (403, 404), (method, route.pattern, answer.content)
            assert not shown(answer, acorns)


def test_ids_inside_bodies_and_headers_open_nothing(
    acorns: Belongings, charlie: Person, api: Callable[[Person], APIClient]
) -> None:
    client = api(charlie)
    transfer = call(client, "post", "/api/v1/organizations/current/transfer", {"member_id": acorns.ids["member_id"]})
    assert transfer.status_code == 404
    elsewhere = RestClient(headers={"X-Organization": str(acorns.owner.organization.pk)})
    elsewhere.force_login(charlie.user)
    entered = elsewhere.get("/api/v1/clusters")
    assert entered.status_code == 404
    named = client.post("/api/v1/clusters", wish(from_backup=acorns.ids["backup_id"]), format="json")
    assert named.status_code == 404, named.content
    cursor = api(acorns.owner).get("/api/v1/operations?limit=1").json()
    assert client.get(f"/api/v1/operations?cursor={cursor['next_cursor'] or ''}").json()["items"] == []


def test_one_organizations_cluster_with_anothers_credential_is_not_there(
    acorns: Belongings, charlie: Person, region: PretendRegion, api: Callable[[Person], APIClient]
) -> None:
    birch = str(services.create_cluster(actor=charlie.actor, request=ask()).cluster_id)
    client = api(charlie)
    for route in with_parameters("/api/"):
        if "clusters/<uuid:cluster_id>/credentials/<uuid:credential_id>" in route.pattern:
            address = route.address(acorns.ids | {"cluster_id": birch})
            for method in route.methods:
                assert call(client, method, address, {}).status_code == 404, (method, route.pattern)


def test_nobody_signed_in_gets_anywhere(acorns: Belongings, anonymous: APIClient, client: WebClient) -> None:
    for route in with_parameters("/"):
        ids = acorns.ids_for(route.pattern)
        is_api = route.pattern.startswith("/api/")
        for method in route.methods:
            answer = call(anonymous if is_api else client, method, route.address(ids), {})
            assert answer.status_code in ((401,) if is_api else (302, 405)), (method, route.pattern)
            assert not shown(answer, acorns)


def test_the_operator_site_is_closed_to_customers(
    acorns: Belongings, alice: Person, browser: Callable[[Person], WebClient]
) -> None:
    client = browser(alice)
    ids = {**acorns.ids, "object_id": acorns.ids["cluster_id"], "app_label": "provisioning", "url": "x"}
    ids |= {"content_type_id": "1", "leftover_id": str(uuid4()), "slug": "pretend", "name": "begin-maintenance"}
    for route in all_routes("/operator/"):
        pattern = route.pattern.replace("(?P<app_label>provisioning|tenants|billing)", "<app_label>")
        if "(?P" in pattern:
            continue
        answer = call(client, "get", Route(pattern, route.view).address(ids).rstrip("$"), None)
        assert answer.status_code in (302, 403, 404), (route.pattern, answer.status_code)
        assert not shown(answer, acorns)


def shown(answer: Any, belongings: Belongings) -> set[str]:
    """Which of an organization's ids and names an answer gives away (ids in its own address apart)."""
    text = answer.content.decode(errors="replace").replace(answer.request["PATH_INFO"], "")
    return {mark for mark in belongings.marks if mark in text}


def test_an_outsider_without_any_organization_finds_nothing(
    acorns: Belongings, api: Callable[[Person], APIClient], region: PretendRegion
) -> None:
    client = RestClient()
    client.force_login(make_user())
    for route in with_parameters("/api/"):
        for method in route.methods:
            answer = call(client, method, route.address(acorns.ids_for(route.pattern)), {})
            assert answer.status_code in (400, 403, 404), (method, route.pattern, answer.content)
