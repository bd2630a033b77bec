"""A cluster's life through the doors, on a real engine; and what it survives on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
import psutil
import pytest

from embedded.doors import wait_for
from embedded.errors import SetupError
from embedded.processes import Process, identity
from tests.e2e.stack import Customer, Stack, is_alive, topology

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def customer(stack: Stack) -> Customer:
    return stack.customer()


@pytest.fixture(scope="module")
def cluster(customer: Customer) -> dict[str, Any]:
    made = customer.create_cluster()
    assert customer.finished(made["operation"])["state"] == "succeeded"
    return customer.until(made["cluster"]["id"], "healthy")


@pytest.fixture(scope="module")
def variables(customer: Customer, cluster: dict[str, Any]) -> dict[str, str]:
    return customer.credential(cluster["id"])


def events(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def refused(variables: dict[str, str], token: str) -> bool:
    try:
        topology(variables, token)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def accepted(variables: dict[str, str], token: str) -> bool:
    """Whether the engine answers the token's bearer; an engine that does not answer at all does not."""
    with contextlib.suppress(grpc.RpcError):
        return bool(topology(variables, token).partitionsCount)
    return False


def until_accepted(variables: dict[str, str], token: str) -> None:
    """Wait until the engine answers: for a moment the row may tell how the engine before it was."""
    wait_for(lambda: accepted(variables, token) or None, seconds=120, what="The engine's answer")


