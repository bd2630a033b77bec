"""Fixtures of the provisioning tests: a region that lives in memory, and clusters in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from provisioning import executor
from provisioning.models import Region
from provisioning.spec import ClusterRequest
from tests.provisioning.pretend import PretendRegion


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


def ask(**overrides: str) -> ClusterRequest:
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
