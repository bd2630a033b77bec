"""Fixtures of the console's tests: a cluster of Acorn's in a region where nothing ever starts."""

from __future__ import annotations

import pytest

from provisioning import selectors, services
from provisioning.models import Region
from provisioning.selectors import ClusterView
from provisioning.spec import ClusterRequest
from tests.factories import Person

# Where nothing starts: no turn is taken in these tests, so no backend is ever asked.
REGION = "nowhere"


@pytest.fixture(autouse=True)
def region(db: None) -> Region:
    """A region on offer."""
    return Region.objects.create(slug=REGION, name="Nowhere", backend="local", domain="nowhere.example")


@pytest.fixture
def orders(alice: Person) -> ClusterView:
    """Alice's cluster, just asked for."""
    request = ClusterRequest("orders", "dev", REGION, "small", "stable")
    operation = services.create_cluster(actor=alice.actor, request=request)
    return selectors.cluster(alice.actor, operation.cluster_id)


@pytest.fixture
def wish() -> dict[str, str]:
    """The form of a new cluster, filled in well."""
    return {"name": "payments", "stage": "dev", "region": REGION, "plan_type": "small", "release": "stable/8.5.8"}
