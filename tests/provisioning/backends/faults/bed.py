"""The testbed's own processes, for faults that no proxy can make. Only from inside, and only of a testbed of ours."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedded.home import locate
from testbed import build, control, simulated
from testbed.plane import DEFAULT_NAME, Plane, provide, recorded

API_SERVER = "kube-apiserver"


def plane() -> Plane:
    """The first control plane."""
    home = Path(os.environ["TESTBED_HOME"])
    found = recorded(home / "planes" / DEFAULT_NAME, build.provide(locate().cache))
    assert found is not None, "`make chaos-k8s` brings a testbed"
    return found


def compact() -> None:
    """Have the store forget all history, as the API server has it do every five minutes."""
    ours = plane()
    revision = _ask_etcd(ours, "kv/range", {"key": "AA=="})["header"]["revision"]
    _ask_etcd(ours, "kv/compaction", {"revision": revision, "physical": True})


@contextmanager
def without_api_server() -> Iterator[None]:
    """The API server killed for as long as the block lasts, and back when it is over."""
    ours = plane()
    process = ours.running(API_SERVER)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    waited = threading.Event()
    while ours.running(API_SERVER) is not None:
        waited.wait(0.05)
    try:
        yield
    finally:
        control.start(ours)


@contextmanager
def second_region() -> Iterator[Plane]:
    """Another control plane beside the first, with simulated nodes of its own."""
    first = plane()
    second = provide(first.folder.parent, first.programs, "second", "second.test")
    control.start(second)
    simulated.start(second, 1)
    try:
        yield second
    finally:
        second.remove()


def _ask_etcd(ours: Plane, what: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{ours.port(1)}/v3/{what}",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
