"""Backups at the REST door: taken, listed, restored, copied, proven, deleted; and schedules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from provisioning import services
from provisioning.models import Backup, Cluster, Operation
from provisioning.states import BackupReason, BackupState, OperationState
from tenants.models import AuditEvent
from tests.factories import Person
from tests.provisioning.api.conftest import CLUSTERS, wish
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup, make_healthy
from tests.provisioning.test_reconciler import turn_until_rest

pytestmark = pytest.mark.django_db
Api = Callable[[Person], APIClient]
BACKUPS = "/api/v1/backups"


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    """A healthy cluster on 8.5.8, on a channel that goes on to 8.6.0."""
    request = ask(channel="next", release="8.5.8")
    return make_healthy(services.create_cluster(actor=alice.actor, request=request).cluster)


@pytest.fixture
def backup(healthy: Cluster) -> Backup:
    """A complete backup of it."""
    return make_backup(healthy)


def refusal_of(answer: Any) -> tuple[int, str, str]:
    assert answer.json()["detail"].endswith("."), answer.content
    return answer.status_code, answer.json()["code"], answer.json().get("field", "")


def test_a_backup_is_taken_and_found(api: Api, alice: Person, region: PretendRegion) -> None:
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    turn_until_rest(cluster)
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}"
    answer = client.post(f"{url}/backups")
    assert answer.status_code == 202, answer.content
    assert [step["kind"] for step in answer.json()["steps"]] == ["take_backup"]
    (wanted,) = client.get(f"{url}/backups").json()["items"]
    assert (wanted["state"], wanted["reason"], wanted["finished_at"]) == ("wanted", "asked_for", None)
    turn_until_rest(cluster)
    taken = client.get(f"{BACKUPS}/{wanted['id']}").json()
    assert (taken["state"], taken["cluster_name"], taken["release"]) == ("completed", "orders", "8.5.8")
    assert (taken["brokers"], taken["partitions"], taken["replication_factor"]) == (1, 1, 1)
    assert client.get(url).json()["last_backup_at"] == taken["created_at"]
    assert client.get(answer["Location"]).json()["state"] == "succeeded"


def test_no_backup_takes_another_changes_place(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    first = client.post(f"{url}/backups").json()
    assert refusal_of(client.post(f"{url}/backups")) == (409, "change_under_way", "")
    assert client.get(f"/api/v1/operations/{first['id']}").json()["state"] == "pending"
    cancelled = client.post(f"/api/v1/operations/{first['id']}/cancel").json()
    assert (cancelled["id"], cancelled["state"]) == (first["id"], "cancelled")
    client.post(f"{url}/resize", {"plan_type": "small-plus"}, format="json")
    assert "resize" in client.post(f"{url}/backups").json()["detail"]


def test_backups_of_clusters_that_are_gone_are_found(api: Api, alice: Person, backup: Backup) -> None:
    Cluster.objects.filter(pk=backup.cluster_id).update(deleted_at=Now(), due_at=None)
    client = api(alice)
    assert client.get(f"{CLUSTERS}/{backup.cluster_id}/backups").status_code == 404
    (found,) = client.get(BACKUPS).json()["items"]
    assert (found["id"], found["cluster_is_gone"]) == (str(backup.pk), True)


def cost_of(client: APIClient, address: str) -> int:
    """How many statements about our rows an answer takes; prepared ones, which all are, come without their text."""
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    return sum(query["sql"] is None or "provisioning_" in query["sql"] for query in queries)


def test_lists_come_in_pages_at_the_same_cost(api: Api, alice: Person, healthy: Cluster) -> None:
    for age in range(3):
        row = make_backup(healthy)
        Backup.objects.filter(pk=row.pk).update(created_at=Now() - timedelta(hours=age))
    make_backup(healthy, state=BackupState.REMOVED)
    client = api(alice)
    assert [cost_of(client, f"{BACKUPS}?limit={limit}") for limit in (1, 3)] == [1, 1]
    seen, cursor = [], ""
    for _ in range(3):
        page = client.get(f"{BACKUPS}?limit=1&cursor={cursor}").json()
        seen += [item["number"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [1, 2, 3]
    assert cursor is None


def test_drills_and_proofs_cost_no_statement_each(
    api: Api, alice: Person, backup: Backup, region: PretendRegion
) -> None:
    client, addresses = api(alice), (CLUSTERS, "/api/v1/operations", BACKUPS)
    services.drill_backup(actor=alice.actor, backup_id=backup.pk)
    before = [cost_of(client, address) for address in addresses]
    other = make_healthy(services.create_cluster(actor=alice.actor, request=ask(name="other")).cluster)
    proven = make_backup(other, verified_at=Now(), recovery_seconds=40.0, loss_seconds=3600.0)
    Cluster.objects.filter(drill_of=backup).update(deleted_at=Now())  # an organization has one drill at a time
    services.drill_backup(actor=alice.actor, backup_id=proven.pk)
    assert [cost_of(client, address) for address in addresses] == before == [1, 3, 1]


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_set_and_shown(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    assert client.get(url).json()["next_backup_at"] is None
    body = {"backup_every_hours": 6, "backups_kept": 10, "drill_every_days": 7}
    answer = client.patch(url, body, format="json")
    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded"), answer.content
    shown = client.get(url).json()
    assert {name: shown[name] for name in body} == body
    assert shown["next_backup_at"] is not None
    assert shown["next_drill_at"] > shown["next_backup_at"]
    client.patch(url, {"backup_every_hours": 0}, format="json")
    assert client.get(url).json()["next_backup_at"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"backup_every_hours": 745}, "backup_every_hours"),
        ({"backup_every_hours": -1}, "backup_every_hours"),
        ({"backups_kept": 0}, "backups_kept"),
        ({"drill_every_days": 10**30}, "drill_every_days"),
        ({"drill_every_days": "often"}, "drill_every_days"),
    ],
)
def test_a_schedule_has_bounds(api: Api, alice: Person, healthy: Cluster, body: Any, field: str) -> None:
    answer = refusal_of(api(alice).patch(f"{CLUSTERS}/{healthy.pk}", body, format="json"))
    assert (answer[0], answer[2]) == (400, field)


# --- restoring and copying --------------------------------------------------------------------------------------------


def test_a_backup_is_put_in_place_of_the_data(api: Api, alice: Person, backup: Backup) -> None:
    client, url = api(alice), f"{CLUSTERS}/{backup.cluster_id}"
    body = {"backup": str(backup.pk)}
    foreseen = client.post(f"{url}/restore-backup?dry_run=true", body, format="json").json()
    assert foreseen["reversible"] is False
    assert "is gone for good" in foreseen["way_back"]
    assert "restore_data" in [step["kind"] for step in foreseen["steps"]]
    answer = client.post(f"{url}/restore-backup", body, format="json")
    assert (answer.status_code, answer.json()["kind"]) == (202, "restore_backup"), answer.content
    assert answer.json()["can_cancel"] is True
    source = {"backup": str(backup.pk), "cluster_id": str(backup.cluster_id)}
    assert client.get(url).json()["data_source"] == source
    undone = client.post(f"/api/v1/operations/{answer.json()['id']}/cancel").json()
    assert undone["can_cancel"] is False
    assert client.get(url).json()["data_source"] is None


def test_a_restore_needs_the_right_to_delete(api: Api, bob: Person, backup: Backup) -> None:
    answer = api(bob).post(f"{CLUSTERS}/{backup.cluster_id}/restore-backup", {"backup": str(backup.pk)}, format="json")
    assert refusal_of(answer) == (403, "not_permitted", "")


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ({"state": "failed"}, "backup_not_usable"),
        ({"state": "removed"}, "backup_not_usable"),
        ({"partitions": 3}, "backup_not_usable"),
        ({"release_id": "8.6.0"}, "backup_not_usable"),
    ],
)
def test_a_backup_that_does_not_fit_is_refused(
    api: Api, alice: Person, healthy: Cluster, overrides: Any, code: str
) -> None:
    backup = make_backup(healthy, **overrides)
    body = {"backup": str(backup.pk)}
    answer = api(alice).post(f"{CLUSTERS}/{healthy.pk}/restore-backup", body, format="json")
    assert refusal_of(answer)[:2] == (409, code)


def test_a_backup_that_is_none_is_refused(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}/restore-backup"
    assert refusal_of(client.post(url, {"backup": str(uuid4())}, format="json"))[:2] == (404, "not_found")
    assert refusal_of(client.post(url, {"backup": "last"}, format="json")) == (400, "invalid_request", "backup")
    assert refusal_of(client.post(url, {}, format="json")) == (400, "invalid_request", "backup")


def test_a_new_cluster_starts_on_a_backup(api: Api, alice: Person, backup: Backup) -> None:
    body = wish(name="copy", channel="next", from_backup=str(backup.pk))
    foreseen = api(alice).post(f"{CLUSTERS}?dry_run=true", body, format="json").json()
    assert foreseen["changes"]["data_source"] == [None, str(backup.pk)]
    answer = api(alice).post(CLUSTERS, body, format="json")
    assert answer.status_code == 202, answer.content
    copy = answer.json()["cluster"]
    assert (copy["release"], copy["data_source"]["cluster_id"]) == ("8.5.8", str(backup.cluster_id))
    assert "restore_data" in [step["kind"] for step in answer.json()["operation"]["steps"]]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"plan_type": "medium"}, (409, "backup_not_usable", "plan_type")),
        ({"from_backup": "newest"}, (400, "invalid_request", "from_backup")),
        ({"from_backup": str(uuid4())}, (404, "not_found", "")),
    ],
)
def test_a_copy_that_cannot_be_is_refused(
    api: Api, alice: Person, backup: Backup, overrides: Any, expected: tuple[int, str, str]
) -> None:
    body = wish(**{"name": "copy", "channel": "next", "from_backup": str(backup.pk), **overrides})
    assert refusal_of(api(alice).post(CLUSTERS, body, format="json")) == expected


# --- drills -----------------------------------------------------------------------------------------------------------


def test_a_drill_is_an_operation_of_the_backups_cluster_by_name(api: Api, alice: Person, region: PretendRegion) -> None:
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    turn_until_rest(cluster)
    services.back_up_cluster(actor=alice.actor, cluster_id=cluster.pk)
    turn_until_rest(cluster)
    client = api(alice)
    (backup,) = client.get(BACKUPS).json()["items"]
    foreseen = client.post(f"{BACKUPS}/{backup['id']}/drill?dry_run=true").json()
    assert [step["kind"] for step in foreseen["steps"]][-1] == "await_healthy"
    answer = client.post(f"{BACKUPS}/{backup['id']}/drill")
    assert answer.status_code == 202, answer.content
    drill = answer.json()
    assert drill["drill_of"] == backup["id"]
    assert client.get(f"{BACKUPS}/{backup['id']}").json()["current_drill"] == drill["id"]
    assert drill["id"] in [one["id"] for one in client.get("/api/v1/operations").json()["items"]]
    assert [one["id"] for one in client.get(CLUSTERS).json()["items"]] == [str(cluster.pk)]
    assert refusal_of(client.post(f"{BACKUPS}/{backup['id']}/drill")) == (409, "change_under_way", "")
    copy = Cluster.objects.get(pk=drill["cluster_id"])
    for _ in range(3):
        turn_until_rest(copy)
    proven = client.get(f"{BACKUPS}/{backup['id']}").json()
    assert proven["current_drill"] is None
    assert proven["recovery_seconds"] > 0
    assert client.get(f"{CLUSTERS}/{cluster.pk}").json()["last_verified_backup"] == {
        "backup": backup["id"],
        "verified_at": proven["verified_at"],
        "recovery_seconds": proven["recovery_seconds"],
        "loss_seconds": proven["loss_seconds"],
    }


def test_a_drills_copy_is_nobodys_to_change(api: Api, alice: Person, backup: Backup) -> None:
    client = api(alice)
    drill = client.post(f"{BACKUPS}/{backup.pk}/drill").json()
    url = f"{CLUSTERS}/{drill['cluster_id']}"
    assert client.get(url).json()["drill_of"] == str(backup.pk)
    for answer in (
        client.post(f"{url}/suspend"),
        client.delete(url),
        client.patch(url, {"name": "mine"}, format="json"),
        client.post(f"{url}/backups"),
        client.post(f"{url}/credentials", {"name": "mine"}, format="json"),
    ):
        assert refusal_of(answer) == (409, "throw_away_copy", "")


def test_a_drill_is_called_off_and_its_copy_removed(api: Api, alice: Person, bob: Person, backup: Backup) -> None:
    client = api(bob)
    drill = client.post(f"{BACKUPS}/{backup.pk}/drill").json()
    assert drill["can_cancel"] is True
    removal = client.post(f"/api/v1/operations/{drill['id']}/cancel").json()
    assert (removal["kind"], removal["drill_of"], removal["can_cancel"]) == ("delete", str(backup.pk), False)
    ended = client.get(f"/api/v1/operations/{drill['id']}").json()
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
    turn_until_rest(Cluster.objects.get(pk=drill["cluster_id"]))
    assert client.get(f"{CLUSTERS}/{drill['cluster_id']}").status_code == 404


@pytest.mark.parametrize("state", [BackupState.WANTED, BackupState.FAILED, BackupState.REMOVED])
def test_only_a_complete_backup_is_proven(api: Api, alice: Person, healthy: Cluster, state: BackupState) -> None:
    backup = make_backup(healthy, state=state)
    assert refusal_of(api(alice).post(f"{BACKUPS}/{backup.pk}/drill")) == (409, "backup_not_usable", "")


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_a_backup_is_deleted(api: Api, alice: Person, backup: Backup) -> None:
    client, url = api(alice), f"{BACKUPS}/{backup.pk}"
    foreseen = client.delete(f"{url}?dry_run=true")
    assert foreseen.status_code == 200, foreseen.content
    assert (foreseen.json()["reversible"], foreseen.json()["changes"]) == (False, {"backup": [backup.number, None]})
    assert client.get(url).json()["state"] == "completed"
    answer = client.delete(url)
    assert (answer.status_code, answer.json()["state"]) == (202, "removing")
    assert AuditEvent.objects.filter(action="backup.deletion_requested", target_id=str(backup.pk)).exists()
    assert refusal_of(client.delete(url)) == (409, "backup_not_usable", "")
    Backup.objects.filter(pk=backup.pk).update(state=BackupState.REMOVED)
    assert client.get(url).json()["state"] == "removed"
    assert client.get(BACKUPS).json()["items"] == []


def test_a_backup_that_is_needed_is_not_deleted(api: Api, alice: Person, backup: Backup) -> None:
    client = api(alice)
    client.post(CLUSTERS, wish(name="copy", channel="next", from_backup=str(backup.pk)), format="json")
    answer = client.delete(f"{BACKUPS}/{backup.pk}")
    assert refusal_of(answer) == (409, "backup_not_usable", "")
    assert "is being started on this backup" in answer.json()["detail"]


def test_a_developer_takes_and_proves_but_does_not_delete(api: Api, bob: Person, backup: Backup) -> None:
    client = api(bob)
    assert client.post(f"{CLUSTERS}/{backup.cluster_id}/backups").status_code == 202
    assert client.post(f"{BACKUPS}/{backup.pk}/drill").status_code == 202
    assert refusal_of(client.delete(f"{BACKUPS}/{backup.pk}")) == (403, "not_permitted", "")


def test_another_organizations_backup_is_not_there(api: Api, charlie: Person, backup: Backup) -> None:
    client = api(charlie)
    for answer in (
        client.get(f"{BACKUPS}/{backup.pk}"),
        client.delete(f"{BACKUPS}/{backup.pk}"),
        client.post(f"{BACKUPS}/{backup.pk}/drill"),
        client.get(f"{CLUSTERS}/{backup.cluster_id}/backups"),
        client.post(CLUSTERS, wish(from_backup=str(backup.pk)), format="json"),
    ):
        assert refusal_of(answer)[:2] == (404, "not_found")
    assert client.get(BACKUPS).json()["items"] == []


def test_a_failed_backup_says_why(api: Api, alice: Person, healthy: Cluster) -> None:
    backup = make_backup(
        healthy, state=BackupState.FAILED, reason=BackupReason.SCHEDULED, error_message="The store does not answer."
    )
    shown = api(alice).get(f"{BACKUPS}/{backup.pk}").json()
    assert (shown["state"], shown["error_message"]) == ("failed", "The store does not answer.")
    assert Operation.objects.filter(cluster=healthy, state=OperationState.FAILED).count() == 0
