"""A Kubernetes that was made for tests, and kubectl on it.

Never whatever the person at the keyboard happens to be connected to: only one that is named for tests, and that carries
the marker which `python -m testbed up` leaves. To use another cluster, make that ConfigMap there.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "TESTBED_KUBECONFIG"
MARKER = ("-n", "kube-system", "get", "configmap", "flowplane-testbed", "-o", "json")
# Above every `--timeout` that kubectl is given itself.
KUBECTL_SECONDS = 600
ADVICE = "run `make test-kubernetes`, or name a cluster in FLOWPLANE_TEST_KUBECONFIG"


class Refused(Exception):
    """What kubectl said when it failed."""


@dataclass(frozen=True)
class Kubernetes:
    """One cluster. `domain` is the region's: its names lead to the edge."""

    kubeconfig: Path
    domain: str = ""

    def kubectl(self, *arguments: str, objects: str = "") -> str:
        """Run kubectl, with these objects (YAML) as its input, and return what it said.

        Raises:
            Refused: it failed.
        """
        argv = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(argv, input=objects, capture_output=True, text=True, check=False, timeout=KUBECTL_SECONDS)
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout

    def apply(self, objects: str) -> None:
        """Make these objects (YAML) so."""
        self.kubectl("apply", "-f", "-", objects=objects)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` shows, as data."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def succeeds(self, *arguments: str) -> bool:
        """Tell whether kubectl succeeds."""
        try:
            self.kubectl(*arguments)
        except Refused:
            return False
        return True

    def inside(self, namespace: str) -> Namespace:
        return Namespace(self, namespace)


@dataclass(frozen=True)
class Namespace:
    """One namespace of a cluster."""

    cluster: Kubernetes
    name: str

    def kubectl(self, *arguments: str, objects: str = "") -> str:
        """Run kubectl on this namespace."""
        return self.cluster.kubectl("-n", self.name, *arguments, objects=objects)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` shows, as data."""
        return self.cluster.get("-n", self.name, *arguments)

    def edit(self, name: str, change: Callable[[Any], object]) -> None:
        """Change an object as `kubectl edit` does, and once more on top of what a controller wrote meanwhile."""
        while True:
            found = self.get(name)
            change(found)
            found["metadata"].pop("managedFields", None)
            try:
                self.kubectl("replace", "-f", "-", objects=json.dumps(found))
            except Refused as refused:
                if "the object has been modified" not in str(refused):
                    raise
            else:
                return

    def in_pod(self, pod: str, *command: str) -> str:
        """Run a command in a pod and return what it said."""
        return self.kubectl("exec", pod, "--", *command)

    def can(self, pod: str, *command: str) -> bool:
        """Tell whether a command succeeds in a pod."""
        try:
            self.in_pod(pod, *command)
        except Refused:
            return False
        return True


def marked_cluster() -> Kubernetes:
    """Return the cluster that tests may use; without one the test fails, because a skipped test proves nothing."""
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.fail(f"There is no Kubernetes for this test: {ADVICE}.")
    cluster = Kubernetes(Path(given))
    try:
        marker = json.loads(cluster.kubectl(*MARKER))
    except Refused as error:
        pytest.fail(f"The cluster of {given} does not carry the marker of one for tests ({error}); {ADVICE}.")
    return Kubernetes(cluster.kubeconfig, marker.get("data", {}).get("domain", ""))


def eventually(is_so: Callable[[], bool], *, seconds: float = 120) -> bool:
    """Tell whether it becomes so in time; a look that is refused is not so yet.

    Raises:
        Refused: the last look of all was.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return True
            if time.monotonic() > deadline:
                return False
        except Refused:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)
