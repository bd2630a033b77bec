"""Backups in the console: what is shown of them, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from provisioning import services
from provisioning.models import Backup, Cluster, Operation
from provisioning.selectors import ClusterView
from provisioning.states import BackupState, OperationKind
from tenants.models import Organization
from tenants.roles import Role
from tests.conftest import WebClient
from tests.console.test_clusters import clusters, operations, page
from tests.factories import Person, make_person
from tests.provisioning.rows import make_backup, make_healthy

Browser = Callable[[Person], WebClient]


@pytest.fixture
def healthy(orders: ClusterView) -> Cluster:
    """Alice's cluster, healthy."""
    return make_healthy(Cluster.objects.get(pk=orders.row.pk))


@pytest.fixture
def backup(healthy: Cluster) -> Backup:
    """A complete backup of it."""
    return make_backup(healthy)


def text_of(client: WebClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.content
    return str(answer.content.decode())


def test_a_backup_is_taken_with_a_button(browser: Browser, alice: Person, healthy: Cluster) -> None:
    session, address = browser(alice), page("cluster_backups", healthy.pk)
    assert "Take a backup now" in text_of(session, address)
    answer = session.post(page("cluster_back_up", healthy.pk), follow=True)
    assert answer.redirect_chain == [(address, 302)]
    text = answer.content.decode()
    assert "The backup is being taken" in text
    assert "Being taken" in text
    assert f'hx-get="{address}?rows=1"' in text
    assert "<title>" not in text_of(session, f"{address}?rows=1")
    again = session.post(page("cluster_back_up", healthy.pk), follow=True).content.decode()
    assert "A backup of this cluster is being taken" in again


def test_an_engine_that_is_not_healthy_offers_no_backup(browser: Browser, alice: Person, orders: ClusterView) -> None:
    session = browser(alice)
    text = text_of(session, page("cluster_backups", orders.row.pk))
    assert "Take a backup now" not in text
    assert "Only a healthy engine can be backed up" in text
    answer = session.post(page("cluster_back_up", orders.row.pk), follow=True).content.decode()
    assert "Resume it, or wait until it is healthy" in answer


def test_at_rest_nothing_is_asked_again(browser: Browser, alice: Person, backup: Backup) -> None:
    session = browser(alice)
    addresses = [page("backups"), page("cluster_backups", backup.cluster_id), page("backup", backup.pk)]
    for address in addresses:
        assert "data-poll" not in text_of(session, address)
    services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    for address in addresses:
        text = text_of(session, address)
        assert 'hx-trigger="every 3s"' in text
        assert "eing proven" in text


def test_what_a_drill_measured_is_shown(browser: Browser, alice: Person, healthy: Cluster) -> None:
    backup = make_backup(healthy, verified_at=Now(), recovery_seconds=42.0, loss_seconds=7200.0)
    session = browser(alice)
    assert "Back in 42 s" in text_of(session, page("backups"))
    for address in (page("backup", backup.pk), page("cluster_backups", healthy.pk)):
        text = text_of(session, address)
        assert "42 s" in text
        assert "2 h" in text
    assert "proven: back in 42 s" in text_of(session, page("cluster", healthy.pk))


def test_a_failed_drill_is_shown(browser: Browser, alice: Person, healthy: Cluster) -> None:
    backup = make_backup(healthy, error_message="The last drill failed. The engine ended.")
    session = browser(alice)
    assert "Last drill failed" in text_of(session, page("backups"))
    assert "The engine ended." in text_of(session, page("backup", backup.pk))


def test_backups_of_a_deleted_cluster_are_found(browser: Browser, alice: Person, backup: Backup) -> None:
    Cluster.objects.filter(pk=backup.cluster_id).update(deleted_at=Now(), lifecycle="deleted", due_at=None)
    session = browser(alice)
    assert "(deleted)" in text_of(session, page("backups"))
    text = text_of(session, page("backup", backup.pk))
    assert "its backups stay" in text
    assert page("cluster_backups", backup.cluster_id) not in text
    assert page("backup_restore", backup.pk) not in text
    assert f"{page('cluster_new')}?from_backup={backup.pk}" in text
    assert session.get(page("backup_restore", backup.pk)).status_code == 404


def test_lists_go_on_with_older_ones(browser: Browser, alice: Person, healthy: Cluster) -> None:
    for age in range(25):
        row = make_backup(healthy)
        Backup.objects.filter(pk=row.pk).update(created_at=Now() - timedelta(hours=age))
    session = browser(alice)
    for address in (page("backups"), page("cluster_backups", healthy.pk)):
        first = session.get(address)
        assert len(first.context["backups"]) == 20
        second = session.get(address, {"cursor": first.context["next_cursor"]})
        assert len(second.context["backups"]) == 5


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_set(browser: Browser, alice: Person, healthy: Cluster) -> None:
    wish = {"generation": 1, "backup_every_hours": 24, "backups_kept": 5, "drill_every_days": 7}
    answer = browser(alice).post(page("cluster_schedule", healthy.pk), wish, follow=True)
    assert "Saved." in answer.content.decode()
    row = clusters(alice).get()
    assert (row.backup_every_hours, row.backups_kept, row.drill_every_days) == (24, 5, 7)
    assert row.backup_due_at is not None


def test_a_rhythm_set_elsewhere_is_kept(browser: Browser, alice: Person, healthy: Cluster) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=healthy.pk, backup_every_hours=5)
    text = text_of(browser(alice), page("cluster_backups", healthy.pk))
    assert '<option value="5" selected>Every 5 hours</option>' in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backups_kept": 0}, "greater than or equal to 1"),
        ({"backups_kept": 1000}, "backups_kept is a number from 1 to 100"),
        ({"backup_every_hours": "often"}, "often is not one of the available choices"),
        ({"generation": 9}, "has changed since you read it"),
    ],
)
def test_a_schedule_that_cannot_be_is_said(
    browser: Browser, alice: Person, healthy: Cluster, change: dict[str, object], sentence: str
) -> None:
    wish = {"generation": 1, "backup_every_hours": 24, "backups_kept": 5, "drill_every_days": 7, **change}
    answer = browser(alice).post(page("cluster_schedule", healthy.pk), wish)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert clusters(alice).get().backup_every_hours == 0


