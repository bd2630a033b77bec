"""Credentials in the console: a secret is seen once, and never kept by a browser."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from provisioning import access
from provisioning.models import Cluster
from provisioning.selectors import ClusterView
from tenants.models import Credential, CredentialSecret
from tenants.roles import Role
from tests.conftest import WebClient
from tests.factories import Person, make_credential, make_person

Browser = Callable[[Person], WebClient]


def page(name: str, *args: object) -> str:
    """A console page's address."""
    return reverse(f"console:{name}", args=args)


@pytest.fixture
def credential(alice: Person, orders: ClusterView) -> Credential:
    """A credential of Alice's cluster."""
    made = access.create_credential(actor=alice.actor, cluster_id=orders.row.pk, name="order workers")
    return made.credential


def test_a_new_secret_is_shown_once_with_the_env_file(browser: Browser, alice: Person, orders: ClusterView) -> None:
    Cluster.objects.filter(pk=orders.row.pk).update(endpoint_grpc="orders.nowhere.example:26500")
    session, address = browser(alice), page("credentials", orders.row.pk)
    answer = session.post(address, {"name": "order workers", "lifetime_days": "30"})
    text = answer.content.decode()
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.context["secret"] in text
    assert "export ZEEBE_ADDRESS=&#x27;orders.nowhere.example:26500&#x27;" in text
    assert "ZEEBE_TOKEN_AUDIENCE" in text
    secret = answer.context["secret"]
    made = Credential.objects.get(audience_id=orders.row.pk)
    assert made.expires_at is not None
    assert timedelta(days=29) < made.expires_at - timezone.now() < timedelta(days=31)
    for again in (address, f"{address}/{made.pk}", page("cluster_connect", orders.row.pk)):
        assert secret not in session.get(again).content.decode()


def test_before_the_engine_has_an_address_the_page_says_so(
    browser: Browser, alice: Person, orders: ClusterView
) -> None:
    session = browser(alice)
    text = session.post(page("credentials", orders.row.pk), {"name": "order workers"}).content.decode()
    assert "The cluster has no address yet" in text
    assert "No address yet" in session.get(page("cluster_connect", orders.row.pk)).content.decode()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "Give it a name: it is empty."),
        ("n" * 51, "This name has 51 characters"),
        ("a\u200bb", "Character 2 of this name"),
    ],
)
def test_a_bad_name_is_said_and_kept(
    browser: Browser, alice: Person, orders: ClusterView, name: str, sentence: str
) -> None:
    answer = browser(alice).post(page("credentials", orders.row.pk), {"name": name, "lifetime_days": "90"})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert sentence in text
    assert '<option value="90" selected>' in text
    assert not Credential.objects.filter(audience_id=orders.row.pk).exists()


def test_a_taken_name_is_said_at_the_name(
    browser: Browser, alice: Person, orders: ClusterView, credential: Credential
) -> None:
    answer = browser(alice).post(page("credentials", orders.row.pk), {"name": credential.name})
    assert "Choose another name" in answer.context["form"].errors["name"][0]


def test_rotation_makes_a_second_secret_and_then_no_third(
    browser: Browser, alice: Person, orders: ClusterView, credential: Credential
) -> None:
    session, address = browser(alice), page("secret_add", orders.row.pk, credential.pk)
    first = session.post(address)
    assert first.headers["Cache-Control"] == "no-store"
    assert "The old secret stays live until you revoke it" in first.content.decode()
    assert "Revoke the older one first" in session.post(address, follow=True).content.decode()
    old = CredentialSecret.objects.filter(credential=credential).earliest("created_at")
    session.post(page("secret_revoke", orders.row.pk, credential.pk, old.pk))
    assert CredentialSecret.objects.filter(credential=credential, revoked_at=None).count() == 1


def test_disabling_and_enabling_are_one_button(
    browser: Browser, alice: Person, orders: ClusterView, credential: Credential
) -> None:
    session, address = browser(alice), page("credential_disable", orders.row.pk, credential.pk)
    assert "Disabled" in session.post(address, {"is_disabled": "true"}, follow=True).content.decode()
    assert "Disabled" not in session.post(address, {"is_disabled": "false"}, follow=True).content.decode()


def test_an_expiry_in_the_past_is_said_and_kept(
    browser: Browser, alice: Person, orders: ClusterView, credential: Credential
) -> None:
    answer = browser(alice).post(page("credential", orders.row.pk, credential.pk), {"expires_on": "2001-02-03"})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert "The expiry must lie in the future" in text
    assert 'value="2001-02-03"' in text


def test_a_deleted_credential_is_gone_from_the_list(
    browser: Browser, alice: Person, orders: ClusterView, credential: Credential
) -> None:
    address = page("credential_revoke", orders.row.pk, credential.pk)
    text = browser(alice).post(address, follow=True).content.decode()
    assert "was deleted: it gets no token any more" in text
    assert credential.client_id not in text


def test_an_api_credential_may_do_what_was_ticked(browser: Browser, alice: Person) -> None:
    wish = {"name": "terraform", "scopes": ["clusters:read", "clusters:write"]}
    answer = browser(alice).post(page("api_credentials"), wish)
    assert "client_credentials" in answer.content.decode()
    made = Credential.objects.for_organization(alice.organization.pk).get(audience=None)
    assert made.scopes == ["clusters:read", "clusters:write"]


def test_an_api_credential_without_scopes_is_refused_with_a_sentence(browser: Browser, alice: Person) -> None:
    answer = browser(alice).post(page("api_credentials"), {"name": "terraform"})
    assert "Choose at least one thing that it may do." in answer.content.decode()
    assert 'value="terraform"' in answer.content.decode()


def test_a_reader_sees_api_credentials_but_makes_none(browser: Browser, alice: Person) -> None:
    made = make_credential(alice, name="terraform", scopes=["clusters:read"]).credential
    session = browser(make_person(alice.organization, role=Role.VIEWER))
    text = session.get(page("api_credentials")).content.decode()
    assert made.client_id in text
    assert "Make the credential" not in text
    assert session.post(page("api_credentials"), {"name": "x", "scopes": ["clusters:read"]}).status_code == 422
    assert session.post(page("api_credential_revoke", made.pk), follow=True).status_code == 200
    assert Credential.objects.get(pk=made.pk).revoked_at is None
