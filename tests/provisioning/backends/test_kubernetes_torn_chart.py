"""A chart that is not what it should be changes nothing; no region is needed for that."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from common.errors import Permanent
from provisioning.backends.kubernetes.charts import Charts, Wish
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import DesiredCluster, Lifecycle
from tests.provisioning.backends.conftest import SMALL, desired_release

# What stands for Helm here: it prints what the chart's only file says.
HELM = '#!/bin/sh\ncat "$3/rendered.yaml"\n'
WISH = Wish(DesiredCluster(uuid4(), 1, Lifecycle.RUNNING, desired_release("8.5.8"), SMALL, "a/1", "a.example"), 1)


def charts(folder: Path, rendered: str) -> Charts:
    """A chart that renders to this."""
    (folder / "Chart.yaml").write_text("name: torn\n")
    (folder / "rendered.yaml").write_text(rendered)
    helm = folder / "helm"
    helm.write_text(HELM)
    helm.chmod(0o755)
    assert shutil.which(str(helm))
    return Charts(KubernetesSettings("x", None, folder, folder / "ca.pem", folder / "ca.key", helm=str(helm)))


def objects(*kinds: str) -> str:
    return "\n---\n".join(f"kind: {kind}\napiVersion: v1\nmetadata: {{name: x}}" for kind in kinds)


WHOLE = ("ServiceAccount", "Secret", "ConfigMap", "Service", "StatefulSet")


@pytest.mark.parametrize("rendered", ["", "---\n", objects(*WHOLE[:-1]), objects(*WHOLE[1:])])
def test_a_chart_that_came_torn_is_no_wish_to_have_nothing(tmp_path: Path, rendered: str) -> None:
    with pytest.raises(Permanent, match="does not make all that a cluster needs"):
        charts(tmp_path, rendered).kinds(WISH)


def test_a_whole_one_is_rendered_in_the_order_of_its_kinds(tmp_path: Path) -> None:
    rendered = charts(tmp_path, objects(*reversed(WHOLE))).kinds(WISH)
    assert [one["kind"] for one in rendered] == list(WHOLE)