# --- proving ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_proven_and_its_operation_shown(browser: Browser, alice: Person, backup: Backup) -> None:
    session = browser(alice)
    answer = session.post(page("backup_drill", backup.pk), follow=True)
    text = answer.content.decode()
    assert "Prove a backup of “orders”" in text
    assert page("backup", backup.pk) in text
    assert "Prove a backup" in text_of(session, page("operations"))
    copy = Cluster.objects.get(drill_of=backup)
    assert copy.name not in text_of(session, page("clusters"))
    assert "throw-away copy" in text_of(session, page("cluster", copy.pk))
    again = session.post(page("backup_drill", backup.pk), follow=True).content.decode()
    assert "is being proven already" in again


def test_a_drill_is_called_off_with_a_button(browser: Browser, alice: Person, backup: Backup) -> None:
    operation = services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    answer = browser(alice).post(page("operation_cancel", operation.pk), follow=True)
    assert answer.redirect_chain == [(page("backup", backup.pk), 302)]
    assert "Called off" in answer.content.decode()
    assert Cluster.objects.get(drill_of=backup).lifecycle == "deleted"


# --- restoring and copying --------------------------------------------------------------------------------------------


def test_restoring_needs_the_name(browser: Browser, alice: Person, backup: Backup) -> None:
    session, address = browser(alice), page("backup_restore", backup.pk)
    text = text_of(session, address)
    assert "Fetch the backup’s data beside the present one" in text
    assert "It cannot be undone once it is through." in text
    answer = session.post(address, {"generation": 1, "typed_name": "order"})
    assert answer.status_code == 422
    assert "Type “orders” to replace its data" in answer.content.decode()
    answer = session.post(address, {"generation": 1, "typed_name": "orders"})
    assert answer.headers["Location"] == page("cluster", backup.cluster_id)
    assert operations(alice).latest("created_at").kind == OperationKind.RESTORE_BACKUP
    assert "backup of" in text_of(session, page("cluster", backup.cluster_id))


