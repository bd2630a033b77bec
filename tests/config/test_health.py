"""Alive, getting anywhere, how much of everything."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from config import backup, health, restore
from provisioning import services, wakeups
from provisioning.backends.base import Find
from provisioning.models import Backup, Cluster, OperationStep, Region
from provisioning.services import installation, leftovers
from provisioning.states import ConditionType, Truth
from tenants.models import MailKind, OutgoingMail
from tests.config.test_archive import make_manifest
from tests.conftest import WebClient
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup

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
    assert set(answer.json()["checks"]) == {"database", "migrations", "turns", "mail", "installation", "regions"}
    assert all(check["ok"] and check["message"].endswith(".") for check in answer.json()["checks"].values())


def test_a_region_that_is_away_is_said_and_no_reason_to_be_down(client: WebClient, region: PretendRegion) -> None:
    Region.objects.exclude(pk="pretend").delete()
    wakeups.note_watch("pretend", age_seconds=20)
    said = client.get("/readyz").json()["checks"]["regions"]["message"]
    assert re.fullmatch(r"Every region answers\. Last heard: pretend 2\d s ago\.", said)
    said = client.get("/metrics").content.decode()
    assert 'flowplane_region_watched{region="pretend"} 1.0' in said
    assert 'flowplane_region_watch_age_seconds{region="pretend"} 2' in said
    wakeups.forget_watch("pretend")
    assert "pretend: nobody hears of its changes" in client.get("/readyz").json()["checks"]["regions"]["message"]
    said = client.get("/metrics").content.decode()
    assert 'flowplane_region_watched{region="pretend"} 0.0' in said
    assert "flowplane_region_watch_age_seconds{" not in said
    Region.objects.filter(pk="pretend").update(
        silent_since=Now() - timedelta(hours=1), placed=3, max_clusters=4, silence="No."
    )
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "pretend: no answer since 20" in answer.json()["checks"]["regions"]["message"]
    said = client.get("/metrics").content.decode()
    assert 'flowplane_region_clusters{region="pretend",state="open"} 3.0' in said
    assert 'flowplane_region_max_clusters{region="pretend"} 4.0' in said
    assert 'flowplane_region_silent_seconds{region="pretend"} 36' in said
    Region.objects.filter(pk="pretend").update(maintenance_since=Now())
    assert "pretend: in maintenance since 20" in client.get("/readyz").json()["checks"]["regions"]["message"]


def test_how_long_a_step_has_been_under_way_is_counted_until_it_is_over(client: WebClient, cluster: Cluster) -> None:
    step = OperationStep.objects.filter(operation__cluster=cluster).earliest("position")
    OperationStep.objects.exclude(pk=step.pk).update(started_at=None)
    OperationStep.objects.filter(pk=step.pk).update(started_at=Now() - timedelta(seconds=3600), finished_at=None)
    said = client.get("/metrics").content.decode()
    assert f'flowplane_operation_step_seconds{{step="{step.kind}"}} 36' in said
    OperationStep.objects.filter(pk=step.pk).update(finished_at=Now())
    assert "flowplane_operation_step_seconds{" not in client.get("/metrics").content.decode()


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
    assert len([query for query in queries if "provisioning_" in query["sql"] or "tenants_" in query["sql"]]) == 12


def sample(client: WebClient, name: str) -> float | None:
    """The value of one metric; None when it has no sample."""
    lines = client.get("/metrics").content.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), None)


def test_metrics_tell_of_backups_without_naming_anybody(client: WebClient, cluster: Cluster) -> None:
    assert sample(client, "flowplane_backup_newest_seconds") is None
    make_backup(cluster, finished_at=Now() - timedelta(hours=2))
    make_backup(cluster, finished_at=Now() - timedelta(hours=1))
    make_backup(cluster, state="failed", error_message="The store does not answer.")
    assert sample(client, 'flowplane_backups{state="completed"}') == 2
    assert sample(client, 'flowplane_backups{state="failed"}') == 1
    newest = sample(client, "flowplane_backup_newest_seconds")
    assert newest is not None
    assert 3590 < newest < 3700
    text = client.get("/metrics").content.decode()
    assert str(cluster.pk) not in text
    assert str(cluster.organization_id) not in text


OVERDUE, WORST = "flowplane_backups_overdue", "flowplane_backups_overdue_seconds"


def scheduled(cluster: Cluster, *, every_hours: int, created_hours_ago: int = 0, **overrides: Any) -> None:
    """Have a cluster be backed up so often."""
    created_at = Now() - timedelta(hours=created_hours_ago)
    Cluster.objects.filter(pk=cluster.pk).update(backup_every_hours=every_hours, created_at=created_at, **overrides)


def test_a_busy_cluster_hides_none_whose_schedule_fails(
    client: WebClient, alice: Person, charlie: Person, cluster: Cluster
) -> None:
    busy = cluster
    daily = services.create_cluster(actor=alice.actor, request=ask(name="daily")).cluster
    hourly = services.create_cluster(actor=charlie.actor, request=ask(name="hourly")).cluster
    assert (sample(client, OVERDUE), sample(client, WORST)) == (0, 0)
    scheduled(busy, every_hours=1, created_hours_ago=100)
    scheduled(daily, every_hours=24, created_hours_ago=100)
    scheduled(hourly, every_hours=1, created_hours_ago=100)
    make_backup(busy, finished_at=Now() - timedelta(minutes=5))
    make_backup(daily, finished_at=Now() - timedelta(hours=47))
    make_backup(hourly, finished_at=Now() - timedelta(hours=3))
    make_backup(hourly, state="failed", finished_at=Now() - timedelta(minutes=5))
    make_backup(hourly, state="removing", finished_at=Now() - timedelta(minutes=5))
    assert sample(client, OVERDUE) == 1
    assert sample(client, WORST) == pytest.approx(3 * 3600, abs=60)

    Backup.objects.filter(cluster=daily).update(finished_at=Now() - timedelta(hours=49))
    assert sample(client, OVERDUE) == 2
    assert sample(client, WORST) == pytest.approx(49 * 3600, abs=60)


@pytest.mark.parametrize(
    ("circumstances", "count"),
    [
        ({"every_hours": 0, "created_hours_ago": 100}, 0),  # no schedule
        ({"every_hours": 24, "created_hours_ago": 1}, 0),  # its first one may come yet
        ({"every_hours": 24, "created_hours_ago": 100}, 1),
        ({"every_hours": 24, "created_hours_ago": 100, "hold": "set_back"}, 1),  # nobody backs it up meanwhile
        ({"every_hours": 24, "created_hours_ago": 100, "lifecycle": "suspended"}, 0),  # nothing changes in it
        ({"every_hours": 24, "created_hours_ago": 100, "deleted_at": Now()}, 0),
    ],
)
def test_without_any_backup_a_clusters_beginning_counts(
    client: WebClient, cluster: Cluster, circumstances: dict[str, Any], count: int
) -> None:
    scheduled(cluster, **circumstances)
    assert sample(client, OVERDUE) == count
    assert sample(client, WORST) == pytest.approx(count * 100 * 3600, abs=60)


def test_metrics_tell_the_age_of_flowplanes_own_backup(client: WebClient) -> None:
    name, now = "flowplane_installation_backup_seconds", datetime.now(UTC)
    assert sample(client, name) == math.inf, "a rule on the age sounds when there is none"
    backup.put_on_record(make_manifest(created_at=now - timedelta(hours=30)), 1)
    backup.put_on_record(make_manifest(created_at=now - timedelta(hours=2)), 1)
    assert sample(client, name) == pytest.approx(2 * 3600, abs=60)
    # Restored from another one, in whose trail it does not stand itself.
    restore.after_restore(connection, make_manifest(created_at=now - timedelta(hours=5)))
    assert sample(client, name) == pytest.approx(5 * 3600, abs=60)
    backup.put_on_record(make_manifest(created_at=now), 1)
    assert sample(client, name) == pytest.approx(0, abs=60)


def test_metrics_tell_what_waits_for_an_operator(client: WebClient, cluster: Cluster) -> None:
    names = (
        'flowplane_clusters_held{hold="set_back"}',
        "flowplane_installation_set_back",
        "flowplane_leftovers_waiting",
        "flowplane_clusters_missing",
    )
    before = [sample(client, name) for name in names]
    installation.set_back()
    leftovers.note_finds(cluster.region, [Find(uuid4())])
    Cluster.objects.filter(pk=cluster.pk).update(was_healthy=True, created_at=Now() - timedelta(days=1))
    leftovers.note_missing(cluster.region, [])
    after = [sample(client, name) for name in names]
    assert [then is not None and now is not None and now > then for then, now in zip(before, after, strict=True)] == [
        True, True, True, True,
    ]  # fmt: skip


def test_a_database_set_back_stays_ready_and_says_so(client: WebClient, cluster: Cluster) -> None:
    installation.set_back()
    Cluster.objects.update(due_at=None)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    check = answer.json()["checks"]["installation"]
    assert (check["ok"], "older copy" in check["message"]) == (True, True)


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
