"""What is asked of a region when a part of a cluster is not as wished. On a real one: faults/test_every_object.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from common.errors import Permanent
from provisioning.backends.kubernetes import apply, fence
from provisioning.backends.kubernetes.fence import Ground, labels_for
from tests.provisioning.backends.apiserver import Reply, client_of, kubeconfig, scripted

CLUSTER_ID = UUID("00000000-0000-4000-8000-000000000001")
NAME = f"fp-{CLUSTER_ID}"
GROUND = Ground(CLUSTER_ID, NAME, "u", "1", {})
OURS = {"name": "grpc", "port": 26500}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gateway"},
    "spec": {"ports": [OURS], "selector": {"a": "b"}},
}


def applied(*ports: dict[str, Any]) -> Reply:
    """The answer to an apply: what the object is now, with what the server adds."""
    ports = tuple({**port, "protocol": "TCP"} for port in ports)
    metadata = {"name": "gateway", "resourceVersion": "7", "annotations": {"their": "note"}}
    return Reply(body={"metadata": metadata, "spec": {**SERVICE["spec"], "ports": ports, "clusterIP": "10.0.0.1"}})


def test_an_object_that_is_as_wished_when_it_is_applied_costs_one_request(tmp_path: Path) -> None:
    with scripted(applied(OURS)) as server:
        apply.lay_down(client_of(kubeconfig(tmp_path, server.port)), GROUND, [SERVICE])

    assert [asked.content_type for asked in server.asked] == ["application/apply-patch+yaml"]


def test_a_list_that_somebody_added_to_is_written_whole_in_the_version_that_was_seen(tmp_path: Path) -> None:
    with scripted(applied(OURS, {"name": "theirs", "port": 1}), applied(OURS)) as server:
        apply.lay_down(client_of(kubeconfig(tmp_path, server.port)), GROUND, [SERVICE])

    assert [asked.content_type for asked in server.asked] == [
        "application/apply-patch+yaml",
        "application/merge-patch+json",
    ]
    assert json.loads(server.asked[1].body) == {"metadata": {"resourceVersion": "7"}, "spec": SERVICE["spec"]}


def test_whoever_enters_a_namespace_gives_it_back_the_labels_that_it_was_made_with(tmp_path: Path) -> None:
    enforce = "pod-security.kubernetes.io/enforce"
    about = {"name": NAME, "uid": "u", "resourceVersion": "7", "annotations": {"flowplane.dev/epoch": "3"}}
    opened = {**about, "labels": {**labels_for(CLUSTER_ID), enforce: "privileged", "their": "label"}}
    with scripted(Reply(body={"metadata": opened}), Reply(body={"metadata": about})) as server:
        fence.enter(client_of(kubeconfig(tmp_path, server.port)), CLUSTER_ID, 3)

    assert [asked.method for asked in server.asked] == ["GET", "PATCH"]
    assert json.loads(server.asked[1].body)["metadata"]["labels"] == {enforce: "restricted"}


def test_what_a_rule_of_the_region_refuses_to_remember_is_told_with_its_reason(tmp_path: Path) -> None:
    """A failed test of a patch has the same status; but then the field is not as it was tested."""
    denied = Reply(422, {"message": "ValidatingAdmissionPolicy 'strict' denied request", "reason": "Invalid"})
    held = Reply(body={"data": {"about": "", str(CLUSTER_ID): "3"}})
    with scripted(*(held, denied) * fence.ATTEMPTS, held) as server, pytest.raises(Permanent) as caught:
        fence.remember(client_of(kubeconfig(tmp_path, server.port)), CLUSTER_ID, 4, is_first=False)

    assert "'strict' denied" in caught.value.internal
    assert [asked.method for asked in server.asked] == ["GET", "PATCH"] * fence.ATTEMPTS + ["GET"]
