"""What the chart's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.charts.volumes import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """An empty volume of a broker."""
    return Volume(tmp_path)


@pytest.fixture(scope="session")
def helm() -> str:
    """The program that renders the chart."""
    path = shutil.which("helm")
    if path is None:
        pytest.fail("There is no helm on PATH. `make test-kubernetes` brings one, for these tests too.", pytrace=False)
    return path
