"""A real API server takes all that the chart makes, and keeps every field as it was given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from embedded.home import locate
from provisioning.backends.kubernetes.drift import key_of, where_it_differs
from provisioning.backends.kubernetes.kinds import RULES
from testbed.definitions import provide
from tests.charts.cases import ALL, NAMESPACE, Object, render
from tests.kubernetes import Kubernetes, Refused, eventually

pytestmark = pytest.mark.kubernetes

# Kinds of other projects, by cases that have one, and where each holds something that their definition does not allow.
FOREIGN = {
    "edge-tls-route": ("TLSRoute", "rules", "backendRefs"),
    "observed": ("ServiceMonitor", "endpoints", "intervall"),
}


@pytest.fixture(scope="module")
def definitions(kubernetes: Kubernetes) -> Iterator[None]:
    """Other projects' kinds, which few clusters have; those that we bring are taken away again."""
    brought = []
    for file in sorted(provide(locate().cache).iterdir()):
        name = yaml.safe_load(file.read_text())["metadata"]["name"]
        if not kubernetes.succeeds("get", "customresourcedefinition", name):
            kubernetes.kubectl("create", "-f", str(file))
            brought.append(name)
        # Asked for by its kind: the server serves one a moment after it is made.
        assert eventually(lambda name=name: kubernetes.succeeds("get", name, "-A"))  # type: ignore[misc]
    yield
    for name in brought:
        kubernetes.kubectl("delete", "customresourcedefinition", name)


@pytest.fixture(scope="module")
def namespace(kubernetes: Kubernetes) -> Iterator[str]:
    """A namespace as the chart wants it; nothing ever runs in it."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    kubernetes.apply(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    )
    yield NAMESPACE
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def differences(wanted: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Yield where something that was given is not there, or not as it was given; what the server adds is its own."""
    if isinstance(wanted, dict) and isinstance(kept, dict):
        for name, value in wanted.items():
            yield from differences(value, kept.get(name), f"{path}.{name}")
    elif isinstance(wanted, list) and isinstance(kept, list) and len(wanted) == len(kept):
        for index, (value, other) in enumerate(zip(wanted, kept, strict=True)):
            yield from differences(value, other, f"{path}[{index}]")
    elif wanted != kept:
        yield f"{path}: {wanted!r} is kept as {kept!r}"


def require_kept_by_server(cluster: Kubernetes, objects: list[Object], manager: str) -> None:
    """Fail where a server-side apply, which changes nothing, would not keep what it is given, or add to a rule."""
    options = ("--server-side", f"--field-manager={manager}", "--dry-run=server", "--force-conflicts", "-o", "json")
    answer = cluster.kubectl("apply", *options, "-f", "-", objects=yaml.safe_dump_all(objects))
    kept = {(found["kind"], found["metadata"]["name"]): found for found in json.loads(answer)["items"]}
    found = {
        f"{wanted['kind']}/{wanted['metadata']['name']}": list(
            differences(wanted, kept[wanted["kind"], wanted["metadata"]["name"]])
        )
        for wanted in objects
    }
    assert not {name: lines for name, lines in found.items() if lines}
    assert {where_it_differs(one, kept[key_of(one)]) for one in objects if one["kind"] in RULES} <= {""}


@pytest.mark.usefixtures("definitions", "namespace")
@pytest.mark.parametrize("name", ALL)
def test_the_server_keeps_what_it_is_given(kubernetes: Kubernetes, helm: str, name: str) -> None:
    require_kept_by_server(kubernetes, render(helm, ALL[name]), "flowplane")


@pytest.mark.usefixtures("definitions", "namespace")
@pytest.mark.parametrize("name", FOREIGN)
def test_the_server_knows_other_projects_kinds(kubernetes: Kubernetes, helm: str, name: str) -> None:
    """It refuses a field that their definition lacks, so what it keeps above is what they mean by it."""
    kind, part, field = FOREIGN[name]
    found = next(found for found in render(helm, ALL[name]) if found["kind"] == kind)
    found["spec"][part][0][field] = "nonsense"
    with pytest.raises(Refused, match=rf"spec\.{part}\[0\]\.{field}"):
        require_kept_by_server(kubernetes, [found], "flowplane")
