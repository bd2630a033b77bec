"""Whether what is there is what was rendered: pure."""

from __future__ import annotations

from typing import Any

import pytest

from provisioning.backends.kubernetes.drift import differs, first_difference, key_of

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gateway", "labels": {"a": "b"}},
    "spec": {"ports": [{"name": "grpc", "port": 26500}], "selector": {"x": "y"}},
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
    ],
)
def test_a_difference_is_something_wished_that_is_not_there(wished: Any, found: Any, where: str) -> None:
    assert differs(wished, found) == where


def test_what_is_missing_other_or_too_much_is_named() -> None:
    there = {name: value for name, value in SERVICE.items() if name not in {"kind", "apiVersion"}}
    key = key_of(SERVICE)

    assert first_difference([SERVICE], {key: there}) == ""
    assert first_difference([SERVICE], {}) == "Service gateway is missing"
    assert first_difference([SERVICE], {key: {**there, "spec": {}}}) == "Service gateway differs at .spec.ports"
    assert first_difference([], {key: there}) == "Service gateway is not wished"
