"""Whatever lies where a region's kubeconfig should be, there is a sentence for it, and nothing breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from provisioning.backends.kubernetes.backend import KubernetesBackend
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.errors import RegionUnreachable

UNREADABLE = "The credentials for this region cannot be read."
# Nothing listens on this port of loopback.
NOBODY = "https://127.0.0.1:1"


def config(cluster: dict[str, Any], user: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
        }
    )


def register_by(file: Path) -> object:
    made = KubernetesSettings("r", file, settings.CHART, settings.CA_CERT_FILE, settings.CA_KEY_FILE)
    return KubernetesBackend(made).read_register()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{{{: [",
        "\0",
        "- 1",
        "hello",
        "apiVersion: v1",
        config({"server": NOBODY}, {}).replace("clusters:", "nothing:"),
        config({"server": NOBODY, "certificate-authority": "/nowhere"}, {"token": "x"}),
        config({}, {"token": "x"}),
        config({"server": "10.0.0.1"}, {"token": "x"}),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_said(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "r.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RegionUnreachable, match=UNREADABLE):
        register_by(file)


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(RegionUnreachable, match=UNREADABLE):
        register_by(tmp_path)


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"server": NOBODY}, {"token": "x"}),
        ({"server": NOBODY, "certificate-authority-data": "bm90IGEgY2VydA=="}, {"token": "x"}),
    ],
)
def test_one_that_leads_nowhere_is_a_silent_region(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(config(cluster, user))
    with pytest.raises(RegionUnreachable):
        register_by(file)
