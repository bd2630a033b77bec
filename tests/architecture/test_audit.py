"""Every address that can change something is asked to: the change leaves exactly one audit event, in its maker's name.

The addresses come from the resolver. One for which no right request is known here fails the test, so a new page or
endpoint cannot be left out, and neither can one whose change forgets its event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from provisioning import services
from provisioning.models import Channel, Cluster, Operation, Release
from provisioning.states import OperationState
from tenants.models import AuditEvent
from tests.architecture.conftest import Belongings, undone
from tests.architecture.routes import Route, all_routes
from tests.architecture.test_permissions import body_of
from tests.conftest import RestClient, WebClient, set_role
from tests.factories import Person, make_invitation, make_person
from tests.provisioning.rows import make_healthy

pytestmark = pytest.mark.django_db

# What is asked with POST and has no event here, with the reason.
WITHOUT_EVENT = {
    "/oauth/token": "changes nothing: a token is no row",
    "/organizations/switch": "changes nothing but the session",
    "/invitations/<str:token>": "shows what is offered",
    "/clusters/new/plan": "shows what would be done",
    "/clusters/<uuid:cluster_id>/resize/plan": "shows what would be done",
    "/clusters/<uuid:cluster_id>/upgrade/plan": "shows what would be done",
}
# Pages of allauth and of Django's admin: see tests/tenants/test_accounts.py and tests/config/test_operator_site.py.
OTHERS = ("/accounts/", "/operator/")
# Only whoever was invited can do it: see the last test.
ACCEPTING = ("/api/v1/invitations/accept", "/invitations/<str:token>/accept")

_CREDENTIAL = "clusters/<uuid:cluster_id>/credentials/<uuid:credential_id>"
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("patch", "/api/v1/api-credentials/<uuid:credential_id>"): {"is_disabled": True},
    ("patch", f"/api/v1/{_CREDENTIAL}"): {"is_disabled": True},
}
# What people type, and the plan that they were shown.
FORMS: dict[str, dict[str, Any]] = {
    "/api-credentials": {"name": "more", "scopes": ["clusters:read"]},
    "/api-credentials/<uuid:credential_id>": {"expires_on": "2999-12-31"},
    "/api-credentials/<uuid:credential_id>/disable": {"is_disabled": "true"},
    f"/{_CREDENTIAL}": {"expires_on": "2999-12-31"},
    f"/{_CREDENTIAL}/disable": {"is_disabled": "true"},
    "/clusters/<uuid:cluster_id>/credentials": {"name": "more"},
    "/clusters/<uuid:cluster_id>/backups/schedule": {
        "backup_every_hours": 24,
        "backups_kept": 3,
        "drill_every_days": 0,
    },
    "/clusters/<uuid:cluster_id>/resize": {"plan_type": "small-plus"},
    "/clusters/<uuid:cluster_id>/settings": {"name": "renamed", "stage": "dev"},
    "/clusters/<uuid:cluster_id>/upgrade": {"release": "8.6.0"},
    "/clusters/new": {
        "name": "more",
        "stage": "dev",
        "region": "pretend",
        "plan_type": "small",
        "release": "stable/8.5.8",
    },
    "/members": {"email": "someone@example.com", "role": "viewer"},
    "/members/<uuid:membership_id>/role": {"role": "viewer"},
    "/organization": {"name": "Elm"},
    "/organizations/new": {"name": "Elm"},
}


def writing(prefix: str) -> list[tuple[str, Route]]:
    """What may change something: method and route."""
    spared = (*WITHOUT_EVENT, *ACCEPTING)
    routes = [route for route in all_routes(prefix) if route.pattern not in spared]
    return [
        (method, route)
        for route in sorted(routes, key=lambda one: one.pattern)
        for method in route.methods
        if method != "get" and not route.pattern.startswith(OTHERS)
    ]


def set_the_scene(acorns: Belongings, route: Route) -> dict[str, str]:
    """Have the cluster stand so that the change can be made; returns the ids that the route needs."""
    actor, cluster_id = acorns.owner.actor, acorns.cluster.pk
    ids, deed = acorns.ids_for(route.pattern), route.pattern.rpartition("/")[2]
    if deed == "force" or route.pattern.endswith("/<uuid:cluster_id>/restore"):
        operation = services.request_deletion(actor=actor, cluster_id=cluster_id, purge=deed == "force")
        Operation.objects.filter(pk=operation.pk).update(error_code="region_unreachable")
        ids |= {"operation_id": str(operation.pk)}
    elif deed in ("resume", "cancel"):
        operation = services.suspend_cluster(actor=actor, cluster_id=cluster_id)
        ids |= {"operation_id": str(operation.pk)}
    elif deed == "retry":
        Operation.objects.filter(pk=ids["operation_id"]).update(state=OperationState.FAILED, error_code="internal")
    elif deed == "upgrade":
        Channel.objects.get(pk="stable").releases.add(Release.objects.get(pk="8.6.0"))
    return ids


def events_besides(known: set[Any]) -> list[AuditEvent]:
    """What was noted since, of whichever organization."""
    set_role("flowplane_system")
    return list(AuditEvent.objects.exclude(pk__in=known))


def must_be_one(events: list[AuditEvent], made_by: Person, answer: Any) -> None:
    """One event, about one thing, that leads back to the person and the request."""
    said = f"{answer.request['REQUEST_METHOD']} {answer.request['PATH_INFO']} answered {answer.status_code}"
    # A transfer of the ownership changes two members, and each has its own.
    expected = 2 if answer.request["PATH_INFO"].endswith("/transfer") else 1
    assert len(events) == expected, f"{said}, and noted {[event.action for event in events]}"
    assert len({(event.target_kind, event.target_id) for event in events}) == expected, said
    assert {event.actor_id for event in events} == {str(made_by.user.pk)}, said
    assert {event.request_id for event in events} == {answer.headers["X-Request-ID"]}, said


@pytest.fixture
def ready(acorns: Belongings) -> Belongings:
    """All that Acorn has, with a cluster to which something can be done."""
    make_healthy(acorns.cluster)
    return acorns


def test_a_change_at_the_rest_door_leaves_one_event(
    ready: Belongings, alice: Person, api: Callable[[Person], RestClient]
) -> None:
    client, known = api(alice), set(AuditEvent.objects.values_list("pk", flat=True))
    for method, route in writing("/api/"):
        body = BODIES.get((method, route.pattern), body_of(method, route, ready))
        with undone():
            ids = set_the_scene(ready, route)
            before = known | {event.pk for event in events_besides(known)}
            answer = getattr(client, method)(route.address(ids), body, format="json")
            assert 200 <= answer.status_code < 300, (method, route.pattern, answer.content)
            must_be_one(events_besides(before), alice, answer)


def test_a_change_on_a_page_leaves_one_event(
    ready: Belongings, alice: Person, browser: Callable[[Person], WebClient]
) -> None:
    client, known = browser(alice), set(AuditEvent.objects.values_list("pk", flat=True))
    changed = 0
    for _, route in writing("/"):
        if route.pattern.startswith("/api/"):
            continue
        with undone():
            ids = set_the_scene(ready, route)
            before = known | {event.pk for event in events_besides(known)}
            now = Cluster.objects.get(pk=ready.cluster.pk)
            shown = {"generation": now.spec_generation, "typed_name": now.name}
            answer = client.post(route.address(ids), shown | FORMS.get(route.pattern, {}))
            if answer.status_code != 405:  # it is only looked at
                must_be_one(events_besides(before), alice, answer)
                changed += 1
    assert changed > len(FORMS)


def test_who_accepts_an_invitation_leaves_one_event_in_the_organization(
    ready: Belongings, api: Callable[[Person], RestClient], browser: Callable[[Person], WebClient]
) -> None:
    guest, acorn = make_person(), ready.owner.organization
    known = set(AuditEvent.objects.values_list("pk", flat=True))
    for pattern in ACCEPTING:
        with undone():
            _, token = make_invitation(acorn, email=guest.user.email)
            answer: Any
            if pattern.startswith("/api/"):
                answer = api(guest).post(pattern, {"token": token}, format="json")
            else:
                answer = browser(guest).post(Route(pattern, None).address({"token": token}))
            events = events_besides(known)
            must_be_one(events, guest, answer)
            assert events[0].organization_id == acorn.pk