def test_a_backup_that_does_not_fit_its_cluster_any_more_says_why(
    browser: Browser, alice: Person, healthy: Cluster
) -> None:
    backup = make_backup(healthy, partitions=3)
    text = text_of(browser(alice), page("backup_restore", backup.pk))
    assert "The backup was taken of 3 partitions" in text
    assert "Replace the cluster’s data" not in text


def test_a_new_cluster_from_a_backup_is_filled_in(browser: Browser, alice: Person, backup: Backup) -> None:
    session, address = browser(alice), f"{page('cluster_new')}?from_backup={backup.pk}"
    answer = session.get(address)
    text = answer.content.decode()
    assert 'value="orders copy"' in text
    assert f'name="from_backup" value="{backup.pk}"' in text
    assert "Medium" not in text
    form = answer.context["form"]
    assert [choice for choice, _ in form.fields["plan_type"].choices] == ["small", "small-plus"]
    assert ("next/8.6.0", "Next: Zeebe 8.6.0 (default)") in form.fields["release"].choices
    assert form.initial["release"] == "stable/8.5.8"
    wish = {"name": "copy", "stage": "dev", "region": "nowhere", "plan_type": "small", "release": "stable/8.5.8"}
    wish |= {"from_backup": str(backup.pk)}
    plan = session.post(page("cluster_plan"), wish).content.decode()
    assert "Fetch the backup’s data" in plan
    session.post(page("cluster_new"), wish)
    copy = clusters(alice).get(name="copy")
    assert copy.data_source == backup


def test_a_backup_that_nothing_fits_says_so(browser: Browser, alice: Person, healthy: Cluster) -> None:
    backup = make_backup(healthy, partitions=7)
    text = text_of(browser(alice), f"{page('cluster_new')}?from_backup={backup.pk}")
    assert "Nothing on offer fits this backup" in text


@pytest.mark.parametrize("named", ["nonsense", str(uuid4())])
def test_a_new_cluster_from_no_backup_finds_nothing(browser: Browser, alice: Person, named: str) -> None:
    session = browser(alice)
    assert session.get(f"{page('cluster_new')}?from_backup={named}").status_code == 404
    assert session.post(page("cluster_plan"), {"from_backup": named}).status_code == 404


def test_a_new_cluster_from_anothers_backup_finds_nothing(browser: Browser, charlie: Person, backup: Backup) -> None:
    assert browser(charlie).get(f"{page('cluster_new')}?from_backup={backup.pk}").status_code == 404


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_a_backup_is_deleted_after_asking(browser: Browser, alice: Person, backup: Backup) -> None:
    session, address = browser(alice), page("backup_delete", backup.pk)
    assert "removed from the region’s store for good" in text_of(session, address)
    answer = session.post(address, follow=True)
    assert "Being removed" in answer.content.decode()
    again = session.post(address, follow=True).content.decode()
    assert "wait for the end of that" in again
    Backup.objects.filter(pk=backup.pk).update(state=BackupState.REMOVED)
    assert "Removed" in text_of(session, page("backup", backup.pk))
    assert "No backup yet" in text_of(session, page("backups"))


def test_each_role_is_offered_what_it_may_do(
    browser: Browser, acorn: Organization, alice: Person, backup: Backup
) -> None:
    shown = {}
    for role in (Role.VIEWER, Role.DEVELOPER, Role.ADMIN):
        text = text_of(browser(make_person(acorn, role=role)), page("backup", backup.pk))
        shown[role] = [name for name in ("act-drill", "act-copy", "act-restore", "act-delete") if name in text]
    assert shown == {
        Role.VIEWER: [],
        Role.DEVELOPER: ["act-drill", "act-copy"],
        Role.ADMIN: ["act-drill", "act-copy", "act-restore", "act-delete"],
    }
    viewer = text_of(browser(make_person(acorn, role=Role.VIEWER)), page("cluster_backups", backup.cluster_id))
    assert "Take a backup now" not in viewer
    assert "Save" not in viewer


def test_what_was_asked_for_by_a_drill_is_no_creation(browser: Browser, alice: Person, backup: Backup) -> None:
    services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    rows = Operation.objects.filter(cluster__drill_of=backup)
    assert rows.get().kind == OperationKind.CREATE
    assert "Create" not in text_of(browser(alice), page("operation", rows.get().pk))
