"""Who may reach an engine: a cluster's credentials, and what their holders need to connect.

Credentials and tokens are `tenants`' business, which has never heard of clusters; here they are bound to one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from billing import entitlements
from provisioning import envfile, selectors
from provisioning.errors import AlreadyDeleting, NoEndpointYet, ThrowAwayCopy
from provisioning.models import Cluster
from provisioning.spec import Endpoint, Lifecycle
from tenants import selectors as tenancy_read
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.models import Credential
from tenants.paging import Page, Slice
from tenants.services import NewSecret


def credentials_of(actor: Actor, cluster_id: UUID, page: Page) -> Slice[Credential]:
    """A cluster's credentials that were not revoked, newest first. Raises `NotFound`."""
    row = selectors.cluster(actor, cluster_id).row
    return tenancy_read.credentials_of(actor, row.audience_id, page)


def credential_of(actor: Actor, cluster_id: UUID, credential_id: UUID) -> Credential:
    """One of them. Raises `NotFound`, also for another cluster's."""
    row = selectors.cluster(actor, cluster_id).row
    return tenancy_read.credential(actor, credential_id, row.audience_id)


def create_credential(*, actor: Actor, cluster_id: UUID, name: str, expires_at: datetime | None = None) -> NewSecret:
    """Make a credential for one cluster, with its first secret, which is never shown again.

    Raises:
        NotFound, InvalidName: as they say.
        AlreadyDeleting: nobody will reach this cluster again.
        EntitlementExceeded: the plan's credentials for each cluster are used up.
    """
    row = _reachable(actor, cluster_id)
    limit = entitlements.plan_of(actor.organization).max_credentials_per_cluster
    return tenancy.create_credential(
        actor=actor, name=name, audience_id=row.audience_id, expires_at=expires_at, limit=limit
    )


def add_secret(*, actor: Actor, cluster_id: UUID, credential_id: UUID) -> NewSecret:
    """Make a second live secret, so that the first can be replaced without an interruption."""
    row = _reachable(actor, cluster_id)
    return tenancy.add_secret(actor=actor, credential_id=credential_id, audience_id=row.audience_id)


def revoke_secret(*, actor: Actor, cluster_id: UUID, credential_id: UUID, secret_id: UUID) -> None:
    """Let one secret of a credential get no further token."""
    row = selectors.cluster(actor, cluster_id).row
    tenancy.revoke_secret(actor=actor, credential_id=credential_id, secret_id=secret_id, audience_id=row.audience_id)


def update_credential(*, actor: Actor, cluster_id: UUID, credential_id: UUID, **changes: Any) -> Credential:
    """Rename, disable, enable or re-date a credential; `changes` as `tenants.services.update_credential` takes them."""
    row = selectors.cluster(actor, cluster_id).row
    return tenancy.update_credential(actor=actor, credential_id=credential_id, audience_id=row.audience_id, **changes)


def revoke_credential(*, actor: Actor, cluster_id: UUID, credential_id: UUID) -> None:
    """End a credential for good: it gets no further token."""
    row = selectors.cluster(actor, cluster_id).row
    tenancy.revoke_credential(actor=actor, credential_id=credential_id, audience_id=row.audience_id)


def environment(actor: Actor, cluster_id: UUID, *, client_id: str = "", client_secret: str = "") -> dict[str, str]:
    """All that a stock client needs, as variables; placeholders stand for what is not given.

    Raises:
        NotFound: no such cluster.
        NoEndpointYet: its engine has not been placed, so its address is not known.
    """
    row = selectors.cluster(actor, cluster_id).row
    if not row.endpoint_grpc:
        raise NoEndpointYet("This cluster has no address yet. Wait until it is healthy, then ask again.")
    return envfile.variables(
        envfile.Access(
            cluster_id=row.pk,
            region=row.region_id,
            endpoint=Endpoint(row.endpoint_grpc, row.endpoint_rest),
            token_url=settings.TOKEN_URL,
            ca_file=str(settings.CA_CERT_FILE),
            client_id=client_id,
            client_secret=client_secret,
        )
    )


def _reachable(actor: Actor, cluster_id: UUID) -> Cluster:
    row = selectors.cluster(actor, cluster_id).row
    if row.drill_of_id is not None:
        raise ThrowAwayCopy("This is a copy that proves a backup: nobody has access to it, and it goes by itself.")
    if row.lifecycle == Lifecycle.DELETED:
        raise AlreadyDeleting("This cluster is being deleted: restore it before you give somebody access.")
    return row
