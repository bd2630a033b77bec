"""Who may do what, as one table: every role at every endpoint with every method, compared with a committed file.

A change of the table is a decision: look at the difference, and when it is meant, copy the new table over the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from tenants.roles import API_SCOPES, Role
from tests.architecture.conftest import Belongings, undone
from tests.architecture.routes import Route, all_routes
from tests.factories import Person, make_person
from tests.provisioning.api.conftest import wish

pytestmark = pytest.mark.django_db

TABLE = Path(__file__).with_name("permissions.txt")

# Right bodies, so that a refusal can only be about the role.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/api/v1/organizations"): {"name": "Elm"},
    ("patch", "/api/v1/organizations/current"): {"name": "Elm"},
    ("patch", "/api/v1/members/<uuid:member_id>"): {"role": "viewer"},
    ("post", "/api/v1/invitations"): {"email": "someone@example.com", "role": "viewer"},
    ("post", "/api/v1/clusters"): wish(name="more"),
    ("patch", "/api/v1/clusters/<uuid:cluster_id>"): {"name": "renamed"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/credentials"): {"name": "more"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/resize"): {"plan_type": "small-plus"},
    ("post", "/api/v1/clusters/<uuid:cluster_id>/upgrade"): {"release": "8.6.0"},
    ("post", "/api/v1/api-credentials"): {"name": "more", "scopes": ["clusters:read"]},
}


def body_of(method: str, route: Route, acorns: Belongings) -> dict[str, Any]:
    """A body that is right for this endpoint."""
    if route.pattern.endswith("/transfer"):
        return {"member_id": acorns.ids["member_id"]}
    if route.pattern.endswith("/restore-backup"):
        return {"backup": acorns.ids["backup_id"]}
    return BODIES.get((method, route.pattern), {})


def is_allowed(client: APIClient, method: str, route: Route, acorns: Belongings) -> bool:
    """Whether the role is let through to the rule itself, which may still say something else than yes."""
    address = route.address(acorns.ids_for(route.pattern))
    with undone():
        answer = getattr(client, method)(address, body_of(method, route, acorns), format="json")
    assert answer.status_code < 500, (method, route.pattern, answer.content)
    return not (answer.status_code == 403 and answer.json()["code"] == "not_permitted")


def table(clients: dict[str, APIClient], acorns: Belongings) -> str:
    """One line for each endpoint and method: who is let through."""
    lines = []
    for route in sorted(all_routes("/api/"), key=lambda route: route.pattern):
        for method in route.methods:
            if route.pattern in ("/api/v1/openapi.json", "/api/v1/invitations/accept"):
                continue  # open to everybody, and open to whoever was invited
            allowed = [name for name, client in clients.items() if is_allowed(client, method, route, acorns)]
            lines.append(f"{method.upper():6} {route.pattern}: {' '.join(allowed) or 'nobody'}")
    return "\n".join(lines) + "\n"


def test_the_table_of_permissions_is_as_decided(
    acorns: Belongings,
    alice: Person,
    api: Callable[[Person], APIClient],
    bearer: Callable[..., APIClient],
    tmp_path: Path,
) -> None:
    clients = {Role.OWNER.value: api(alice)}
    for role in Role:
        if role is not Role.OWNER:
            clients[role.value] = api(make_person(alice.organization, role=role))
    clients["token"] = bearer(alice, *API_SCOPES)
    found = tmp_path / TABLE.name
    found.write_text(table(clients, acorns))
    assert TABLE.read_text() == found.read_text(), f"the new table is in {found}"
