"""What Helm is told of a cluster: its size says who answers clients, and a region's own values come last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings

from provisioning.backends.kubernetes.charts import Charts, Wish
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import DesiredCluster, Gateway, Lifecycle
from tests.provisioning.backends.conftest import SMALL, desired_release

CLUSTER_ID = UUID("5d3b1c9e-6c4f-4f5e-9d2b-0f6f8f1f2a3b")
WISH = DesiredCluster(CLUSTER_ID, 1, Lifecycle.RUNNING, desired_release("8.6.0"), SMALL, "a/1", "a.region.example")


def charts(**values: Any) -> Charts:
    return Charts(KubernetesSettings("r", None, settings.CHART, Path("ca"), Path("key"), values=values))


@pytest.mark.parametrize("gateway", list(Gateway))
def test_the_size_says_who_answers_clients(gateway: Gateway) -> None:
    wish = replace(WISH, gateway=gateway)
    assert charts().values(Wish(wish, 1))["gateway"] == {"mode": gateway.value}
    assert charts().has_gateways(wish) is (gateway is Gateway.STANDALONE)


def test_a_regions_own_values_come_last() -> None:
    replicas_only = charts(gateway={"replicas": 3})
    assert replicas_only.values(Wish(WISH, 1))["gateway"] == {"mode": "embedded", "replicas": 3}
    assert charts(gateway={"mode": "standalone"}).has_gateways(WISH)
