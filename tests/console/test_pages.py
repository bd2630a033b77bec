"""Every page, as each role and as somebody from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from django.urls import reverse

from console.policy import POLICY
from console.urls import urlpatterns
from provisioning.selectors import ClusterView
from tenants.models import Organization
from tenants.roles import Role
from tests.conftest import WebClient
from tests.factories import Person, make_credential, make_membership, make_organization, make_person, make_user
from tests.provisioning.rows import make_backup

Browser = Callable[[Person], WebClient]

CLUSTER_PAGES = ("cluster", "cluster_live", "cluster_connect", "cluster_backups")
CLUSTER_WRITE_PAGES = (
    "cluster_settings",
    "cluster_suspend",
    "cluster_resume",
    "cluster_revoke-access",
    "cluster_resize",
    "cluster_upgrade",
)
ORGANIZATION_PAGES = ("clusters", "backups", "operations", "members", "organization")


def page(name: str, *args: object) -> str:
    """A console page's address."""
    return reverse(f"console:{name}", args=args)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("name", ORGANIZATION_PAGES)
def test_every_role_reads_what_every_member_may_see(
    browser: Browser, acorn: Organization, alice: Person, orders: ClusterView, role: Role, name: str
) -> None:
    reader = alice if role is Role.OWNER else make_person(acorn, role=role)
    assert browser(reader).get(page(name)).status_code == 200


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("name", CLUSTER_PAGES)
def test_every_role_reads_a_clusters_pages(
    browser: Browser, acorn: Organization, alice: Person, orders: ClusterView, role: Role, name: str
) -> None:
    reader = alice if role is Role.OWNER else make_person(acorn, role=role)
    assert browser(reader).get(page(name, orders.row.pk)).status_code == 200


@pytest.mark.parametrize(
    ("role", "status"), [(Role.OWNER, 200), (Role.ADMIN, 200), (Role.DEVELOPER, 200), (Role.VIEWER, 403)]
)
@pytest.mark.parametrize("name", CLUSTER_WRITE_PAGES)
def test_only_writers_open_the_pages_that_change_a_cluster(
    browser: Browser, acorn: Organization, alice: Person, orders: ClusterView, role: Role, status: int, name: str
) -> None:
    reader = alice if role is Role.OWNER else make_person(acorn, role=role)
    assert browser(reader).get(page(name, orders.row.pk)).status_code == status


@pytest.mark.parametrize(("role", "status"), [(Role.OWNER, 200), (Role.ADMIN, 200), (Role.DEVELOPER, 403)])
def test_only_owner_and_admin_open_deletion_and_audit(
    browser: Browser, acorn: Organization, alice: Person, orders: ClusterView, role: Role, status: int
) -> None:
    reader = browser(alice if role is Role.OWNER else make_person(acorn, role=role))
    backup = make_backup(orders.row)
    assert reader.get(page("cluster_delete", orders.row.pk)).status_code == status
    assert reader.get(page("backup_delete", backup.pk)).status_code == status
    assert reader.get(page("backup_restore", backup.pk)).status_code == status
    assert reader.get(page("operation_force", orders.current_operation_id)).status_code == status
    assert reader.get(page("audit")).status_code == status


def test_a_viewer_is_offered_no_change(browser: Browser, acorn: Organization, orders: ClusterView) -> None:
    reader = browser(make_person(acorn, role=Role.VIEWER))
    for address in (page("clusters"), page("cluster", orders.row.pk), page("credentials", orders.row.pk)):
        answer = reader.get(address).content.decode()
        assert "New cluster" not in answer
        assert "Suspend" not in answer
        assert "Make the credential" not in answer
        assert "Call it off" not in answer


def test_an_outsider_finds_nothing(browser: Browser, alice: Person, charlie: Person, orders: ClusterView) -> None:
    outsider = browser(charlie)
    credential = make_credential(alice, scopes=["clusters:read"]).credential
    values = {
        "cluster_id": orders.row.pk,
        "operation_id": orders.current_operation_id,
        "backup_id": make_backup(orders.row).pk,
        "credential_id": credential.pk,
        "membership_id": alice.membership.pk,
        "secret_id": uuid4(),
        "invitation_id": uuid4(),
        "token": "not-a-token",
    }
    met = set()
    for pattern in urlpatterns:
        needed = pattern.pattern.converters
        if not needed:
            continue
        address = reverse(f"console:{pattern.name}", kwargs={name: values[name] for name in needed})
        statuses = {outsider.get(address).status_code, outsider.post(address).status_code}
        assert statuses <= {404, 405}, (pattern.name, statuses)
        assert 404 in statuses
        met.add(pattern.name)
    assert {"cluster", "operation", "backup", "credential", "cluster_delete", "member_remove"} <= met


def test_the_poll_of_a_cluster_that_is_gone_leads_to_the_list(browser: Browser, alice: Person) -> None:
    answer = browser(alice).get(page("cluster_live", uuid4()))
    assert answer.status_code == 404
    assert answer.headers["HX-Redirect"] == page("clusters")
    assert answer.content == b""


def test_nobody_is_led_to_sign_in(client: WebClient) -> None:
    answer = client.get(page("clusters"))
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"{reverse('account_login')}?next={page('clusters')}"


def test_a_person_without_organization_is_led_to_making_one(client: WebClient) -> None:
    client.force_login(make_user())
    assert client.get(page("home"), follow=True).redirect_chain[-1][0] == page("organization_new")
    assert client.get(page("clusters")).headers["Location"] == page("organization_new")


def test_every_page_sends_the_strict_policy(browser: Browser, client: WebClient, alice: Person) -> None:
    for answer in (
        client.get(reverse("account_login")),
        browser(alice).get(page("clusters")),
        client.get("/no/such/page"),
    ):
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert "unsafe" not in POLICY
        text = answer.content.decode()
        assert " style=" not in text
        assert " onclick=" not in text


def test_pages_load_nothing_from_elsewhere(browser: Browser, alice: Person) -> None:
    text = browser(alice).get(page("clusters")).content.decode()
    assert 'src="http' not in text
    assert 'href="http' not in text


def test_pages_of_an_organization_are_not_for_shared_caches(browser: Browser, alice: Person) -> None:
    assert "private" in browser(alice).get(page("clusters")).headers["Cache-Control"]


def test_switching_shows_the_other_organization(browser: Browser, alice: Person, orders: ClusterView) -> None:
    elsewhere = make_organization(name="Cedar")
    make_membership(elsewhere, user=alice.user, role=Role.VIEWER.value)
    session = browser(alice)
    session.post(page("organization_switch"), {"organization": str(elsewhere.pk)})
    assert "No cluster yet" in session.get(page("clusters")).content.decode()


@pytest.mark.parametrize("choice", ["", "nonsense"])
def test_switching_to_nonsense_says_so(browser: Browser, alice: Person, choice: str) -> None:
    answer = browser(alice).post(page("organization_switch"), {"organization": choice}, follow=True)
    assert "That is not an organization" in answer.content.decode()


def test_switching_to_somebody_elses_organization_finds_nothing(
    browser: Browser, alice: Person, birch: Organization
) -> None:
    assert browser(alice).post(page("organization_switch"), {"organization": str(birch.pk)}).status_code == 404
