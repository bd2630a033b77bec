"""Alive, getting anywhere, how much of everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from config import health
from provisioning import services
from provisioning.models import Cluster
from provisioning.states import ConditionType, Truth
from tenants.models import MailKind, OutgoingMail
from tests.conftest import WebClient
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    """A cluster of Acorn's."""
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Whatever else the database holds waits for nothing."""
    Cluster.objects.update(due_at=None)
    OutgoingMail.objects.update(due_at=None)


def test_a_living_process_says_so_without_the_database(client: WebClient) -> None:
    with CaptureQueriesContext(connection) as queries:
        answer: Any = health.healthz(client.get("/healthz").wsgi_request)
    assert answer.status_code == 200
    assert not [query for query in queries if "flowplane" not in query["sql"] and "ROLE" not in query["sql"]]


def test_ready_means_that_nothing_waits_too_long(client: WebClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200, answer.content
    assert set(answer.json()["checks"]) == {"database", "migrations", "turns", "mail"}
    assert all(check["ok"] and check["message"].endswith(".") for check in answer.json()["checks"].values())


def test_a_turn_that_nobody_takes_is_not_ready(client: WebClient, cluster: Cluster) -> None:
    late = Now() - timedelta(seconds=health.MAX_OVERDUE_TURN_SECONDS + 5)
    Cluster.objects.filter(pk=cluster.pk).update(due_at=late)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["checks"]["turns"]["ok"]
    assert "clock" in answer.json()["checks"]["turns"]["message"]


def test_a_mail_that_nobody_sends_is_not_ready(client: WebClient) -> None:
    mail = OutgoingMail.objects.create(kind=MailKind.ALREADY_REGISTERED, address="a@example.com")
    late = Now() - timedelta(seconds=health.MAX_UNSENT_MAIL_SECONDS + 5)
    OutgoingMail.objects.filter(pk=mail.pk).update(created_at=late, due_at=Now())
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["checks"]["mail"]["ok"]


def test_metrics_count_rows(client: WebClient, cluster: Cluster) -> None:
    conditions = [{"type": ConditionType.AVAILABLE.value, "status": Truth.TRUE.value}]
    Cluster.objects.filter(pk=cluster.pk).update(conditions=conditions, due_at=Now() - timedelta(seconds=30))
    with CaptureQueriesContext(connection) as queries:
        answer = client.get("/metrics")
    text = answer.content.decode()
    assert answer.status_code == 200
    assert 'flowplane_clusters{available="true",lifecycle="running",stalled="false"}' in text
    assert 'flowplane_operations{kind="create",state="pending"}' in text
    assert "flowplane_turns_overdue 1.0" in text
    waited = next(line for line in text.splitlines() if line.startswith("flowplane_turns_overdue_seconds "))
    assert float(waited.split()[1]) >= 29
    assert "flowplane_http_request_seconds_bucket" in text
    assert len([query for query in queries if "provisioning_" in query["sql"] or "tenants_" in query["sql"]]) == 4


def test_metrics_without_a_token_are_for_this_machine(client: WebClient) -> None:
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.7").status_code == 403


def test_metrics_with_a_token_are_for_its_holder(client: WebClient, settings: Settings) -> None:
    settings.METRICS_TOKEN = "m" * 20
    assert client.get("/metrics").status_code == 403
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 403
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {'m' * 20}"}, REMOTE_ADDR="192.0.2.7")
    assert answer.status_code == 200


def test_request_metrics_name_routes_and_never_objects(client: WebClient, cluster: Cluster) -> None:
    client.get(f"/api/v1/clusters/{cluster.pk}")
    text = client.get("/metrics").content.decode()
    assert 'route="api/v1/clusters/<uuid:cluster_id>"' in text
    assert str(cluster.pk) not in text
