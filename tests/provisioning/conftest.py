"""Fixtures of the provisioning tests: a region that lives in memory, and clusters in it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from django.db import connection
from django.db.models.functions import Now
from pytest_django.plugin import DjangoDbBlocker

from billing.models import Subscription
from provisioning import executor, reconciler, wakeups
from provisioning.absence import Absence
from provisioning.models import Backup, Channel, Cluster, Operation, PlanType, Region
from provisioning.spec import ClusterRequest
from tenants.models import Audience, Organization
from tests.factories import Person, make_person
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.shared_region import SharedRegion


@pytest.fixture(autouse=True)
def database_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test had the database refuse forgives no death here."""
    monkeypatch.setattr(reconciler, "_absence", Absence(reconciler.FORGIVING_SECONDS))


@pytest.fixture
def region(db: None) -> Iterator[PretendRegion]:
    """A region in memory, on offer under the name `pretend`."""
    pretend = PretendRegion()
    executor.BACKENDS["pretend"] = lambda _slug: pretend
    executor.backend_of.cache_clear()
    Region.objects.create(slug="pretend", name="Pretend", backend="pretend", domain="pretend.example")
    yield pretend
    del executor.BACKENDS["pretend"]
    executor.backend_of.cache_clear()


@pytest.fixture
def nothing_else(region: PretendRegion) -> Iterator[None]:
    """The bench's own region remembers beats of tests whose rows were rolled back: nobody asks it here."""
    local, other = executor.BACKENDS["local"], PretendRegion()
    executor.BACKENDS["local"] = lambda _slug: other
    executor.backend_of.cache_clear()
    yield
    executor.BACKENDS["local"] = local
    executor.backend_of.cache_clear()


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Person]:
    """A person of a committed organization; what it owns is left behind, with nothing due."""
    with django_db_blocker.unblock():
        see_everything()
        person = make_person()
        yield person
        Cluster.objects.filter(organization=person.organization).update(due_at=None)
        connection.close()


def see_everything() -> None:
    """Act as the system on this thread's connection, until it is closed."""
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE flowplane_system")


@pytest.fixture
def slow_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred threads connect at once and take turns at it: each waits far longer than one alone ever does."""
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "connect_timeout", 120)  # all threads share them


@pytest.fixture
def shared(committed: Person, tmp_path: Path) -> Iterator[SharedRegion]:
    """A committed region that processes of ours share, named as its folder is; nothing but its clusters is due."""
    folder = tmp_path / f"shared-{uuid4().hex[:8]}"
    folder.mkdir()
    Cluster.objects.update(due_at=None)
    forget_messages()
    row = Region.objects.create(slug=folder.name, name="Shared", backend="shared", domain="shared.example")
    yield SharedRegion(folder)
    Backup.objects.filter(cluster__region=row).delete()
    Operation.objects.filter(cluster__region=row).delete()
    Cluster.objects.filter(region=row).delete()
    row.delete()


def messages() -> int:
    """How many wait in the broker for a worker."""
    with current_app.connection_for_read() as connected:
        channel: Any = connected.default_channel  # the stubs know channels of every broker, not Redis' own
        return int(channel.client.llen(current_app.conf.task_default_queue))


def forget_messages() -> None:
    """Have none wait, and nobody ringing."""
    current_app.control.purge()
    wakeups.hear()


def put_on_plan(person: Person, slug: str) -> None:
    """Move a person's organization to a larger plan."""
    Subscription.objects.create(organization=person.organization, plan_id=slug)


def make_clusters(
    organization: Organization, number: int, *, region: str = "pretend", due_seconds_ago: float | None = 1.0
) -> list[Cluster]:
    """Many clusters without operations, the first of them due longest; None: not due."""
    size, channel = PlanType.objects.get(slug="small"), Channel.objects.get(slug="stable")
    audiences = Audience.objects.bulk_create(Audience(organization=organization) for _ in range(number))
    rows = [
        Cluster(
            id=audience.pk,
            audience=audience,
            organization=organization,
            name=f"cluster {audience.pk}",
            stage="dev",
            region_id=region,
            plan_type=size,
            channel=channel,
            release=channel.default_release,
            partitions=1,
            due_at=None if due_seconds_ago is None else Now() - timedelta(seconds=due_seconds_ago - place / 1e6),
        )
        for place, audience in enumerate(audiences)
    ]
    return Cluster.objects.bulk_create(rows)


def ask(**overrides: Any) -> ClusterRequest:
    """A request for a small cluster in the pretended region."""
    fields = {
        "name": "orders",
        "stage": "dev",
        "region": "pretend",
        "plan_type": "small",
        "channel": "stable",
        "release": "",
        **overrides,
    }
    return ClusterRequest(**fields)
