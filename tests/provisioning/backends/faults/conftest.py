"""A region for faults: one for the whole run, and a proxy to it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.models import Cluster
from provisioning.spec import DesiredCluster
from tests.kubernetes import Kubernetes
from tests.provisioning.backends.faults.customers import SLUG, Customers
from tests.provisioning.backends.faults.proxy import proxied, through
from tests.provisioning.backends.faults.stage import Region, reached_by, simulated
from tests.provisioning.backends.kubernetes_stage import make_settings
from tests.provisioning.kills import act_as_system


@pytest.fixture(scope="session")
def direct(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> KubernetesSettings:
    """How the region is reached by an account with our rights, with its engines on simulated nodes."""
    return simulated(make_settings(kubernetes, tmp_path_factory.mktemp("region"), None))


@pytest.fixture
def region(kubernetes: Kubernetes, direct: KubernetesSettings, tmp_path: Path) -> Iterator[Region]:
    """The region, behind a proxy on which nothing is planned yet."""
    assert direct.kubeconfig is not None
    with proxied(direct.kubeconfig) as proxy:
        path = through(proxy, direct.kubeconfig, tmp_path / "proxied.yaml")
        yield Region(kubernetes, direct, proxy, reached_by(direct, path))


@pytest.fixture
def healthy(region: Region) -> Iterator[DesiredCluster]:
    """A cluster that stands as it is wished before the fault."""
    desired = region.healthy()
    yield desired
    region.remove(desired)


@pytest.fixture
def customers(region: Region, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Customers]:
    """Customers of the region behind the proxy; what they own is left with nothing due, and gone from the region."""
    with django_db_blocker.unblock():
        act_as_system()
        Cluster.objects.update(due_at=None)
        made = Customers(region)
        made.offer(SLUG, region.settings)
        yield made
        made.leave()
        connection.close()
