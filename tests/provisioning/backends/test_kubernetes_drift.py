"""Whether what is there is what was rendered: pure."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from provisioning.backends.kubernetes.drift import differs, first_difference, key_of, where_it_differs
from provisioning.backends.kubernetes.kinds import OWNED, kinds_in

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gateway", "labels": {"a": "b"}},
    "spec": {"ports": [{"name": "grpc", "port": 26500}], "selector": {"x": "y"}},
}
CLOSED: Any = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "labels": {"a": "b"}},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


@pytest.mark.parametrize(
    ("wished", "found", "where"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, ""),
        ({"a": 1}, {"a": 2}, ".a"),
        ({"a": 1}, {}, ".a"),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1, "d": 2}]}}, ""),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 2}]}}, ".a.b[0].c"),
        ({"a": [1, 2]}, {"a": [1]}, ".a"),
        ({"a": [1]}, {"a": [1, 2]}, ".a"),
        ({"a": {}}, {}, ""),
        ({"a": None}, {}, ""),
        ({"a": []}, {"a": []}, ""),
        ({"a": {}}, {"a": {"b": 1}}, ""),
        ({"a": []}, {"a": [1]}, ".a"),
        ({"a": "1"}, {"a": 1}, ".a"),
        ({"a": {"b": 1}}, {"a": None}, ".a.b"),
        ({"selector": {"a": "b"}}, {"selector": {"a": "b", "c": "d"}}, ".selector"),
    ],
)
def test_a_difference_is_something_wished_that_is_not_there(wished: Any, found: Any, where: str) -> None:
    assert differs(wished, found) == where


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda _: None, ""),
        (lambda one: one["metadata"]["labels"].update(theirs="kept"), ""),
        (lambda one: one["metadata"]["labels"].clear(), ".metadata.labels.a"),
        (lambda one: one["spec"].update(podSelector={"matchLabels": {"c": "d"}}), ".spec"),
        (lambda one: one["spec"].update(ingress=[{}]), ".spec"),
        (lambda one: one["spec"].update(egress=[]), ""),
        (lambda one: one["spec"]["policyTypes"].append("Egress"), ".spec.policyTypes"),
        (lambda one: one.update(status={"hard": {}}), ""),
    ],
)
def test_nothing_can_be_added_to_a_rule(change: Callable[[Any], None], where: str) -> None:
    there = deepcopy(CLOSED)
    change(there)

    assert where_it_differs(CLOSED, there) == where


def test_a_choice_of_everything_is_another_one_than_none() -> None:
    rule = {
        **CLOSED,
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]},
    }
    wider = deepcopy(rule)
    wider["spec"]["ingress"][0]["from"][0]["namespaceSelector"] = {}

    assert where_it_differs(rule, wider) == ".spec"


def test_what_is_missing_other_or_too_much_is_named() -> None:
    there = {name: value for name, value in SERVICE.items() if name not in {"kind", "apiVersion"}}
    key = key_of(SERVICE)

    assert first_difference([SERVICE], {key: there}) == ""
    assert first_difference([SERVICE], {}) == "Service gateway is missing"
    assert first_difference([SERVICE], {key: {**there, "spec": {}}}) == "Service gateway differs at .spec.ports"
    assert first_difference([], {key: there}) == "Service gateway is not wished"


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({}, []),
        ({"edge": {"kind": "none"}}, []),
        ({"edge": {"kind": "ingress"}}, ["/apis/networking.k8s.io/v1/ingresses"]),
        (
            {"edge": {"kind": "tlsRoute", "tlsRoute": {"apiVersion": "gateway.networking.k8s.io/v1alpha3"}}},
            ["/apis/gateway.networking.k8s.io/v1alpha3/tlsroutes"],
        ),
        (
            {"monitoring": {"serviceMonitor": {"enabled": True}}},
            ["/apis/monitoring.coreos.com/v1/servicemonitors"],
        ),
    ],
)
def test_a_regions_values_say_which_kinds_its_clusters_have(values: dict[str, Any], more: list[str]) -> None:
    assert [kind.path() for kind in kinds_in(values)[len(OWNED) :]] == more
