"""`python -m bench.engine_tax`: does an engine that we started work as fast as the same engine started by hand?

    .venv/bin/python -m bench.engine_tax [--pairs 9] [--seconds 10] [--warm-up 4] [--callers 4]

One cluster, through the API. Each side of a pair starts its engine on empty data, deploys a process of one step, and
runs instances of it to their end, each answered with its result, by so many callers at once over TLS and with the same
token. The side by hand has the argv, environment, folder and user of the other. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psutil
import requests
from pyzeebe.proto import gateway_pb2, gateway_pb2_grpc

from bench.figures import newcomer
from bench.pairs import Ratio, interleaved, percentile, ratio_of
from bench.telling import machine as conditions
from bench.telling import middle
from embedded.accounts import service_account
from embedded.doors import Visitor, wait_for
from embedded.environment import chosen_ports
from embedded.errors import SetupError
from embedded.home import Home, locate, purge
from embedded.machine import furnish, running
from tests.provisioning.backends.tokens import PROCESS

PATIENCE_SECONDS = 600.0
CALL_SECONDS = 10.0
LOOK_SECONDS = 0.1
OURS, BY_HAND = "started by Flowplane", "started by hand"


@dataclass(frozen=True)
class Load:
    """What is asked of an engine."""

    seconds: float
    warm_up_seconds: float
    callers: int


@dataclass
class Round:
    """What one engine did in one round of load."""

    instances: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    took_ms: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.instances / self.seconds

    @property
    def p99_ms(self) -> float:
        return percentile(self.took_ms, 0.99)

    @property
    def cpu_ms_each(self) -> float:
        return self.cpu_seconds / self.instances * 1000


# --- The two ways to start ---


@dataclass(frozen=True)
class Likeness:
    """All that the kernel tells of how a process was started, and that may make it faster or slower."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    folder: str
    user: tuple[int, int]
    groups: str
    umask: str
    limits: str
    nice: int
    processors: tuple[int, ...]
    cgroup: str
    oom_score: str

    @classmethod
    def of(cls, process: psutil.Process) -> Likeness:
        proc = Path("/proc") / str(process.pid)
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        return cls(
            argv=tuple(process.cmdline()),
            variables=process.environ(),
            folder=process.cwd(),
            user=(process.uids().effective, process.gids().effective),
            groups=status["Groups"].strip(),
            umask=status["Umask"],
            limits=(proc / "limits").read_text(),
            nice=process.nice() or 0,
            processors=tuple(process.cpu_affinity() or ()),
            cgroup=(proc / "cgroup").read_text(),
            oom_score=(proc / "oom_score_adj").read_text().strip(),
        )

    def differences(self, other: Likeness) -> list[str]:
        """Names of what is not the same."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(other, name)]


class Cluster:
    """One engine cluster of the product's, which a person created and suspends and resumes."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        wish = {"name": f"bench-{uuid4().hex[:6]}", "stage": "dev", "region": "local", "plan_type": "small"}
        made = visitor.api("POST", "/clusters", {**wish, "channel": "stable"})
        self._path = f"/clusters/{made['cluster']['id']}"
        self._id: str = made["cluster"]["id"]
        self._follow(made["operation"])
        self.release: str = visitor.api("GET", self._path)["release"]
        self.variables: dict[str, str] = visitor.api("POST", f"{self._path}/credentials", {"name": "bench"})["env"]
        self.likeness = Likeness.of(self._engine())
        self._suspend()

    @property
    def is_direct(self) -> bool:
        """Whether clients' address is the broker's own port, so that nothing of ours is on their way."""
        port = self.variables["ZEEBE_ADDRESS"].rpartition(":")[2]
        return port == self.likeness.variables["ZEEBE_BROKER_GATEWAY_NETWORK_PORT"]

    def token(self) -> str:
        """A new access token, as the credential's owner would ask for one."""
        known = self.variables
        answer = requests.post(
            known["ZEEBE_AUTHORIZATION_SERVER_URL"],
            data={"grant_type": "client_credentials", "audience": known["ZEEBE_TOKEN_AUDIENCE"]},
            auth=(known["ZEEBE_CLIENT_ID"], known["ZEEBE_CLIENT_SECRET"]),
            verify=known["REQUESTS_CA_BUNDLE"],
            timeout=CALL_SECONDS,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    @contextmanager
    def started_by_us(self) -> Iterator[psutil.Process]:
        """Resume the cluster on empty data for the length of the block."""
        self._empty_data()
        self._ask("resume")
        try:
            yield self._engine()
        finally:
            self._suspend()

    @contextmanager
    def started_by_hand(self) -> Iterator[psutil.Process]:
        """Start on empty data what the product started, while the product wishes nothing to run."""
        self._empty_data()
        known = self.likeness
        with subprocess.Popen(
            known.argv,
            env=known.variables,
            cwd=known.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,
            **self._identity(),
        ) as child:
            try:
                self._wait_until_up()
                yield psutil.Process(child.pid)
            finally:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(60)
                child.kill()

    def _identity(self) -> dict[str, Any]:
        """The user and groups of what the product started, when we may take them on."""
        if os.geteuid() != 0:
            return {}
        user, group = self.likeness.user
        return {"user": user, "group": group, "extra_groups": [int(one) for one in self.likeness.groups.split()]}

    def remove(self) -> None:
        self._visitor.api("DELETE", f"{self._path}?purge=true")

    def _wait_until_up(self) -> None:
        url = f"http://127.0.0.1:{self.likeness.variables['MANAGEMENT_SERVER_PORT']}/actuator/health/status"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(url, timeout=2).ok:
                    return
            if time.monotonic() > deadline:
                raise SetupError("The engine that was started by hand did not come up.")
            time.sleep(LOOK_SECONDS)

    def _empty_data(self) -> None:
        data = Path(self.likeness.variables["ZEEBE_BROKER_DATA_DIRECTORY"])
        owner = data.stat()
        shutil.rmtree(data)
        data.mkdir(mode=0o700)
        os.chown(data, owner.st_uid, owner.st_gid)

    def _suspend(self) -> None:
        engine = self._engine()
        self._ask("suspend")
        wait_for(lambda: None if engine.is_running() else True, seconds=60, what="The engine's end")

    def _ask(self, verb: str) -> None:
        answer = self._visitor.api("POST", f"{self._path}/{verb}")
        self._follow(answer.get("operation", answer))

    def _follow(self, operation: dict[str, Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while operation["state"] != "succeeded":
            if operation["state"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise SetupError(f"{operation['kind']} {operation['state']}: {operation['waits_for']}")
            time.sleep(0.5)
            operation = self._visitor.api("GET", f"/operations/{operation['id']}")

    def _engine(self) -> psutil.Process:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "java" and self._id in process.cwd():
                    return process
        raise SetupError("The engine does not run.")


# --- Load ---


class Callers:
    """Clients that ask again as soon as they have their answer, all over one connection."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._load = load
        roots = Path(cluster.variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
        self._channel = grpc.secure_channel(cluster.variables["ZEEBE_ADDRESS"], grpc.ssl_channel_credentials(roots))
        self._gateway = gateway_pb2_grpc.GatewayStub(self._channel)
        self._metadata = (("authorization", f"Bearer {cluster.token()}"),)

    def measure(self, engine: psutil.Process) -> Round:
        """Deploy, warm up, and count."""
        resource = gateway_pb2.Resource(name="kept.bpmn", content=PROCESS.encode())
        request = gateway_pb2.DeployResourceRequest(resources=[resource])
        self._gateway.DeployResource(
            request, metadata=self._metadata, timeout=PATIENCE_SECONDS / 10, wait_for_ready=True
        )
        try:
            self._drive(self._load.warm_up_seconds)
            before, began = engine.cpu_times(), time.monotonic()
            measured = self._drive(self._load.seconds)
            measured.seconds = time.monotonic() - began
            after = engine.cpu_times()
            measured.cpu_seconds = after.user + after.system - before.user - before.system
        finally:
            self._channel.close()
        return measured

    def _drive(self, seconds: float) -> Round:
        found = [Round() for _ in range(self._load.callers)]
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._call_until, args=[end, one]) for one in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Round(
            instances=sum(one.instances for one in found),
            took_ms=[took for one in found for took in one.took_ms],
            refusals=[why for one in found for why in one.refusals],
        )

    def _call_until(self, end: float, found: Round) -> None:
        request = gateway_pb2.CreateProcessInstanceWithResultRequest(
            request=gateway_pb2.CreateProcessInstanceRequest(bpmnProcessId="kept", version=-1, variables="{}"),
            requestTimeout=int(CALL_SECONDS * 1000),
        )
        while (began := time.monotonic()) < end:
            try:
                self._gateway.CreateProcessInstanceWithResult(request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                found.refusals.append(error.code().name)
            else:
                found.instances += 1
                found.took_ms.append((time.monotonic() - began) * 1000)


# --- All of it ---


class Tax:
    """Pairs of rounds, and whether the processes of a pair are the same to the kernel."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster, self._load = cluster, load
        self.differences: set[str] = set()

    def compare(self, pairs: int) -> dict[str, list[Round]]:
        sides: dict[str, Callable[[], Round]] = {OURS: self._ours, BY_HAND: self._by_hand}
        return interleaved(sides, pairs)

    def _ours(self) -> Round:
        with self._cluster.started_by_us() as engine:
            return self._measure(engine)

    def _by_hand(self) -> Round:
        with self._cluster.started_by_hand() as engine:
            return self._measure(engine)

    def _measure(self, engine: psutil.Process) -> Round:
        self.differences.update(Likeness.of(engine).differences(self._cluster.likeness))
        return Callers(self._cluster, self._load).measure(engine)


def main() -> int:
    """Bring a product up in a folder of its own, measure, print, and remove it."""
    told = _arguments()
    load = Load(told.seconds, told.warm_up, told.callers)
    print(f"{conditions()}. {told.callers} callers, {told.seconds:.0f} s after {told.warm_up:.0f} s of warming up.\n")
    folder = Path(tempfile.mkdtemp(prefix="flowplane-tax-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "home", locate().cache, service_account())
    machine = furnish(home, chosen_ports())
    try:
        with running(machine, lambda _title: contextlib.nullcontext()):
            cluster = Cluster(newcomer(machine))
            tax = Tax(cluster, load)
            found = tax.compare(told.pairs)
            cluster.remove()
    finally:
        purge(home)
        folder.rmdir()
    _show(cluster, tax, found)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_tax")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=4.0)
    parser.add_argument("--callers", type=int, default=4)
    return parser.parse_args()


def _show(cluster: Cluster, tax: Tax, found: dict[str, list[Round]]) -> None:
    ours, by_hand = found[OURS], found[BY_HAND]
    print(f"### Engine tax (G26): {cluster.release}, size small\n")
    print("| figure | ours | by hand | ratio of pairs |\n|---|---|---|---|")
    figures: list[tuple[str, str, int, Callable[[Round], float]]] = [
        ("instances per second (goal ≥ 0.97x)", "", 0, lambda one: one.per_second),
        ("p99 of one, with its result", " ms", 1, lambda one: one.p99_ms),
        ("broker's CPU for each", " ms", 2, lambda one: one.cpu_ms_each),
    ]
    for title, unit, digits, read in figures:
        mine, others = [read(one) for one in ours], [read(one) for one in by_hand]
        compared: Ratio = ratio_of(mine, others)
        print(f"| {title} | {middle(mine, unit, digits)} | {middle(others, unit, digits)} | {compared} |")
    refused = [sum(len(one.refusals) for one in side) for side in (ours, by_hand)]
    print(f"| calls without a result | {refused[0]} | {refused[1]} | |\n")
    same = ", ".join(sorted(tax.differences)) or "none (exact)"
    print(f"- Differences between the processes ({', '.join(Likeness.__dataclass_fields__)}): {same}.")
    way = "the broker's own port (exact): no process of ours is on the way" if cluster.is_direct else "our entrance"
    print(f"- Where clients connect: {way}.")
    print("- Beside ours the watch looks at the engine's health; beside the other it has nothing to look at.")


if __name__ == "__main__":
    sys.exit(main())
