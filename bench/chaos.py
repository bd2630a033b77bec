"""`make chaos`: random kills of everything, while several customers go on working; then nothing may be amiss.

    python -m bench.chaos [--operations 300] [--kills 1000] [--seed 1] [--customers 4]

Victims are web, worker, clock, watch, Redis, PostgreSQL and engine brokers, each with SIGKILL. The order of victims and
of wishes follows from the seed; when which of them meet does not. What a process runner does in production, supervisor
does here; one that gave up is told to go on.

Afterwards: every wish is what is there, no broker runs twice or for nobody, the ledger of leftovers waits for nobody,
and what the customers were told is what the account database holds: no operation and no cluster that nobody was told
of, none that was told of and is not there, and one audit event for each. Wishes that changed nothing count for nothing.
Prints what was counted; ends with 1 when anything was amiss, and leaves the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import requests

from bench.figures import newcomer
from embedded.accounts import service_account
from embedded.doors import Visitor
from embedded.environment import chosen_ports
from embedded.errors import SetupError
from embedded.home import Home, locate, purge
from embedded.machine import Machine, furnish, running
from embedded.supervision import PRODUCT, STORES, Supervisor

# More than the 15 minutes after which a backup that hangs is given up, and what comes after that.
PATIENCE_SECONDS = 1500.0
# Kills are due for so many operations more than were asked for.
AHEAD = 10
ENGINE = "engine"


# What a cluster can be resized to without moving its data, and back.
OTHER_SIZE = {"small": "small-plus", "small-plus": "small", "resilient": "resilient-4", "resilient-4": "resilient"}
BROKERS = {"small": 1, "small-plus": 1, "resilient": 3, "resilient-4": 4}


@dataclass
class Tally:
    """What happened, counted by whoever did it."""

    kills: Counter[str] = field(default_factory=Counter)
    # What customers were told of: operation -> (cluster, kind).
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """Accepted operations so far, each once."""
        return len(self.accepted)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kind for _, kind in self.accepted.values())


@dataclass
class Owned:
    """What a customer knows of a cluster."""

    lifecycle: str
    size: str
    release: str

    @property
    def brokers(self) -> int:
        """How many are to run."""
        return BROKERS[self.size] if self.lifecycle == "running" else 0


class Killer:
    """Kills somebody again and again, in an order that follows from the seed."""

    def __init__(self, machine: Machine, supervisor: Supervisor, tally: Tally, seed: int) -> None:
        self._machine = machine
        self._supervisor = supervisor
        self._tally = tally
        self._random = random.Random(f"kills {seed}")
        self.stop = threading.Event()

    def run(self, most: int, operations: int, pause_seconds: float) -> None:
        """Kill until told to stop, or until `most` are dead.

        Kills keep step with what is asked for: a busy machine would else see them all before a tenth of the operations.
        """
        while not self.stop.wait(self._random.uniform(0.2, 1.8) * pause_seconds):
            victim = self._random.choice((*PRODUCT, *STORES, ENGINE))
            number = self._pick_engine() if victim == ENGINE else self._pid_of(victim)
            due = most * min(1.0, (self._tally.asked + AHEAD) / operations)
            if number and sum(self._tally.kills.values()) < due:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                    self._tally.kills[victim] += 1
            self.revive()

    def revive(self) -> None:
        """Have the process runner go on with what it has given up."""
        with contextlib.suppress(OSError, xmlrpc.client.Fault):
            for name, state in self._supervisor.states().items():
                if state in ("FATAL", "EXITED", "STOPPED"):
                    # It may have come back by itself meanwhile.
                    with contextlib.suppress(OSError, SetupError, xmlrpc.client.Fault):
                        self._supervisor.start((name,))

    def _pid_of(self, name: str) -> int:
        with contextlib.suppress(OSError, SetupError):
            return self._supervisor.pid_of(name)
        return 0

    def _pick_engine(self) -> int:
        brokers = sorted(process.pid for process in brokers_of(self._machine))
        return self._random.choice(brokers) if brokers else 0


def brokers_of(machine: Machine) -> Iterator[psutil.Process]:
    """Every engine process of this machine's region."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "java" and process.cwd().startswith(str(machine.home.region)):
                yield process


