"""What `bench.k8s` counts with: the API server's log read along, and what processes have used."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from bench.k8s_place import BARE, NAMESPACE, OURS, Audit, cpu_seconds, peak_mb


def line(side: str, verb: str, resource: str, place: str, *, stage: str = "ResponseComplete", code: int = 200) -> str:
    event = {
        "stage": stage,
        "verb": verb,
        "user": {"username": f"system:serviceaccount:{NAMESPACE}:{side}"},
        "objectRef": {"resource": resource, "name": "broker", "namespace": place},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": "2026-11-28T10:00:00.250000Z",
        "stageTimestamp": "2026-11-28T10:00:01.500000Z",
    }
    return json.dumps(event) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    path.write_text(line(OURS, "get", "pods", "fp-1"))
    return path


def add(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.write("".join(lines))


def test_each_request_is_counted_once_and_for_its_side(log: Path) -> None:
    audit = Audit(log)
    place = audit.place()
    add(log, line(BARE, "list", "pods", "fp-2"), line(OURS, "watch", "pods", "", stage="ResponseStarted"))
    add(log, line(OURS, "watch", "pods", ""), line(OURS, "patch", "secrets", "fp-1")[:50])
    assert [one.verb for one in audit.since(place, OURS)] == ["watch"]
    add(log, line(OURS, "patch", "secrets", "fp-1")[50:])
    assert [one.verb for one in audit.since(place, OURS)] == ["watch", "patch"]
    assert [one.is_write for one in audit.since(place, OURS)] == [False, True]


def test_a_tenant_is_applied_when_its_last_object_was_accepted(log: Path) -> None:
    audit = Audit(log)
    place = audit.place()

    def apply() -> None:
        add(log, line(OURS, "patch", "statefulsets", "fp-1", code=409), line(BARE, "patch", "statefulsets", "fp-1"))
        add(log, line(OURS, "patch", "statefulsets", "fp-1", code=201))

    threading.Timer(0.1, apply).start()
    applied = audit.applied(place, OURS, {"fp-1"})
    assert list(applied) == ["fp-1"]
    one = audit.since(place, OURS)[-1]
    assert one.status == 201
    assert one.ended - one.begun == 1.25


def test_what_a_process_used_rises() -> None:
    before, until = cpu_seconds([os.getpid()]), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_seconds([os.getpid()]) - before >= 0.04
    assert peak_mb(os.getpid()) > 10
