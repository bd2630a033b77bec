"""`make bench`: the figures of docs/performance.md that need a running product. Prints a table in Markdown.

Counts are exact; times are medians of interleaved pairs with their spread, on whatever else the machine is doing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import psutil
import requests

from embedded import keyring
from embedded.accounts import service_account
from embedded.doors import Visitor, wait_for
from embedded.environment import chosen_ports
from embedded.home import Home, locate, purge
from embedded.journey import Journey
from embedded.machine import Machine, furnish, running
from embedded.processes import identity
from embedded.supervision import Supervisor
from embedded.terminal import Terminal

PAIRS = 9
WAKES = 200
LOOK_SECONDS = 0.05


def main() -> int:
    """Bring a product up in a folder of its own, measure, print, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="flowplane-figures-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "home", locate().cache, service_account())
    machine = furnish(home, chosen_ports())
    try:
        with running(machine, lambda _title: contextlib.nullcontext()) as supervisor:
            visitor = newcomer(machine)
            _show("accepted -> engine healthy", *_against_by_hand(machine, visitor))
            cluster_id = _healthy_cluster(visitor)[0]
            _show_inside("no-op turn", machine, "noop", cluster_id)
            _show_inside("wake -> turn recorded", machine, "wakes", cluster_id)
            time.sleep(20)
            _show("memory at rest (PSS)", _memory(machine, supervisor))
    finally:
        purge(home)
        folder.rmdir()
    return 0


def _show(title: str, *lines: str) -> None:
    print(f"### {title}")
    for line in lines:
        print(f"- {line}")
    print(flush=True)


def newcomer(machine: Machine, name: str = "ada") -> Visitor:
    """A person who has signed up and founded an organization; each needs a name of its own."""
    visitor = Visitor(machine.ports.public_url)
    login = replace(keyring.make_login(), email=f"{name}@demo.example")
    keyring.save_login(machine.home, login)  # or the journey would go on with the one before
    journey = Journey(machine.home, Terminal(), visitor, login)
    journey.enter()
    journey.join_organization()
    return visitor


# --- Accepted to healthy, against the same command started by hand ---


def _against_by_hand(machine: Machine, visitor: Visitor) -> list[str]:
    """Interleaved: one cluster through the API, then the very same argv and environment started by hand."""
    _remove(visitor, _healthy_cluster(visitor)[0])  # the release is ready from here on
    ours, by_hand = [], []
    for _ in range(PAIRS):
        cluster_id, seconds = _healthy_cluster(visitor)
        ours.append(seconds)
        by_hand.append(_start_by_hand(machine, visitor, cluster_id))
        _remove(visitor, cluster_id)
    more = [mine - bare for mine, bare in zip(ours, by_hand, strict=True)]
    return [
        f"through the API: {_spread(ours)}",
        f"the same argv by hand, until its own health says UP: {_spread(by_hand)}",
        f"difference of each pair: {_spread(more)}",
    ]


def _healthy_cluster(visitor: Visitor) -> tuple[str, float]:
    """Create a cluster; its id, and the seconds from acceptance to health by the operation's own times.

    Asked for rarely: on two cores the asking itself would take the engine's start its time.
    """
    wish = {"name": f"bench-{uuid4().hex[:6]}", "stage": "dev", "region": "local", "plan_type": "small"}
    made = visitor.api("POST", "/clusters", {**wish, "channel": "stable"})
    cluster_id: str = made["cluster"]["id"]
    operation = made["operation"]
    while operation["state"] != "succeeded":
        time.sleep(1.0)
        operation = visitor.api("GET", f"/operations/{operation['id']}")
    accepted, healthy = (datetime.fromisoformat(operation[name]) for name in ("created_at", "finished_at"))
    return cluster_id, (healthy - accepted).total_seconds()


def _remove(visitor: Visitor, cluster_id: str) -> None:
    visitor.api("DELETE", f"/clusters/{cluster_id}?purge=true")

    def gone() -> bool | None:
        return (
            True if visitor.request("GET", f"/clusters/{cluster_id}").status_code == requests.codes.not_found else None
        )

    wait_for(gone, seconds=60, what="The removal")


def _start_by_hand(machine: Machine, visitor: Visitor, cluster_id: str) -> float:
    """Suspend the cluster, empty its data, and start what ran there with the same argv and environment."""
    engine = _engine_of(machine, cluster_id)
    argv, variables, folder = engine.cmdline(), engine.environ(), Path(engine.cwd())
    health = f"http://127.0.0.1:{variables['MANAGEMENT_SERVER_PORT']}/actuator/health/status"
    visitor.api("POST", f"/clusters/{cluster_id}/suspend")
    wait_for(lambda: None if engine.is_running() else True, seconds=60, what="The engine's end")
    data = Path(variables["ZEEBE_BROKER_DATA_DIRECTORY"])
    owner = data.stat()
    shutil.rmtree(data)
    data.mkdir(mode=0o700)
    os.chown(data, owner.st_uid, owner.st_gid)
    started = time.monotonic()
    with subprocess.Popen(
        argv,
        env=variables,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **identity(machine.home.account),
    ) as child:
        _until_up(health)
        seconds = time.monotonic() - started
        child.send_signal(signal.SIGTERM)
    return seconds


def _until_up(url: str) -> None:
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=2).ok:
                return
        time.sleep(LOOK_SECONDS)


def _engine_of(machine: Machine, cluster_id: str) -> psutil.Process:
    return next(process for process in _engines(machine) if cluster_id in process.cwd())


def _engines(machine: Machine) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "java" and process.cwd().startswith(str(machine.home.region)):
                yield process


# --- Inside a process of ours ---


def _show_inside(title: str, machine: Machine, what: str, cluster_id: str) -> None:
    argv = [sys.executable, "-m", "bench.inside", what, cluster_id, str(WAKES)]
    done = subprocess.run(argv, env=machine.environment("system"), capture_output=True, text=True, check=True)
    _show(title, *done.stdout.strip().splitlines())


# --- Memory ---


def _memory(machine: Machine, supervisor: Supervisor) -> str:
    """Proportional set size: shared pages count once over all who share them."""
    runner = psutil.Process(int(supervisor.pid))
    kept = {child.pid: child for child in runner.children(recursive=True)}
    parts: dict[str, float] = {"supervisor": _pss(runner)}
    for name in ("postgres", "redis", "web", "worker", "clock", "watch"):
        top = kept[supervisor.pid_of(name)]
        parts[name] = _pss(top) + sum(_pss(child) for child in top.children(recursive=True))
    engines = ", ".join(f"{_pss(process):.0f} MB" for process in _engines(machine))
    each = ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
    return f"control plane {sum(parts.values()):.0f} MB ({each}); one engine of the size small: {engines}"


def _pss(process: psutil.Process) -> float:
    return float(process.memory_full_info().pss) / 1e6


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"median {statistics.median(ordered):.2f} s ({ordered[0]:.2f} to {ordered[-1]:.2f}, n={len(ordered)})"


if __name__ == "__main__":
    sys.exit(main())
