"""A cluster's credentials at the REST door, and the file that connects a stock client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from billing.plans import FREE
from provisioning import services
from provisioning.models import Cluster
from tenants.models import IdempotencyRecord
from tests.factories import Person
from tests.provisioning.api.conftest import CLUSTERS, place
from tests.provisioning.conftest import ask

pytestmark = pytest.mark.django_db
Api = Callable[[Person], APIClient]


def made(client: APIClient, cluster: Cluster, **body: Any) -> Any:
    answer = client.post(f"{CLUSTERS}/{cluster.pk}/credentials", {"name": "worker", **body}, format="json")
    assert answer.status_code == 201, answer.content
    return answer


def test_the_secret_is_shown_once(api: Api, alice: Person, cluster: Cluster) -> None:
    place(cluster)
    client = api(alice)
    answer = made(client, cluster)
    body = answer.json()
    secret = body["client_secret"]
    assert secret.startswith(body["secret_prefix"])
    assert body["env"]["ZEEBE_CLIENT_SECRET"] == secret
    assert body["env"]["ZEEBE_TOKEN_AUDIENCE"] == str(cluster.pk)
    assert answer["Cache-Control"] == "no-store"
    url = f"{CLUSTERS}/{cluster.pk}/credentials"
    for later in (client.get(url), client.get(f"{url}/{body['id']}"), client.get(f"{CLUSTERS}/{cluster.pk}/env-file")):
        assert secret not in later.content.decode()


def test_a_replayed_creation_leaves_the_secret_out_and_says_so(api: Api, alice: Person, cluster: Cluster) -> None:
    place(cluster)
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}/credentials"
    headers = {"Idempotency-Key": "one"}
    first = client.post(url, {"name": "worker"}, format="json", headers=headers)
    again = client.post(url, {"name": "worker"}, format="json", headers=headers)
    assert (again.status_code, again["Idempotent-Replay"]) == (201, "true")
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["client_secret"] is None
    assert again.json()["env"]["ZEEBE_CLIENT_SECRET"] is None
    assert "repeated request" in again.json()["notice"]
    assert len(client.get(url).json()["items"]) == 1
    kept = json.dumps(list(IdempotencyRecord.objects.values("body", "headers")))
    assert first.json()["client_secret"] not in kept


def test_without_an_address_the_credential_comes_without_its_environment(
    api: Api, alice: Person, cluster: Cluster
) -> None:
    client = api(alice)
    assert made(client, cluster).json()["env"] is None
    early = client.get(f"{CLUSTERS}/{cluster.pk}/env-file")
    assert (early.status_code, early.json()["code"]) == (409, "no_endpoint_yet")


def test_a_second_secret_lets_the_first_be_replaced(api: Api, alice: Person, cluster: Cluster) -> None:
    client = api(alice)
    first = made(client, cluster).json()
    url = f"{CLUSTERS}/{cluster.pk}/credentials/{first['id']}"
    second = client.post(f"{url}/secrets")
    assert second.status_code == 201
    assert second.json()["client_secret"] != first["client_secret"]
    third = client.post(f"{url}/secrets")
    assert (third.status_code, third.json()["code"]) == (409, "credential_limit")
    old = client.get(url).json()["secrets"][0]
    assert client.delete(f"{url}/secrets/{old['id']}").status_code == 204
    assert [secret["id"] for secret in client.get(url).json()["secrets"]] == [second.json()["id"]]


def test_a_credential_is_renamed_disabled_and_revoked(api: Api, alice: Person, cluster: Cluster) -> None:
    client = api(alice)
    url = f"{CLUSTERS}/{cluster.pk}/credentials/{made(client, cluster).json()['id']}"
    changed = client.patch(url, {"name": "worker 2", "is_disabled": True}, format="json").json()
    assert (changed["name"], changed["is_disabled"]) == ("worker 2", True)
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404


def test_a_credential_is_only_found_below_its_own_cluster(api: Api, alice: Person, cluster: Cluster) -> None:
    other = services.create_cluster(actor=alice.actor, request=ask(name="other")).cluster
    client = api(alice)
    mine = made(client, cluster).json()["id"]
    elsewhere = f"{CLUSTERS}/{other.pk}/credentials/{mine}"
    assert client.get(elsewhere).status_code == 404
    assert client.delete(elsewhere).status_code == 404
    assert client.post(f"{elsewhere}/secrets").status_code == 404
    assert client.get(f"{CLUSTERS}/{other.pk}/env-file?credential={mine}").status_code in (404, 409)


def test_the_plan_limits_credentials(api: Api, alice: Person, cluster: Cluster) -> None:
    client, url = api(alice), f"{CLUSTERS}/{cluster.pk}/credentials"
    for number in range(FREE.max_credentials_per_cluster):
        made(client, cluster, name=f"worker {number}")
    answer = client.post(url, {"name": "one more"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (403, "entitlement_exceeded")


def test_a_cluster_that_is_being_deleted_gets_no_new_credential(api: Api, alice: Person, cluster: Cluster) -> None:
    client = api(alice)
    client.delete(f"{CLUSTERS}/{cluster.pk}")
    answer = client.post(f"{CLUSTERS}/{cluster.pk}/credentials", {"name": "late"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_deleting")


def test_the_file_sets_what_stock_clients_read(api: Api, alice: Person, cluster: Cluster) -> None:
    place(cluster)
    client = api(alice)
    credential = made(client, cluster).json()
    answer = client.get(f"{CLUSTERS}/{cluster.pk}/env-file?credential={credential['id']}")
    assert answer["Content-Type"].startswith("text/plain")
    script = answer.content.decode() + "env"
    shell = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    seen = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    assert seen["ZEEBE_ADDRESS"] == "localhost:26500"
    assert seen["ZEEBE_CLIENT_ID"] == credential["client_id"]
    assert seen["ZEEBE_AUTHORIZATION_SERVER_URL"] == settings.TOKEN_URL
    assert seen["SSL_CERT_FILE"] == seen["REQUESTS_CA_BUNDLE"] == str(settings.CA_CERT_FILE)
    assert credential["client_secret"] not in answer.content.decode()
