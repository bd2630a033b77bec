"""What every test may ask for: the database as the processes see it, three people, and clients that act for them.

The connection logs in as `flowplane_app`. Test code acts as `flowplane_system`, which sees everything; a request made
through one of the clients here runs as `flowplane_app` with nobody in scope, as it does in the web process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from billing.models import Plan
from billing.plans import STARTING_PLANS
from tenants import tokens
from tenants.auth import ORGANIZATION_KEY
from tenants.models import Organization
from tenants.roles import Role
from tenants.scoping import leave_scope
from tests.factories import Person, make_credential, make_organization, make_person
from tests.kubernetes import Kubernetes, marked_cluster

# The same examples at every run: what failed fails again.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make chaos` asks for and `make test` leaves out for time."""
    parser.addoption("--every-kill", action="store_true", help="kill workers at every point of every turn")
    parser.addoption("--outage-seconds", type=int, default=60, help="how long a region's API server is down")
    parser.addoption("--rounds", type=int, default=30, help="how often a cluster is made and removed under one name")
    parser.addoption("--off-seconds", type=int, default=120, help="how long everything of ours is switched off")


@pytest.fixture(scope="session")
def django_db_setup() -> None:
    """Use the database as it is: `make test` has made and migrated it as its owner, which tests may not be."""


@pytest.fixture(autouse=True)
def system_role(request: pytest.FixtureRequest) -> None:
    """Let test code with a database see every organization, as worker and clock do."""
    if request.node.get_closest_marker("django_db") or "db" in request.fixturenames:
        request.getfixturevalue("db")
        set_role("flowplane_system")
        with connection.cursor() as cursor:
            # A test is one transaction, and may wait in it.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")


@pytest.fixture(scope="session", autouse=True)
def hurry() -> None:
    """Let a test ask as fast as it can: how much one organization may ask at once is for one test to show."""
    settings.API_REQUESTS = dict.fromkeys(settings.API_REQUESTS, 0)


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    """Forget rate limits that an earlier test used up."""
    cache.clear()


def set_role(role: str) -> None:
    """Act as a database role until the transaction ends; NONE is the one that logged in."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {role}")


@contextmanager
def web_role() -> Iterator[None]:
    """Act as a web request does: `flowplane_app`, and nobody in scope."""
    set_role("NONE")
    leave_scope()
    yield
    if not connection.needs_rollback:
        set_role("flowplane_system")
        leave_scope()


class WebClient(Client):
    """A browser, whose requests run as the web process's database role."""

    def request(self, **request: Any) -> Any:
        """Answer one request."""
        with web_role():
            return super().request(**request)


class RestClient(APIClient):
    """A program at the REST door, whose requests run as the web process's database role."""

    def request(self, **kwargs: Any) -> Any:
        """Answer one request."""
        with web_role():
            return super().request(**kwargs)


@pytest.fixture(scope="session")
def kubernetes() -> Kubernetes:
    """A real Kubernetes that was made for tests; only for tests marked `kubernetes`."""
    return marked_cluster()


@pytest.fixture
def client() -> WebClient:
    """A browser in which nobody is signed in."""
    return WebClient()


@pytest.fixture
def anonymous() -> RestClient:
    """A program without credentials."""
    return RestClient()


@pytest.fixture
def plans(db: None) -> None:
    """The plans that an installation starts with."""
    for terms in STARTING_PLANS:
        Plan.objects.get_or_create(slug=terms.slug, defaults=asdict(terms))


@pytest.fixture
def acorn(plans: None) -> Organization:
    """Alice's and Bob's organization."""
    return make_organization(name="Acorn")


@pytest.fixture
def birch(plans: None) -> Organization:
    """Charlie's organization."""
    return make_organization(name="Birch")


@pytest.fixture
def alice(acorn: Organization) -> Person:
    """Owner of Acorn."""
    return make_person(acorn, role=Role.OWNER)


@pytest.fixture
def bob(acorn: Organization, alice: Person) -> Person:
    """Developer in Acorn."""
    return make_person(acorn, role=Role.DEVELOPER)


@pytest.fixture
def charlie(birch: Organization) -> Person:
    """Owner of Birch: an outsider to Acorn."""
    return make_person(birch, role=Role.OWNER)


@pytest.fixture
def browser() -> Callable[[Person], WebClient]:
    """`browser(alice)`: the console as that person, in that person's organization."""

    def sign_in(person: Person) -> WebClient:
        client = WebClient()
        client.force_login(person.user)
        session = client.session
        session[ORGANIZATION_KEY] = str(person.organization.pk)
        session.save()
        return client

    return sign_in


@pytest.fixture
def api() -> Callable[[Person], RestClient]:
    """`api(alice)`: the REST door with that person's session, in that person's organization."""

    def sign_in(person: Person) -> RestClient:
        client = RestClient()
        client.force_login(person.user)
        client.credentials(HTTP_X_ORGANIZATION=str(person.organization.pk))
        return client

    return sign_in


@pytest.fixture
def bearer() -> Callable[..., RestClient]:
    """`bearer(alice, "clusters:read")`: the REST door with an API credential of that person's making."""

    def authenticate(person: Person, *scopes: str) -> RestClient:
        new = make_credential(person, scopes=scopes)
        tokens.ensure_signing_key()
        issued = tokens.issue_token(
            client_id=new.credential.client_id, client_secret=new.secret, audience="", source_address="192.0.2.1"
        )
        leave_scope()
        client = RestClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {issued.access_token}")
        return client

    return authenticate