class Customer:
    """A person who always wants something else, and asks until the answer is one."""

    def __init__(self, visitor: Visitor, tally: Tally, seed: str, size: str) -> None:
        self._visitor = visitor
        self._tally = tally
        self._random = random.Random(seed)
        self._size = size
        self.clusters: dict[str, Owned] = {}

    def work(self, is_enough: Callable[[], bool]) -> None:
        """Wish one thing after the other, each when the one before has come to its end."""
        while not is_enough():
            kind, method, path, body = self._choose()
            answer = self._ask(method, path, body)
            if answer.status_code != requests.codes.accepted:
                self._tally.refusals[f"{kind}: {answer.json().get('code', answer.status_code)}"] += 1
                time.sleep(1.0)
                continue
            told = answer.json()
            operation = told.get("operation", told)
            if operation["id"] in self._tally.accepted:
                # Nothing was to be changed: the answer is the operation that made it so.
                self._tally.refusals[f"{kind}: is so already"] += 1
                continue
            self._tally.accepted[operation["id"]] = (operation["cluster_id"], operation["kind"])
            began = time.monotonic()
            self._tally.outcomes[self._follow(operation["id"])] += 1
            self._tally.seconds.append(time.monotonic() - began)
            self._remember(operation["cluster_id"])

    def _choose(self) -> tuple[str, str, str, dict[str, Any] | None]:
        """The next wish, one that makes sense for what there is."""
        idle = list(self.clusters.items())
        if not idle or (len(idle) < 2 and self._random.random() < 0.3):
            wish = {"name": f"c-{uuid4().hex[:8]}", "stage": "dev", "region": "local", "channel": "next"}
            return "create", "POST", "/clusters", {**wish, "plan_type": self._size, "release": "8.5.8"}
        cluster_id, owned = self._random.choice(idle)
        at = f"/clusters/{cluster_id}"
        if owned.lifecycle == "suspended":
            return self._random.choice([("resume", "POST", f"{at}/resume", None), self._deletion(at)])
        wishes: list[tuple[str, str, str, dict[str, Any] | None]] = [
            ("suspend", "POST", f"{at}/suspend", None),
            ("revoke access", "POST", f"{at}/revoke-access", None),
            ("resize", "POST", f"{at}/resize", {"plan_type": OTHER_SIZE[owned.size]}),
            ("back up", "POST", f"{at}/backups", None),
            ("back up", "POST", f"{at}/backups", None),
            self._restore(cluster_id, at),
            self._deletion(at),
        ]
        if owned.release == "8.5.8":
            wishes.append(("upgrade", "POST", f"{at}/upgrade", {"release": "8.6.0"}))
        return self._random.choice(wishes)

    @staticmethod
    def _deletion(at: str) -> tuple[str, str, str, None]:
        return ("delete", "DELETE", f"{at}?purge=true", None)

    def _restore(self, cluster_id: str, at: str) -> tuple[str, str, str, dict[str, Any] | None]:
        answer = self._ask("GET", f"{at}/backups", None)
        done = [one["id"] for one in answer.json()["items"] if one["state"] == "completed"] if answer.ok else []
        if not done:
            return ("back up", "POST", f"{at}/backups", None)
        return ("restore a backup", "POST", f"{at}/restore-backup", {"backup": self._random.choice(done)})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        """Ask until there is an answer; the key makes it one change, however often it arrives."""
        key = {"Idempotency-Key": uuid4().hex} if method != "GET" else {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(requests.RequestException):
                answer = self._visitor.request(method, path, body, headers=key)
                if answer.status_code < requests.codes.internal_server_error:
                    return answer
                if answer.status_code == requests.codes.internal_server_error:
                    self._tally.amiss.append(f"{method} {path} answered 500")
            if time.monotonic() > deadline:
                raise SetupError(f"{method} {path} was not answered within {PATIENCE_SECONDS:.0f} s.")
            time.sleep(0.5)

    def _follow(self, operation_id: str) -> str:
        """Wait for an operation's end; one that failed is tried again as a person would."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            operation = self._ask("GET", f"/operations/{operation_id}", None).json()
            if operation["state"] == "failed" and operation["can_retry"]:
                self._ask("POST", f"/operations/{operation_id}/retry", None)
            elif operation["state"] in ("succeeded", "failed", "cancelled"):
                code = (operation["error"] or {}).get("code", "")
                return f"{operation['state']} {code}".strip()
            time.sleep(1.0)
        self._tally.amiss.append(f"operation {operation_id} did not end: {operation['waits_for']}")
        return "endless"

    def _remember(self, cluster_id: str) -> None:
        self.clusters.pop(cluster_id, None)
        found = self._ask("GET", f"/clusters/{cluster_id}", None).json()
        # One whose creation or deletion was not the end of it is still the customer's.
        if found.get("lifecycle") in ("running", "suspended"):
            self.clusters[cluster_id] = Owned(found["lifecycle"], found["plan_type"], found["release"])

    def come_to_rest(self) -> None:
        """Wait until every cluster is as it is wished."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for cluster_id, owned in self.clusters.items():
            wanted = "healthy" if owned.lifecycle == "running" else "suspended"
            while (phase := self._ask("GET", f"/clusters/{cluster_id}", None).json()["phase"]) != wanted:
                if time.monotonic() > deadline:
                    self._tally.amiss.append(f"cluster {cluster_id} is {phase}, not {wanted}")
                    break
                time.sleep(1.0)


def main() -> int:
    """Bring a product up in a folder of its own, disturb it, judge it, print, and remove it."""
    told = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="flowplane-chaos-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "home", locate().cache, service_account())
    machine = furnish(home, chosen_ports())
    tally, is_clean = Tally(), False
    try:
        with running(machine, lambda _title: contextlib.nullcontext()) as supervisor:
            customers = [
                Customer(
                    newcomer(machine, f"customer-{number}"),
                    tally,
                    f"{told.seed} {number}",
                    "resilient" if number == 0 else "small",
                )
                for number in range(told.customers)
            ]
            seconds = _disturb(machine, supervisor, customers, tally, told)
            for customer in customers:
                customer.come_to_rest()
            tally.amiss += _judge(machine, customers, tally)
            is_clean = not tally.amiss
    finally:
        if is_clean:
            purge(home)
            folder.rmdir()
    _show(tally, seconds, told)
    if tally.amiss:
        print(f"Everything was left for you at {folder}.")
    return 1 if tally.amiss else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operations", type=int, default=300)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--customers", type=int, default=4, help="more than four sign in too often from one address")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two kills, on average, at least")
    return parser.parse_args()


