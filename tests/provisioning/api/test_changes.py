"""Another size, a later release, an end by force: what the REST door accepts, foresees and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db.models import F
from rest_framework.test import APIClient

from provisioning import services
from provisioning.models import Channel, Cluster, Operation, PlanType, Release
from provisioning.states import LeftoverState, OperationState
from tenants.models import AuditEvent
from tests.factories import Person
from tests.provisioning.api.conftest import CLUSTERS
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup, make_healthy

pytestmark = pytest.mark.django_db
Api = Callable[[Person], APIClient]


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    """A healthy cluster on 8.5.8, on a channel that goes on to 8.6.0."""
    request = ask(channel="next", release="8.5.8")
    return make_healthy(services.create_cluster(actor=alice.actor, request=request).cluster)


def refusal_of(client: APIClient, address: str, body: Any = None) -> tuple[int, str, str]:
    answer = client.post(address, body, format="json")
    assert answer.json()["detail"].endswith("."), answer.content
    return answer.status_code, answer.json()["code"], answer.json().get("field", "")


def test_another_size_is_accepted(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    answer = client.post(f"{url}/resize", {"plan_type": "small-plus"}, format="json")
    assert answer.status_code == 202, answer.content
    assert (answer.json()["kind"], answer.json()["changes"]) == ("resize", {"plan_type": ["small", "small-plus"]})
    assert answer.json()["can_cancel"] is True
    assert client.get(url).json()["size"]["memory_mib"] == PlanType.objects.get(pk="small-plus").memory_mib
    again = client.post(f"{url}/resize", {"plan_type": "small-plus"}, format="json")
    assert again.json()["id"] == answer.json()["id"], "what is so already is no further change"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"plan_type": "medium"}, (409, "path_blocked", "plan_type")),
        ({"plan_type": "huge"}, (400, "invalid_spec", "plan_type")),
        ({"plan_type": "a\0b"}, (400, "invalid_request", "plan_type")),
        ({}, (400, "invalid_request", "plan_type")),
        ({"size": "small"}, (400, "invalid_request", "size")),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    api: Api, alice: Person, healthy: Cluster, body: Any, expected: tuple[int, str, str]
) -> None:
    assert refusal_of(api(alice), f"{CLUSTERS}/{healthy.pk}/resize", body) == expected


def test_an_upgrade_is_foreseen_with_its_backup_and_its_way_back(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    assert client.get(url).json()["upgrades"] == ["8.6.0"]
    foreseen = client.post(f"{url}/upgrade?dry_run=true", {"release": "8.6.0"}, format="json").json()
    assert [step["kind"] for step in foreseen["steps"]][:2] == ["take_backup", "prepare_release"]
    assert foreseen["interrupts_engine"] is True
    assert foreseen["reversible"] is False
    assert "goes back by itself to the former release" in foreseen["way_back"]
    assert "can be started from the backup" in foreseen["way_back"]
    bare = {"release": "8.6.0", "without_backup": True}
    foreseen = client.post(f"{url}/upgrade?dry_run=true", bare, format="json").json()
    assert "take_backup" not in [step["kind"] for step in foreseen["steps"]]
    assert "can be started from the backup" not in foreseen["way_back"]
    assert client.get(url).json()["release"] == "8.5.8"


def test_an_upgrade_broker_by_broker_says_that_it_only_goes_forward(
    api: Api, alice: Person, region: PretendRegion
) -> None:
    Release.objects.filter(pk="8.6.0").update(rolls_from=["8.5.8"])
    request = ask(name="three", plan_type="resilient", channel="next", release="8.5.8")
    cluster = make_healthy(services.create_cluster(actor=alice.actor, request=request).cluster)
    url = f"{CLUSTERS}/{cluster.pk}/upgrade?dry_run=true"
    foreseen = api(alice).post(url, {"release": "8.6.0"}, format="json").json()
    assert "roll_brokers" in [step["kind"] for step in foreseen["steps"]]
    assert foreseen["interrupts_engine"] is False
    assert "it only goes forward" in foreseen["way_back"]


def test_a_purge_is_not_called_off(api: Api, alice: Person, healthy: Cluster) -> None:
    client = api(alice)
    purge = client.delete(f"{CLUSTERS}/{healthy.pk}?purge=true").json()
    assert purge["can_cancel"] is False
    assert refusal_of(client, f"/api/v1/operations/{purge['id']}/cancel") == (409, "not_cancellable", "")


def test_an_upgrade_that_is_called_off_cannot_be_called_on_again(api: Api, alice: Person, healthy: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    upgrade = client.post(f"{url}/upgrade", {"release": "8.6.0"}, format="json").json()
    assert upgrade["can_cancel"] is True
    assert client.get(url).json()["upgrades"] == [], "one at a time"
    undone = client.post(f"/api/v1/operations/{upgrade['id']}/cancel").json()
    assert undone["changes"] == {"release": ["8.6.0", "8.5.8"]}
    assert undone["can_cancel"] is False
    assert client.get(url).json()["release"] == "8.5.8"
    assert [one["state"] for one in client.get(f"{url}/backups").json()["items"]] == ["failed"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"release": "9.9.9"}, (400, "invalid_spec", "release")),
        ({"release": ""}, (400, "invalid_request", "release")),
        ({"release": "8.6.0", "without_backup": "perhaps"}, (400, "invalid_request", "without_backup")),
    ],
)
def test_a_release_that_cannot_be_is_refused(
    api: Api, alice: Person, healthy: Cluster, body: Any, expected: tuple[int, str, str]
) -> None:
    assert refusal_of(api(alice), f"{CLUSTERS}/{healthy.pk}/upgrade", body) == expected


def test_a_path_that_is_blocked_is_refused(api: Api, alice: Person, healthy: Cluster) -> None:
    later = Release.objects.get(pk="8.6.0")
    later.pk, later.upgrades_from = "8.10.0", ["8.6.0"]
    later.save(force_insert=True)
    Channel.objects.get(pk="next").releases.add(later)
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}"
    assert refusal_of(client, f"{url}/upgrade", {"release": "8.10.0"}) == (409, "path_blocked", "release")
    assert client.get(url).json()["upgrades"] == ["8.6.0"]
    Release.objects.filter(pk="8.10.0").update(upgrades_from=["8.5.8"])
    assert client.get(url).json()["upgrades"] == ["8.6.0", "8.10.0"]
    Release.objects.filter(pk="8.6.0").update(is_offered=False)
    assert client.get(url).json()["upgrades"] == ["8.10.0"]


def test_only_a_healthy_engine_is_upgraded(api: Api, alice: Person, cluster: Cluster) -> None:
    Channel.objects.get(pk="stable").releases.add(Release.objects.get(pk="8.6.0"))
    answer = refusal_of(api(alice), f"{CLUSTERS}/{cluster.pk}/upgrade", {"release": "8.6.0"})
    assert answer == (409, "not_available", "")


@pytest.mark.parametrize(
    ("path", "body"),
    [("resize", {"plan_type": "small-plus"}), ("upgrade", {"release": "8.6.0"}), ("backups", None)],
)
def test_every_change_has_a_dry_run_and_a_precondition(
    api: Api, alice: Person, healthy: Cluster, path: str, body: Any
) -> None:
    client, url = api(alice), f"{CLUSTERS}/{healthy.pk}/{path}"
    assert client.post(url, body, format="json", headers={"If-Match": '"7"'}).status_code == 412
    dry = client.post(f"{url}?dry_run=true", body, format="json", headers={"If-Match": '"1"'})
    assert dry.status_code == 200, dry.content
    assert dry.json()["way_back"].endswith(".")
    assert Operation.objects.filter(cluster=healthy).count() == 1
    key = {"If-Match": '"1"', "Idempotency-Key": "once"}
    first = client.post(url, body, format="json", headers=key)
    assert first.status_code == 202, first.content
    assert first["Location"] == f"/api/v1/operations/{first.json()['id']}"
    again = client.post(url, body, format="json", headers=key)
    assert (again.json()["id"], again["Idempotent-Replay"]) == (first.json()["id"], "true")
    assert Operation.objects.filter(cluster=healthy).count() == 2


def test_the_catalogue_says_what_follows_what(api: Api, alice: Person, region: PretendRegion) -> None:
    offer = api(alice).get("/api/v1/catalogue").json()
    following = next(channel for channel in offer["channels"] if channel["slug"] == "next")
    assert {release["version"]: release["upgrades_from"] for release in following["releases"]} == {
        "8.5.8": [],
        "8.6.0": ["8.5.8"],
    }


# --- force ------------------------------------------------------------------------------------------------------------


def test_a_deletion_that_does_not_get_on_is_ended_by_force(api: Api, alice: Person, healthy: Cluster) -> None:
    backup = make_backup(healthy)
    client = api(alice)
    operation = client.delete(f"{CLUSTERS}/{healthy.pk}?purge=true").json()
    assert operation["can_force"] is False
    assert refusal_of(client, f"/api/v1/operations/{operation['id']}/force") == (409, "not_forceable", "")
    Operation.objects.filter(pk=operation["id"]).update(error_code="region_unreachable", error_message="No answer.")
    assert client.get(f"/api/v1/operations/{operation['id']}").json()["can_force"] is True
    forced = client.post(f"/api/v1/operations/{operation['id']}/force")
    assert forced.status_code == 202, forced.content
    assert (forced.json()["state"], forced.json()["error"]["code"]) == ("succeeded", "forced")
    assert "recorded, and removed" in forced.json()["error"]["message"]
    assert client.get(f"{CLUSTERS}/{healthy.pk}").status_code == 404
    entry = healthy.region.leftovers.get(cluster_id=healthy.pk)
    assert (entry.state, alice.user.email in entry.reason) == (LeftoverState.REMOVING, True)
    assert AuditEvent.objects.filter(action="cluster.deletion_forced", target_id=str(healthy.pk)).exists()
    backup.refresh_from_db()
    assert backup.state == "removing", "a purge takes its backups along, by force or not"


def test_force_needs_the_right_to_delete(api: Api, alice: Person, bob: Person, healthy: Cluster) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=healthy.pk, purge=True)
    Operation.objects.filter(pk=operation.pk).update(state=OperationState.FAILED, error_code="internal")
    assert refusal_of(api(bob), f"/api/v1/operations/{operation.pk}/force") == (403, "not_permitted", "")
    assert api(alice).post(f"/api/v1/operations/{operation.pk}/force").status_code == 202


def test_what_a_deletion_replaced_cannot_be_forced(api: Api, alice: Person, healthy: Cluster) -> None:
    operation = services.resize_cluster(actor=alice.actor, cluster_id=healthy.pk, plan_type="small-plus")
    Operation.objects.filter(pk=operation.pk).update(error_code="no_capacity")
    Cluster.objects.filter(pk=healthy.pk).update(failures=F("failures") + 1)
    assert api(alice).get(f"/api/v1/operations/{operation.pk}").json()["can_force"] is False
    assert refusal_of(api(alice), f"/api/v1/operations/{operation.pk}/force") == (409, "not_forceable", "")


def test_what_has_no_dry_run_is_not_done_instead(api: Api, alice: Person, healthy: Cluster) -> None:
    client = api(alice)
    operation = Operation.objects.filter(cluster=healthy).latest("created_at")
    for verb in ("retry", "force"):
        refused = refusal_of(client, f"/api/v1/operations/{operation.pk}/{verb}?dry_run=true")
        assert refused == (400, "invalid_request", "dry_run")


def test_calling_off_can_be_tried_out(api: Api, alice: Person, healthy: Cluster) -> None:
    client = api(alice)
    operation = client.post(f"{CLUSTERS}/{healthy.pk}/resize", {"plan_type": "small-plus"}, format="json").json()
    foreseen = client.post(f"/api/v1/operations/{operation['id']}/cancel?dry_run=true")
    assert foreseen.status_code == 200, foreseen.content
    assert foreseen.json()["changes"] == {"plan_type": ["small-plus", "small"]}
    assert client.get(f"/api/v1/operations/{operation['id']}").json()["state"] == "pending"


def test_a_write_that_has_no_dry_run_is_refused_before_it_is_done(api: Api, alice: Person, healthy: Cluster) -> None:
    client = api(alice)
    for address in (f"{CLUSTERS}/{healthy.pk}/credentials", "/api/v1/api-credentials", "/api/v1/invitations"):
        body = {"name": "x", "email": "x@example.com", "role": "viewer", "scopes": []}
        assert refusal_of(client, f"{address}?dry_run=true", body) == (400, "invalid_request", "dry_run")
