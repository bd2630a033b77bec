"""An organization that has one of everything, for others to try to get at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction

from billing.models import Plan, Subscription
from provisioning import access, services
from provisioning.models import Cluster
from tenants import services as tenancy
from tenants.models import Organization
from tests.conftest import set_role
from tests.factories import Person, make_credential, make_invitation, unique
from tests.provisioning.conftest import ask, region
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup

__all__ = ["region"]


@dataclass(frozen=True)
class Belongings:
    """One of everything, and the ids under which the routes know it."""

    owner: Person
    cluster: Cluster
    ids: dict[str, str]
    api_ids: dict[str, str]

    def ids_for(self, pattern: str) -> dict[str, str]:
        """Ids for a route's parameters: a credential's id means another one below another address."""
        return self.ids | (self.api_ids if "api-credentials" in pattern else {})

    @property
    def marks(self) -> set[str]:
        """What an outsider must never be shown: every id, and every name that somebody chose."""
        names = {self.owner.organization.name, self.cluster.name, self.owner.user.email}
        return set(self.ids.values()) | set(self.api_ids.values()) | names


def make_belongings(owner: Person, developer: Person) -> Belongings:
    """Give an organization a cluster with its operation and backup, credentials of both kinds, and an invitation."""
    operation = services.create_cluster(actor=owner.actor, request=ask(name=unique("orders")))
    Cluster.objects.filter(pk=operation.cluster_id).update(endpoint_grpc="localhost:26500")
    mine = access.create_credential(actor=owner.actor, cluster_id=operation.cluster_id, name=unique("worker"))
    rest = make_credential(owner, scopes=("clusters:read",))
    invitation, _ = make_invitation(owner.organization)
    backup = make_backup(operation.cluster)
    ids = {
        "cluster_id": str(operation.cluster_id),
        "operation_id": str(operation.pk),
        "backup_id": str(backup.pk),
        "credential_id": str(mine.credential.pk),
        "secret_id": str(mine.secret_row.pk),
        "member_id": str(developer.membership.pk),
        "membership_id": str(developer.membership.pk),
        "invitation_id": str(invitation.pk),
    }
    api_ids = {"credential_id": str(rest.credential.pk), "secret_id": str(rest.secret_row.pk)}
    return Belongings(owner, operation.cluster, ids, api_ids)


@pytest.fixture
def acorns(alice: Person, bob: Person, region: PretendRegion) -> Belongings:
    """All that Acorn has."""
    tenancy.ensure_signing_key()
    Subscription.objects.create(organization=alice.organization, plan=Plan.objects.get(slug="team"))
    return make_belongings(alice, bob)


def imprint(organization: Organization) -> dict[str, Any]:
    """A fingerprint of every row that belongs to an organization, by table."""
    prints: dict[str, Any] = {}
    with connection.cursor() as cursor:
        for model in apps.get_models():
            table = model._meta.db_table
            if "organization_id" in {field.column for field in model._meta.local_fields}:
                cursor.execute(
                    f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"
                    " WHERE organization_id = %s",
                    [organization.pk],
                )
                prints[table] = cursor.fetchone()
        cursor.execute("SELECT name FROM tenants_organization WHERE id = %s", [organization.pk])
        prints["tenants_organization"] = cursor.fetchone()
    return prints


@contextmanager
def undone() -> Iterator[None]:
    """Roll back whatever the block writes, and act as the system again."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)
    set_role("flowplane_system")
