"""Clusters at the REST door: accepted changes, previews, preconditions, pages, and refusals that leave nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from provisioning import services
from provisioning.models import Cluster, Operation, Region
from tenants.models import AuditEvent
from tenants.roles import Role
from tests.factories import Person, make_person
from tests.provisioning.api.conftest import CLUSTERS, PROBLEM, wish
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.test_reconciler import turn_until_rest

pytestmark = pytest.mark.django_db
Api = Callable[[Person], APIClient]


def test_a_wish_is_accepted_with_its_operation_and_where_to_follow_it(
    api: Api, alice: Person, region: PretendRegion
) -> None:
    answer = api(alice).post(CLUSTERS, wish(), format="json")
    assert answer.status_code == 202, answer.content
    cluster, operation = answer.json()["cluster"], answer.json()["operation"]
    assert cluster["phase"] == "creating"
    assert cluster["release"] == "8.5.8"
    assert cluster["current_operation"] == operation["id"]
    assert [step["kind"] for step in operation["steps"]] == ["prepare_release", "start_engine", "await_healthy"]
    assert answer["Location"] == f"/api/v1/operations/{operation['id']}"
    assert answer["ETag"] == '"1"'
    assert api(alice).get(answer["Location"]).json()["cluster_id"] == cluster["id"]


def test_a_dry_run_says_what_would_happen_and_does_nothing(api: Api, alice: Person, region: PretendRegion) -> None:
    answer = api(alice).post(f"{CLUSTERS}?dry_run=true", wish(), format="json")
    assert answer.status_code == 200
    assert [step["kind"] for step in answer.json()["steps"]][-1] == "await_healthy"
    assert answer.json()["changes"]["name"] == [None, "orders"]
    assert not Cluster.objects.filter(organization=alice.organization).exists()
    assert not AuditEvent.objects.filter(organization=alice.organization, target_kind="cluster").exists()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("patch", "", {"name": "renamed"}),
        ("post", "/suspend", None),
        ("post", "/revoke-access", None),
        ("delete", "", None),
    ],
)
def test_every_change_has_a_dry_run_and_a_precondition(
    api: Api, alice: Person, cluster: Cluster, method: str, path: str, body: Any
) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}{path}"
    call = getattr(client, method)
    stale = call(url, body, format="json", headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_generation")
    assert stale.json()["spec_generation"] == 1
    dry = call(f"{url}?dry_run=true", body, format="json", headers={"If-Match": '"1"'})
    assert dry.status_code == 200, dry.content
    members = {"steps", "changes", "reversible", "way_back", "expected_seconds", "interrupts_engine"}
    assert set(dry.json()) == members
    assert Operation.objects.filter(cluster=cluster).count() == 1
    real = call(url, body, format="json", headers={"If-Match": '"1"'})
    assert real.status_code == 202, real.content
    assert real["Location"] == f"/api/v1/operations/{real.json()['id']}"
    cluster.refresh_from_db()
    assert cluster.spec_generation == 2


def test_the_etag_of_a_cluster_is_its_generation(api: Api, alice: Person, cluster: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}"
    assert client.get(url)["ETag"] == '"1"'
    client.patch(url, {"is_protected": True}, format="json", headers={"If-Match": client.get(url)["ETag"]})
    assert client.get(url)["ETag"] == '"2"'


@pytest.mark.parametrize("given", ['W/"1"', "1", '"one"', '"1", "2"', '"99999999999"'])
def test_an_etag_that_is_none_of_ours_is_refused(api: Api, alice: Person, cluster: Cluster, given: str) -> None:
    answer = api(alice).patch(f"{CLUSTERS}/{cluster.pk}", {"name": "x"}, format="json", headers={"If-Match": given})
    assert (answer.status_code, answer.json()["field"]) == (400, "If-Match")


def test_deletion_can_be_undone_and_a_purge_cannot(api: Api, alice: Person, cluster: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}"
    deleted = client.delete(url)
    assert "undo_window" in [step["kind"] for step in deleted.json()["steps"]]
    assert client.get(url).json()["phase"] == "deletion_scheduled"
    assert client.post(f"{url}/restore").status_code == 202
    purged = client.delete(f"{url}?purge=true")
    assert "undo_window" not in [step["kind"] for step in purged.json()["steps"]]
    again = client.post(f"{url}/restore")
    assert (again.status_code, again.json()["code"]) == (409, "already_deleting")


def test_a_deletion_tells_what_it_removed(api: Api, alice: Person, cluster: Cluster, region: PretendRegion) -> None:
    client = api(alice)
    turn_until_rest(cluster)
    deletion = client.delete(f"{CLUSTERS}/{cluster.pk}?purge=true").json()
    assert deletion["receipt"] is None
    turn_until_rest(cluster)
    ended = client.get(f"/api/v1/operations/{deletion['id']}").json()
    assert (ended["state"], ended["receipt"]) == ("succeeded", {"removed": ["Broker 0"], "kept": []})


def test_a_protected_cluster_is_not_deleted(api: Api, alice: Person, cluster: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}"
    client.patch(url, {"is_protected": True}, format="json")
    answer = client.delete(url)
    assert (answer.status_code, answer.json()["code"]) == (409, "deletion_protected")
    assert "protection" in answer.json()["detail"]


def test_deleting_while_creating_is_accepted_and_ends_the_creation(api: Api, alice: Person, cluster: Cluster) -> None:
    client = api(alice)
    deletion = client.delete(f"{CLUSTERS}/{cluster.pk}?purge=true").json()
    creation = client.get(f"{CLUSTERS}/{cluster.pk}/operations").json()["items"][1]
    assert (creation["kind"], creation["state"]) == ("create", "cancelled")
    assert deletion["kind"] == "delete"


@pytest.mark.parametrize(
    ("overrides", "status", "code", "field"),
    [
        ({"name": ""}, 400, "invalid_request", "name"),
        ({"name": "x" * 51}, 400, "invalid_name", "name"),
        ({"name": "a\u202eb"}, 400, "invalid_name", "name"),
        ({"name": "a\nb"}, 400, "invalid_name", "name"),
        ({"name": "a\0b"}, 400, "invalid_request", "name"),
        ({"name": ["a"]}, 400, "invalid_request", "name"),
        ({"stage": "production"}, 400, "invalid_spec", "stage"),
        ({"region": "mars"}, 400, "invalid_spec", "region"),
        ({"region": "a\0b"}, 400, "invalid_request", "region"),
        ({"plan_type": "huge"}, 400, "invalid_spec", "plan_type"),
        ({"channel": "beta"}, 400, "invalid_spec", "channel"),
        ({"release": "9.9.9"}, 400, "invalid_spec", "release"),
        ({"channel": "next", "release": "8.6.0", "stage": "prod"}, 403, "licence_refuses", None),
        ({"nmae": "orders"}, 400, "invalid_request", "nmae"),
        ({"spec_generation": 7}, 400, "invalid_request", "spec_generation"),
    ],
)
def test_a_bad_wish_is_refused_with_a_sentence_and_leaves_nothing(
    api: Api,
    alice: Person,
    region: PretendRegion,
    overrides: dict[str, Any],
    status: int,
    code: str,
    field: str | None,
) -> None:
    answer = api(alice).post(CLUSTERS, wish(**overrides), format="json")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert answer["Content-Type"] == PROBLEM
    assert answer.json().get("field") == field
    assert answer.json()["detail"].endswith((".", "!"))
    assert not Cluster.objects.filter(organization=alice.organization).exists()


def test_a_missing_member_is_named(api: Api, alice: Person, region: PretendRegion) -> None:
    body = wish()
    del body["plan_type"]
    answer = api(alice).post(CLUSTERS, body, format="json")
    assert (answer.status_code, answer.json()["field"]) == (400, "plan_type")


def test_a_cluster_goes_where_the_labels_are_when_no_region_is_named(
    api: Api, alice: Person, region: PretendRegion
) -> None:
    Region.objects.exclude(slug="pretend").update(is_open=False)
    Region.objects.filter(slug="pretend").update(labels=["country=de"], max_clusters=1)
    body = wish(labels=["country=de"])
    del body["region"]
    made = api(alice).post(CLUSTERS, body, format="json")
    assert (made.status_code, made.json()["cluster"]["region"]) == (202, "pretend")
    refused = api(alice).post(CLUSTERS, {**body, "name": "next"}, format="json")
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (409, "no_place", "region")
    assert "pretend: it is full" in refused.json()["detail"]
    for labels in (["gold"], [f"a=b{number}" for number in range(21)]):
        answer = api(alice).post(CLUSTERS, {**body, "labels": labels}, format="json")
        assert (answer.status_code, answer.json()["field"]) == (400, "labels")


def test_more_clusters_than_the_plan_allows_are_refused(api: Api, alice: Person, region: PretendRegion) -> None:
    client = api(alice)
    codes = [client.post(CLUSTERS, wish(name=f"c{n}"), format="json").status_code for n in range(3)]
    assert codes == [202, 202, 403]
    refused = client.post(CLUSTERS, wish(name="c3"), format="json").json()
    assert (refused["code"], refused["limit"], refused["used"]) == ("entitlement_exceeded", 2, 2)


def test_a_list_comes_in_pages(api: Api, alice: Person, region: PretendRegion) -> None:
    for name in ("one", "two"):
        services.create_cluster(actor=alice.actor, request=ask(name=name))
    client = api(alice)
    first = client.get(f"{CLUSTERS}?limit=1").json()
    second = client.get(f"{CLUSTERS}?limit=1&cursor={first['next_cursor']}").json()
    assert {first["items"][0]["name"], second["items"][0]["name"]} == {"one", "two"}
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%00", "limit=%F0%9F%92%A9"])
def test_a_page_that_cannot_be_is_refused(api: Api, alice: Person, query: str) -> None:
    answer = api(alice).get(f"{CLUSTERS}?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, query.split("=")[0])


def test_an_operation_is_retried_and_called_off_only_when_it_can_be(api: Api, alice: Person, cluster: Cluster) -> None:
    client = api(alice)
    operation = client.get(f"{CLUSTERS}/{cluster.pk}/operations").json()["items"][0]
    retry = client.post(f"/api/v1/operations/{operation['id']}/retry")
    assert (retry.status_code, retry.json()["code"]) == (409, "not_retryable")
    assert operation["can_cancel"] is True
    cancelled = client.post(f"/api/v1/operations/{operation['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["kind"]) == (202, "delete")
    assert client.get(f"/api/v1/operations/{operation['id']}").json()["state"] == "cancelled"


def test_a_viewer_reads_and_changes_nothing(api: Api, alice: Person, cluster: Cluster) -> None:
    viewer = api(make_person(alice.organization, role=Role.VIEWER))
    assert viewer.get(f"{CLUSTERS}/{cluster.pk}").status_code == 200
    answer = viewer.post(f"{CLUSTERS}/{cluster.pk}/suspend")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")


def test_a_developer_does_not_delete(api: Api, alice: Person, bob: Person, cluster: Cluster) -> None:
    assert api(bob).delete(f"{CLUSTERS}/{cluster.pk}").status_code == 403
    assert api(bob).post(f"{CLUSTERS}/{cluster.pk}/suspend").status_code == 202


def test_a_token_does_what_its_scopes_say(bearer: Callable[..., APIClient], alice: Person, cluster: Cluster) -> None:
    reader = bearer(alice, "clusters:read")
    assert reader.get(f"{CLUSTERS}/{cluster.pk}").status_code == 200
    assert reader.post(f"{CLUSTERS}/{cluster.pk}/suspend").status_code == 403


def test_nobody_gets_in_without_signing_in(anonymous: APIClient, cluster: Cluster) -> None:
    answer = anonymous.get(f"{CLUSTERS}/{cluster.pk}")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_the_catalogue_says_what_each_licence_allows(api: Api, alice: Person, region: PretendRegion) -> None:
    offer = api(alice).get("/api/v1/catalogue").json()
    place = next(place for place in offer["regions"] if place["slug"] == "pretend")
    assert place == {
        "slug": "pretend", "name": "Pretend", "labels": [], "maintenance_since": None, "silent_since": None,
    }  # fmt: skip
    stable = next(channel for channel in offer["channels"] if channel["slug"] == "stable")
    assert stable["default_release"] == "8.5.8"
    assert "production included" in stable["releases"][0]["licence_allows"]
    assert offer["stages"] == ["dev", "test", "stage", "prod"]
