"""What an end-to-end test may do with the running product: go through its doors, and look at its processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
import requests
from pyzeebe.proto import gateway_pb2, gateway_pb2_grpc

from embedded.accounts import service_account
from embedded.database import superuser_address
from embedded.doors import Visitor, confirmation_path, wait_for
from embedded.environment import Ports
from embedded.errors import SetupError
from embedded.home import Home, purge
from embedded.machine import Machine, furnish, wait_for_web
from embedded.setup import CHECKOUT
from embedded.supervision import Supervisor

# An engine's first start fetches 200 MB when the cache is cold.
PATIENCE_SECONDS = 600.0


class Customer(Visitor):
    """A signed-up person with an organization, at the REST door."""

    def at(self, url: str) -> Customer:
        """The same person, signed in as before, in front of another web process."""
        same = Customer(url)
        same._session.cookies.update(self._session.cookies)
        return same

    def head(self, method: str, path: str, length: int) -> bytes:
        """A request's head in bytes, for who sends the body by hand, after `100 Continue`."""
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._session.cookies)
        lines = (
            f"{method} /api/v1{path} HTTP/1.1",
            "Host: localhost",
            f"Cookie: {cookies}",
            f"X-CSRFToken: {self._csrf_token}",
            "Content-Type: application/json",
            f"Content-Length: {length}",
            "Expect: 100-continue",
            "Connection: close",
        )
        return "\r\n".join([*lines, "", ""]).encode()

    def press(self, path: str) -> str:
        """Press a button that is a form of its own; the page that one comes to."""
        answer = self._session.post(
            f"{self.public_url}{path}", data={"csrfmiddlewaretoken": self._csrf_token}, timeout=60
        )
        assert answer.ok, answer.text
        return answer.text

    def create_cluster(self, **overrides: str) -> dict[str, Any]:
        """Ask for a small cluster; the answer holds the cluster and its operation."""
        wish = {
            "name": f"cluster-{uuid4().hex[:6]}",
            "stage": "dev",
            "region": "local",
            "plan_type": "small",
            "channel": "stable",
            **overrides,
        }
        answer: dict[str, Any] = self.api("POST", "/clusters", wish)
        return answer

    def until(self, cluster_id: str, phase: str, *, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait for a cluster's phase and return the cluster."""

        def look() -> dict[str, Any] | None:
            cluster: dict[str, Any] = self.api("GET", f"/clusters/{cluster_id}")
            return cluster if cluster["phase"] == phase else None

        return wait_for(look, seconds=seconds, what=f"The phase {phase}")

    def finished(self, operation: Mapping[str, Any], *, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait for an operation's end and return it."""
        seen: dict[str, Any] = {}

        def look() -> dict[str, Any] | None:
            seen.update(self.api("GET", f"/operations/{operation['id']}"))
            return seen if seen["state"] not in ("pending", "running") else None

        try:
            return wait_for(look, seconds=seconds, what="The operation's end")
        except SetupError as error:
            raise SetupError(f"{error} It waits for: {seen['waits_for']} {seen['error'] or ''}") from error

    def credential(self, cluster_id: str) -> dict[str, str]:
        """Make a credential and return its env file's variables."""
        made = self.api("POST", f"/clusters/{cluster_id}/credentials", {"name": f"app-{uuid4().hex[:6]}"})
        variables: dict[str, str] = made["env"]
        return variables


class Stack:
    """The product's processes."""

    def __init__(self, machine: Machine, supervisor: Supervisor) -> None:
        self.machine = machine
        self.supervisor = supervisor
        self.home = machine.home
        self.public_url = machine.ports.public_url
        self.api_url = machine.ports.api_url

    def customer(self) -> Customer:
        """A new person with a new organization, signed up through the console's forms."""
        visitor = Customer(self.public_url)
        email, password = f"{uuid4().hex[:10]}@example.com", f"pw-{uuid4().hex}"
        assert visitor.submit("/accounts/signup/", email=email, password1=password)
        link = wait_for(
            lambda: confirmation_path(visitor.page(f"/mailbox?to={email}")), seconds=60, what="The confirmation mail"
        )
        assert visitor.submit(link)
        assert visitor.submit("/accounts/login/", login=email, password=password)
        visitor.api("POST", "/organizations", {"name": f"Org {uuid4().hex[:6]}"})
        return visitor

    def run_example(self, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the order-fulfilment example with exactly an env file's variables, as a customer would."""
        ledger = self.home.root / "demo" / f"ledger-{variables['CAMUNDA_CLUSTER_ID']}"
        ledger.parent.mkdir(mode=0o700, exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "examples.order_fulfilment", "--folder", str(ledger), *arguments],
            cwd=CHECKOUT,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def token(self, variables: Mapping[str, str]) -> requests.Response:
        """Ask the token endpoint, as a stock client would."""
        return requests.post(
            variables["ZEEBE_AUTHORIZATION_SERVER_URL"],
            data={"grant_type": "client_credentials", "audience": variables["ZEEBE_TOKEN_AUDIENCE"]},
            auth=(variables["ZEEBE_CLIENT_ID"], variables["ZEEBE_CLIENT_SECRET"]),
            verify=variables["REQUESTS_CA_BUNDLE"],
            timeout=30,
        )

    def access_token(self, variables: Mapping[str, str]) -> str:
        """An access token for the env file's engine."""
        answer = self.token(variables)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    @contextlib.contextmanager
    def without(self, *programs: str) -> Iterator[None]:
        """Stop some of our processes, in this order, for the length of the block."""
        self.supervisor.stop(programs)
        try:
            yield
        finally:
            for program in reversed(programs):
                self.supervisor.start((program,))
            wait_for_web(self.machine.ports)

    def is_complete(self) -> bool:
        """Whether all our processes run."""
        return set(self.supervisor.states().values()) == {"RUNNING"}

    def engines(self, cluster_id: str) -> list[int]:
        """Process numbers of the engines that run for a cluster; one, when all is well."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                folder = str((entry / "cwd").readlink())
                if b"StandaloneBroker" in words and folder.startswith(str(self.home.region)) and cluster_id in folder:
                    found.append(int(entry.name))
        return found

    def database_address(self, database: str = "flowplane") -> str:
        """Where the administrator of the database's server enters it."""
        return superuser_address(self.home).replace("dbname=postgres", f"dbname={database}")

    def superuser(self, database: str = "flowplane") -> psycopg.Connection:
        """A session of that administrator, which commits by itself."""
        return psycopg.connect(self.database_address(database), autocommit=True)

    def manage(self, role: str, *arguments: str) -> str:
        """Run a Django command against this stack."""
        return self.machine.manage(role, *arguments)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def machine_of_its_own() -> Iterator[Machine]:
    """A home that is gone afterwards; whoever starts something in it stops it again."""
    # Not the user's folder for temporary files: the service user must pass through.
    folder = Path(tempfile.mkdtemp(prefix="flowplane-stack-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "home", Path(os.environ["FLOWPLANE_CACHE"]), service_account())
    # Another stack may run beside this one, and an engine whose port is taken waits for ever.
    first = 27000 + (os.getpid() + next(_stacks)) % 50 * 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWPLANE_ENGINE_PORTS", f"{first}-{first + 99}")
        try:
            yield furnish(home, Ports(free_port(), free_port(), free_port()))
        finally:
            purge(home)
            folder.rmdir()


_stacks = itertools.count()


def topology(variables: Mapping[str, str], token: str, *, seconds: float = 15.0) -> Any:
    """Ask the engine for its topology over TLS with a token; raises `grpc.RpcError` when refused."""
    roots = Path(variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
    with grpc.secure_channel(variables["ZEEBE_ADDRESS"], grpc.ssl_channel_credentials(roots)) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return stub.Topology(gateway_pb2.TopologyRequest(), metadata=metadata, timeout=seconds)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
