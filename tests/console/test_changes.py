"""Resizing, upgrading and ending by force in the console: a plan first, and a sentence when there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provisioning import services
from provisioning.models import Cluster, Operation, PlanType, Release
from provisioning.selectors import ClusterView
from provisioning.spec import ClusterRequest
from provisioning.states import BackupState, OperationKind
from tests.conftest import WebClient
from tests.console.conftest import REGION
from tests.console.test_clusters import clusters, operations, page
from tests.factories import Person
from tests.provisioning.rows import make_healthy

Browser = Callable[[Person], WebClient]


@pytest.fixture
def healthy(alice: Person) -> Cluster:
    """Alice's cluster on a channel that goes on, healthy."""
    request = ClusterRequest("orders", "dev", REGION, "small", "next", "8.5.8")
    return make_healthy(services.create_cluster(actor=alice.actor, request=request).cluster)


def text_of(client: WebClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.content
    return str(answer.content.decode())


def test_the_page_offers_what_is_possible(browser: Browser, alice: Person, healthy: Cluster) -> None:
    session, address = browser(alice), page("cluster", healthy.pk)
    text = text_of(session, address)
    assert page("cluster_resize", healthy.pk) in text
    assert page("cluster_upgrade", healthy.pk) in text
    Release.objects.filter(pk="8.6.0").update(is_offered=False)
    PlanType.objects.filter(pk="small-plus").update(is_offered=False)
    text = text_of(session, address)
    assert page("cluster_resize", healthy.pk) not in text
    assert page("cluster_upgrade", healthy.pk) not in text
    assert "No other size on offer has this cluster’s partitions" in text_of(
        session, page("cluster_resize", healthy.pk)
    )
    assert "can follow its own now" in text_of(session, page("cluster_upgrade", healthy.pk))


def test_a_cluster_being_deleted_offers_neither(browser: Browser, alice: Person, healthy: Cluster) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    text = text_of(browser(alice), page("cluster", healthy.pk))
    assert page("cluster_resize", healthy.pk) not in text
    assert page("cluster_upgrade", healthy.pk) not in text


def test_an_upgrade_shows_its_plan_first(browser: Browser, alice: Person, healthy: Cluster) -> None:
    session, address = browser(alice), page("cluster_upgrade", healthy.pk)
    text = text_of(session, address)
    steps = ("Take a backup", "Make the engine release ready", "Stop the engine, keeping its data")
    assert sorted(steps, key=text.index) == list(steps)
    assert "Usually takes about" in text
    assert "Clients will notice" in text
    assert "goes back by itself to the former release" in text
    assert operations(alice).count() == 1
    bare = {"generation": 1, "release": "8.6.0", "without_backup": "on"}
    plan = session.post(page("cluster_upgrade_plan", healthy.pk), bare).content.decode()
    assert "Take a backup" not in plan
    assert "<title>" not in plan
    foreseen = session.post(address, {**bare, "foresee": "yes"}).content.decode()
    assert "Take a backup" not in foreseen
    assert operations(alice).count() == 1
    answer = session.post(address, {"generation": 1, "release": "8.6.0", "accept": "yes"})
    assert answer.headers["Location"] == page("cluster", healthy.pk)
    upgrade = operations(alice).latest("created_at")
    assert upgrade.kind == OperationKind.UPGRADE
    assert healthy.backups.get().state == BackupState.WANTED
    text = text_of(session, page("cluster", healthy.pk))
    assert "on trial; 8.5.8 before" in text
    assert page("cluster_upgrade", healthy.pk) not in text, "one at a time"
    assert page("cluster_suspend", healthy.pk) not in text
    assert "8.5.8 → 8.6.0" in text_of(session, page("operation", upgrade.pk))


def test_a_resize_shows_its_plan_first(browser: Browser, alice: Person, healthy: Cluster) -> None:
    session, address = browser(alice), page("cluster_resize", healthy.pk)
    text = text_of(session, address)
    assert "Small plus: 1 broker, 1 partition" in text
    assert "Give it its former size again" in text
    session.post(address, {"generation": 1, "plan_type": "small-plus"})
    assert clusters(alice).get().plan_type_id == "small-plus"


@pytest.mark.parametrize(
    ("name", "wish", "sentence"),
    [
        ("resize", {"generation": 1, "plan_type": "medium"}, "medium is not one of the available choices"),
        ("resize", {"generation": 4, "plan_type": "small-plus"}, "has changed since you read it"),
        ("upgrade", {"generation": 1, "release": "9.9"}, "9.9 is not one of the available choices"),
        ("upgrade", {"generation": 1}, "This field is required"),
    ],
)
def test_what_cannot_be_is_said(
    browser: Browser, alice: Person, healthy: Cluster, name: str, wish: dict[str, object], sentence: str
) -> None:
    answer = browser(alice).post(page(f"cluster_{name}", healthy.pk), wish)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert operations(alice).count() == 1


def test_a_refusal_stands_in_the_place_of_the_plan(browser: Browser, alice: Person, healthy: Cluster) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=healthy.pk)
    text = text_of(browser(alice), page("cluster_upgrade", healthy.pk))
    assert "An upgrade begins with a healthy engine" in text


def test_a_deletion_shows_its_receipt(browser: Browser, alice: Person, healthy: Cluster) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    session, address = browser(alice), page("operation", operation.pk)
    assert "to be removed" not in text_of(session, address)
    receipt = {"removed": ["StatefulSet broker"], "kept": ["Backup 7 of 2026-11-28 12:00 UTC"]}
    Operation.objects.filter(pk=operation.pk).update(receipt=receipt)
    assert "What is to be removed" in text_of(session, address)
    Operation.objects.filter(pk=operation.pk).update(state="succeeded")
    text = text_of(session, address)
    assert "What was removed" in text
    assert "StatefulSet broker" in text
    assert "Backup 7 of" in text


# --- force ------------------------------------------------------------------------------------------------------------


def test_a_deletion_that_does_not_get_on_is_ended_by_force(browser: Browser, alice: Person, healthy: Cluster) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    session, address = browser(alice), page("operation_force", operation.pk)
    assert address not in text_of(session, page("operation", operation.pk))
    assert "there is nothing to end by force" in text_of(session, address)
    assert "Only a deletion that does not get on" in session.post(address, follow=True).content.decode()
    Operation.objects.filter(pk=operation.pk).update(error_code="region_unreachable", error_message="No answer.")
    assert address in text_of(session, page("operation", operation.pk))
    assert "is recorded, and removed as soon as the region allows" in text_of(session, address)
    answer = session.post(address, follow=True)
    assert answer.redirect_chain == [(page("operation", operation.pk), 302)]
    assert "Ended by force" in answer.content.decode()
    assert page("cluster", healthy.pk) not in answer.content.decode(), "it is gone"
    healthy.refresh_from_db()
    assert healthy.deleted_at is not None


def test_force_is_for_those_who_delete(browser: Browser, alice: Person, bob: Person, healthy: Cluster) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk)
    Operation.objects.filter(pk=operation.pk).update(error_code="internal", error_message="Something.")
    session, address = browser(bob), page("operation_force", operation.pk)
    assert address not in text_of(session, page("operation", operation.pk))
    assert session.get(address).status_code == 403
    assert session.post(address).status_code == 403


def test_a_cluster_just_asked_for_is_not_upgraded(browser: Browser, alice: Person, orders: ClusterView) -> None:
    assert page("cluster_upgrade", orders.row.pk) not in text_of(browser(alice), page("cluster", orders.row.pk))
