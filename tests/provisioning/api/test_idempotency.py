"""Idempotency keys: once, however often it is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from rest_framework.test import APIClient

from provisioning.models import Cluster, Operation
from tenants import idempotency
from tenants.models import IdempotencyRecord
from tests.factories import Person
from tests.provisioning.api.conftest import CLUSTERS, wish
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db
Api = Callable[[Person], APIClient]
KEY = {"Idempotency-Key": "order-7"}


def test_a_repeated_request_is_answered_and_not_done_again(api: Api, alice: Person, region: PretendRegion) -> None:
    client = api(alice)
    first = client.post(CLUSTERS, wish(), format="json", headers=KEY)
    again = client.post(CLUSTERS, wish(), format="json", headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert (again["Location"], again["ETag"]) == (first["Location"], first["ETag"])
    assert "Idempotent-Replay" not in first
    assert again["Idempotent-Replay"] == "true"
    assert Cluster.objects.filter(organization=alice.organization).count() == 1


def test_the_spelling_of_a_body_does_not_matter(api: Api, alice: Person, region: PretendRegion) -> None:
    client = api(alice)
    client.post(CLUSTERS, wish(), format="json", headers=KEY)
    turned = dict(reversed(wish().items()))
    assert client.post(CLUSTERS, turned, format="json", headers=KEY)["Idempotent-Replay"] == "true"


@pytest.mark.parametrize("path", [CLUSTERS, f"{CLUSTERS}?x=1"])
def test_a_key_for_another_request_is_refused(api: Api, alice: Person, region: PretendRegion, path: str) -> None:
    client = api(alice)
    client.post(CLUSTERS, wish(), format="json", headers=KEY)
    other = wish(name="other") if path == CLUSTERS else wish()
    answer = client.post(path, other, format="json", headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert Cluster.objects.filter(organization=alice.organization).count() == 1


def test_a_request_that_failed_may_be_corrected_under_its_key(api: Api, alice: Person, region: PretendRegion) -> None:
    client = api(alice)
    assert client.post(CLUSTERS, wish(region="mars"), format="json", headers=KEY).status_code == 400
    assert not IdempotencyRecord.objects.filter(principal_id=str(alice.user.pk)).exists()
    assert client.post(CLUSTERS, wish(), format="json", headers=KEY).status_code == 202


def test_a_dry_run_uses_no_key_up(api: Api, alice: Person, region: PretendRegion) -> None:
    client = api(alice)
    assert client.post(f"{CLUSTERS}?dry_run=true", wish(), format="json", headers=KEY).status_code == 200
    assert client.post(CLUSTERS, wish(), format="json", headers=KEY).status_code == 202


def test_a_repeated_deletion_is_answered_alike(api: Api, alice: Person, cluster: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}"
    first = client.delete(url, headers=KEY)
    again = client.delete(url, headers=KEY)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert Operation.objects.filter(cluster=cluster, kind="delete").count() == 1


def test_keys_of_others_do_not_meet(api: Api, alice: Person, charlie: Person, region: PretendRegion) -> None:
    first = api(alice).post(CLUSTERS, wish(), format="json", headers=KEY)
    theirs = api(charlie).post(CLUSTERS, wish(), format="json", headers=KEY)
    assert theirs.status_code == 202
    assert theirs.json()["cluster"]["id"] != first.json()["cluster"]["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve", "a\tb"])
def test_a_key_that_is_none_is_refused(api: Api, alice: Person, region: PretendRegion, key: str) -> None:
    answer = api(alice).post(CLUSTERS, wish(), format="json", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")


def test_old_keys_are_forgotten(api: Api, alice: Person, region: PretendRegion) -> None:
    api(alice).post(CLUSTERS, wish(), format="json", headers=KEY)
    mine = IdempotencyRecord.objects.filter(principal_id=str(alice.user.pk))
    idempotency.forget_old()
    assert mine.count() == 1
    mine.update(created_at=Now() - idempotency.KEEP_FOR - timedelta(minutes=1))
    assert idempotency.forget_old() >= 1
    assert not mine.exists()