def _disturb(
    machine: Machine, supervisor: Supervisor, customers: list[Customer], tally: Tally, told: argparse.Namespace
) -> float:
    """Let everybody work under kills until enough was asked for and enough are dead; how long that took, in seconds."""
    killer = Killer(machine, supervisor, tally, told.seed)

    def is_enough() -> bool:
        is_done = tally.asked >= told.operations and sum(tally.kills.values()) >= told.kills
        # Whoever works on without the others would work for ever.
        return is_done or killer.stop.is_set()

    began = time.monotonic()
    with ThreadPoolExecutor(len(customers) + 1) as pool:
        deaths = pool.submit(killer.run, told.kills, told.operations, told.pause)
        workers = [pool.submit(customer.work, is_enough) for customer in customers]
        for ended in as_completed([deaths, *workers]):
            if error := ended.exception():
                tally.amiss.append(f"somebody gave up: {error!r}")
                killer.stop.set()
            if all(worker.done() for worker in workers):
                killer.stop.set()
    killer.revive()
    return time.monotonic() - began


def _judge(machine: Machine, customers: list[Customer], tally: Tally) -> list[str]:
    """What is amiss now that everything has come to rest."""
    amiss = []
    per_cluster = Counter(
        part for process in brokers_of(machine) for part in Path(process.cwd()).parts if _is_known(part, customers)
    )
    strangers = [
        process.pid
        for process in brokers_of(machine)
        if not any(_is_known(part, customers) for part in Path(process.cwd()).parts)
    ]
    if strangers:
        amiss.append(f"engines that nobody wishes: {strangers}")
    owned = {cluster_id: one for customer in customers for cluster_id, one in customer.clusters.items()}
    for cluster_id, one in owned.items():
        if per_cluster[cluster_id] != one.brokers:
            amiss.append(f"cluster {cluster_id} has {per_cluster[cluster_id]} brokers and should have {one.brokers}")
    argv = [sys.executable, "-m", "bench.chaos_inside"]
    told = json.dumps({"operations": tally.accepted, "clusters": sorted(owned)})
    seen = subprocess.run(
        argv, input=told, env=machine.environment("system"), capture_output=True, text=True, check=False
    )
    return [*amiss, *seen.stdout.splitlines(), *([] if seen.returncode == 0 else [seen.stderr[-2000:]])]


def _is_known(part: str, customers: list[Customer]) -> bool:
    return any(part in customer.clusters for customer in customers)


def _show(tally: Tally, seconds: float, told: argparse.Namespace) -> None:
    print(f"seed {told.seed}: {tally.asked} operations, {sum(tally.kills.values())} kills, {seconds:.0f} s")
    for title, counts in (
        ("killed", tally.kills),
        ("asked for", tally.kinds),
        ("came out", tally.outcomes),
        ("refused", tally.refusals),
    ):
        print(f"- {title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    told_seconds = sorted(tally.seconds) or [0.0]
    print(
        f"- accepted → over: median {told_seconds[len(told_seconds) // 2]:.0f} s, longest {told_seconds[-1]:.0f} s"
        f"\n- amiss: {len(tally.amiss)}"
    )
    for sentence in tally.amiss:
        print(f"  - {sentence}")


if __name__ == "__main__":
    sys.exit(main())
