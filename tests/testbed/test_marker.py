"""Tests use a cluster only if it was made for tests, and say so of each that they do not use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes import VARIABLE

pytestmark = [pytest.mark.kubernetes]
PROGRAM = "from tests.kubernetes import marked_cluster\nprint(marked_cluster().kubeconfig)"
CHOOSE = (sys.executable, "-c", PROGRAM)


class Inside:
    """A testbed of our own, whose marker we may take away."""

    def __init__(self, home: Path) -> None:
        self._testbed = [sys.executable, "-m", "testbed", "--home", str(home)]

    def testbed(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._testbed, *arguments], check=False, capture_output=True, text=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command whose `KUBECONFIG` and `TESTBED_KUBECONFIG` lead to this cluster."""
        return self.testbed("run", "--", *command)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    made = Inside(tmp_path_factory.mktemp("marker") / "bed")
    up = made.testbed("up", "control")
    assert up.returncode == 0, up.stderr
    yield made
    made.testbed("down")


def test_the_marked_one_is_used(inside: Inside) -> None:
    assert inside.run(*CHOOSE).stdout.strip().endswith("admin.kubeconfig")


def test_the_one_of_the_shell_is_not(inside: Inside) -> None:
    """Not even if it carries the marker: whoever has set KUBECONFIG has not said that tests may use it."""
    as_in_a_shell = ("env", "--unset", VARIABLE)
    assert inside.run(*as_in_a_shell, "kubectl", "get", "--raw", "/readyz").stdout == "ok"
    refused = inside.run(*as_in_a_shell, *CHOOSE)
    assert refused.returncode != 0
    assert "There is no Kubernetes for this test: run `make test-kubernetes`" in refused.stderr


def test_one_without_the_marker_is_not(inside: Inside) -> None:
    """Last of all: afterwards it has none."""
    inside.run("kubectl", "-n", "kube-system", "delete", "configmap", "flowplane-testbed")
    refused = inside.run(*CHOOSE)
    assert refused.returncode != 0
    assert "does not carry the marker of one for tests" in refused.stderr
    assert inside.run("kubectl", "get", "--raw", "/readyz").stdout == "ok"