def test_orders_are_fulfilled_with_nothing_but_the_env_file(stack: Stack, variables: dict[str, str]) -> None:
    done = stack.run_example(variables, "run", "--count", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = events(done.stdout)[-1]
    assert (summary["fulfilled"], summary["refused"], summary["payment_retried"]) == (4, 1, 1)


def test_zbctl_needs_nothing_but_the_env_file_either(stack: Stack, variables: dict[str, str]) -> None:
    (zbctl,) = stack.home.cache.glob("engines/*/dist/bin/zbctl")
    # zbctl keeps a token in the home folder; this one is the test's own.
    home = {"HOME": str(stack.home.root / "demo")}
    done = subprocess.run([zbctl, "status"], env={**variables, **home}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Partition 1 : Leader, Healthy" in done.stdout
    wrong = {**variables, **home, "ZEEBE_TOKEN_AUDIENCE": str(uuid4())}
    done = subprocess.run([zbctl, "status"], env=wrong, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_another_clusters_token_is_refused_though_its_worker_died_in_the_making(
    stack: Stack, customer: Customer, variables: dict[str, str]
) -> None:
    assert not refused(variables, stack.access_token(variables))
    assert refused(variables, "")
    assert refused(variables, "no token at all")
    assert refused(variables, stack.access_token(variables)[:-4] + "AAAA")
    other = customer.create_cluster()["cluster"]
    # The worker dies in the middle of making it: whoever comes next goes on, and nothing is made twice.
    os.kill(stack.supervisor.pid_of("worker"), signal.SIGKILL)
    customer.until(other["id"], "healthy")
    assert len(stack.engines(other["id"])) == 1
    foreign = customer.credential(other["id"])
    assert refused(variables, stack.access_token(foreign))
    customer.finished(customer.api("DELETE", f"/clusters/{other['id']}?purge=true"))
    assert stack.engines(other["id"]) == []


def test_suspension_keeps_the_data(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    assert stack.run_example(variables, "deploy").returncode == 0
    left = stack.run_example(variables, "leave-waiting", "kept-order")
    assert left.returncode == 0, left.stdout + left.stderr
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/suspend"))
    customer.until(cluster["id"], "suspended")
    assert stack.engines(cluster["id"]) == []
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/resume"))
    back = customer.until(cluster["id"], "healthy")
    assert back["endpoint"] == cluster["endpoint"]
    shipped = stack.run_example(variables, "ship")
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    assert events(shipped.stdout)[-1]["fulfilled"] == 1


def test_revoking_access_makes_old_tokens_worthless_and_env_files_stay(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    old = stack.access_token(variables)
    operation = customer.api("POST", f"/clusters/{cluster['id']}/revoke-access")
    assert customer.finished(operation)["state"] == "succeeded"
    assert not accepted(variables, old)
    until_accepted(variables, stack.access_token(variables))
    assert refused(variables, old)


def test_a_killed_engine_comes_back(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    (engine,) = stack.engines(cluster["id"])
    os.kill(engine, signal.SIGKILL)

    def replaced() -> bool | None:
        return True if stack.engines(cluster["id"]) not in ([], [engine]) else None

    wait_for(replaced, seconds=120, what="Another engine")
    customer.until(cluster["id"], "healthy")
    assert len(stack.engines(cluster["id"])) == 1
    until_accepted(variables, stack.access_token(variables))


def test_engines_outlive_every_process_of_ours_and_are_adopted(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    (engine,) = stack.engines(cluster["id"])
    token = stack.access_token(variables)
    killed = {program: stack.supervisor.pid_of(program) for program in ("web", "worker", "clock", "watch")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    assert not refused(variables, token)

    def are_others() -> bool | None:
        with contextlib.suppress(SetupError):
            return all(stack.supervisor.pid_of(program) != pid for program, pid in killed.items()) or None
        return None

    wait_for(are_others, seconds=60, what="The process runner's new processes")
    with stack.without("web", "worker", "clock", "watch", "redis", "postgres"):
        assert not refused(variables, token)
        assert is_alive(engine)
    customer.until(cluster["id"], "healthy")
    time.sleep(2)
    assert stack.engines(cluster["id"]) == [engine]


def test_an_engine_that_is_restarted_while_flowplane_is_off_accepts_the_tokens_it_did_before(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    (engine,) = stack.engines(cluster["id"])
    token = stack.access_token(variables)
    with stack.without("web", "worker", "clock", "watch", "redis", "postgres"):
        with restarted_by_hand(stack, engine) as by_hand:
            until_accepted(variables, token)
            assert refused(variables, token[:-4] + "AAAA")
            assert stack.engines(cluster["id"]) == [by_hand]
        assert stack.engines(cluster["id"]) == []

    def brought_back() -> list[int] | None:
        return stack.engines(cluster["id"]) or None

    assert len(wait_for(brought_back, seconds=120, what="Flowplane's own engine")) == 1
    customer.until(cluster["id"], "healthy")
    until_accepted(variables, token)


@contextlib.contextmanager
def restarted_by_hand(stack: Stack, engine: int) -> Iterator[int]:
    """End an engine and run it again exactly as it ran, for the length of the block."""
    before = Process(engine)
    command, variables, folder = before.command[:-1], before.environment, before.working_directory
    os.kill(engine, signal.SIGTERM)
    wait_for(lambda: None if is_alive(engine) else True, seconds=120, what="The engine's end")
    again = subprocess.Popen(
        command,
        env=variables,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o077,
        **identity(stack.home.account),
    )
    try:
        yield again.pid
    finally:
        again.terminate()
        again.wait(120)


def test_nothing_of_ours_listens_beyond_loopback_but_the_engines_two_datagram_sockets(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    customer.until(cluster["id"], "healthy")
    runner = psutil.Process(stack.supervisor.pid)
    ours = {child.pid for child in (runner, *runner.children(recursive=True))}
    engines = set(stack.engines(cluster["id"]))
    listening = [one for pid in ours | engines for one in listeners(pid)]
    beyond = [one for one in listening if not one.is_loopback]

    assert {stack.machine.ports.plain, stack.machine.ports.tls} <= {one.port for one in listening if one.pid in ours}
    assert {one.pid for one in listening if one.is_tcp} >= engines
    assert [one for one in beyond if one.is_tcp or one.pid not in engines] == []
    # docs/access.md, "What listens where": the engine's own, which no setting turns off.
    assert len(beyond) <= 2 * len(engines)


class Listener(NamedTuple):
    """A socket that takes what comes in."""

    pid: int
    is_tcp: bool
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        address = ip_address(self.host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def listeners(pid: int) -> Iterator[Listener]:
    """What one process listens on; none when it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(pid).net_connections(kind="inet"):
            is_tcp = one.type == socket.SOCK_STREAM
            if one.laddr and (one.status == psutil.CONN_LISTEN if is_tcp else not one.raddr):
                yield Listener(pid, is_tcp, one.laddr.ip, one.laddr.port)


def test_a_change_is_accepted_and_done_without_redis(stack: Stack, customer: Customer, cluster: dict[str, Any]) -> None:
    with stack.without("redis"):
        answer = customer.request("POST", f"/clusters/{cluster['id']}/suspend")
        assert answer.status_code == 202
        customer.until(cluster["id"], "suspended")
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/resume"))


def test_deletion_leaves_nothing(stack: Stack, customer: Customer, cluster: dict[str, Any]) -> None:
    operation = customer.api("DELETE", f"/clusters/{cluster['id']}?purge=true")
    assert customer.finished(operation)["state"] == "succeeded"
    assert customer.request("GET", f"/clusters/{cluster['id']}").status_code == 404
    assert stack.engines(cluster["id"]) == []
    # By `os.walk`, which passes over what others remove meanwhile.
    left = {
        Path(folder).name
        for folder, folders, files in os.walk(stack.home.region)
        if any(cluster["id"] in name for name in (*folders, *files))
    }
    # The fence outlives the cluster, or a worker that overslept could bring it back. It holds a number, no data.
    assert left <= {"guards"}
