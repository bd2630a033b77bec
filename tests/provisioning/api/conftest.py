"""Fixtures of the REST door's tests: a cluster, and the body that asks for one."""

from __future__ import annotations

from typing import Any

import pytest

from provisioning import services
from provisioning.models import Cluster
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

CLUSTERS = "/api/v1/clusters"
PROBLEM = "application/problem+json"


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    """A cluster of Acorn's, just asked for."""
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


def wish(**overrides: Any) -> dict[str, Any]:
    """The body that asks for a small cluster."""
    body = {"name": "orders", "stage": "dev", "region": "pretend", "plan_type": "small", "channel": "stable"}
    return {**body, **overrides}


def place(cluster: Cluster) -> None:
    """Give a cluster the address that its engine would have."""
    Cluster.objects.filter(pk=cluster.pk).update(
        endpoint_grpc="localhost:26500", endpoint_rest="https://localhost:26503"
    )
