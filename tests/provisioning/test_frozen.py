"""Whoever freezes in a transaction: the database ends the session, others go on, and so does it when it wakes up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
from django.db import InternalError, connection
from django.db.models.functions import Now

from config import problems
from provisioning import executor, reconciler, services
from provisioning.backends.base import ClusterBackend
from provisioning.models import Cluster
from provisioning.services import turns
from provisioning.services.operations import open_operation
from provisioning.states import OPEN_STATES, OperationState
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.shared_region import SharedRegion


@pytest.fixture
def as_system(committed: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections of the system's."""
    monkeypatch.setitem(connection.settings_dict, "USER", "flowplane_system")
    connection.close()
    yield
    connection.close()


@pytest.fixture
def other(as_system: None) -> Iterator[psycopg.Connection]:
    """Somebody else's session."""
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as session:
        yield session


def freeze(other: psycopg.Connection) -> None:
    """Say nothing until the database has ended our session: after a second, for what is half a minute in earnest.

    Only from here on, because a busy machine may pause for a second anywhere.
    """
    us = connection.connection.info.backend_pid
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '1s'")
    while other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [us]).fetchone() is not None:
        time.sleep(0.05)


def test_a_creation_that_freezes_holds_its_region_no_longer_than_that(
    committed: Person, shared: SharedRegion, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = "SELECT FROM provisioning_region WHERE slug = %s FOR UPDATE NOWAIT"

    def freeze_while_others_wait(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(region, [shared.folder.name])
        freeze(other)
        assert other.execute(region, [shared.folder.name]).fetchone() is not None
        return open_operation(*arguments, **named)

    monkeypatch.setattr("provisioning.services.wishes.open_operation", freeze_while_others_wait)
    with pytest.raises(InternalError) as ended:
        services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name))
    assert problems.problem_of(ended.value) == problems.DATABASE_AWAY
    monkeypatch.setattr("provisioning.services.wishes.open_operation", open_operation)
    assert not Cluster.objects.filter(organization=committed.organization).exists()
    services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name))


def test_a_turn_that_freezes_is_no_death_of_a_worker(
    committed: Person, shared: SharedRegion, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = services.create_cluster(actor=committed.actor, request=ask(region=shared.folder.name))
    cluster = operation.cluster
    monkeypatch.setitem(executor.BACKENDS, "shared", lambda _slug: cast(ClusterBackend, shared))
    write_backup = turns._write_backup

    def freeze_before(*arguments: Any) -> None:
        freeze(other)
        write_backup(*arguments)

    monkeypatch.setattr(turns, "_write_backup", freeze_before)
    with pytest.raises(InternalError):
        reconciler.serve()
    monkeypatch.setattr(turns, "_write_backup", write_backup)
    cluster.refresh_from_db()
    assert (cluster.lease_expires_at, cluster.deaths, cluster.failures) == (None, 0, 1)
    while operation.state in OPEN_STATES:
        Cluster.objects.filter(pk=cluster.pk).update(due_at=Now())
        reconciler.serve()
        operation.refresh_from_db()
    assert operation.state == OperationState.SUCCEEDED
