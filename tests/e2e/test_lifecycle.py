"""A cluster's life through the doors, on a real engine; and what it survives on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import Any
from uuid import uuid4

import grpc
import pytest

from embedded.doors import wait_for
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
    customer.api("DELETE", f"/clusters/{other['id']}?purge=true")
    wait_for(lambda: None if stack.engines(other["id"]) else True, seconds=60, what="The removal of the other engine")


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
    assert refused(variables, old)
    assert not refused(variables, stack.access_token(variables))


def test_a_killed_engine_comes_back(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    (engine,) = stack.engines(cluster["id"])
    os.kill(engine, signal.SIGKILL)

    def replaced() -> bool | None:
        return True if stack.engines(cluster["id"]) not in ([], [engine]) else None

    wait_for(replaced, seconds=60, what="Another engine")
    customer.until(cluster["id"], "healthy")
    assert len(stack.engines(cluster["id"])) == 1
    assert not refused(variables, stack.access_token(variables))


def test_engines_outlive_every_process_of_ours_and_are_adopted(
    stack: Stack, customer: Customer, cluster: dict[str, Any], variables: dict[str, str]
) -> None:
    (engine,) = stack.engines(cluster["id"])
    token = stack.access_token(variables)
    for program in ("web", "worker", "clock", "watch"):
        os.kill(stack.supervisor.pid_of(program), signal.SIGKILL)
    assert not refused(variables, token)
    wait_for(lambda: True if stack.is_complete() else None, seconds=60, what="The process runner's new processes")
    with stack.without("web", "worker", "clock", "watch", "redis", "postgres"):
        assert not refused(variables, token)
        assert is_alive(engine)
    customer.until(cluster["id"], "healthy")
    time.sleep(2)
    assert stack.engines(cluster["id"]) == [engine]


def test_a_change_is_accepted_and_done_without_redis(stack: Stack, customer: Customer, cluster: dict[str, Any]) -> None:
    with stack.without("redis"):
        answer = customer.request("POST", f"/clusters/{cluster['id']}/suspend")
        assert answer.status_code == 202
        customer.until(cluster["id"], "suspended", seconds=60)
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/resume"))


def test_deletion_leaves_nothing(stack: Stack, customer: Customer, cluster: dict[str, Any]) -> None:
    operation = customer.api("DELETE", f"/clusters/{cluster['id']}?purge=true")
    assert customer.finished(operation)["state"] == "succeeded"
    assert customer.request("GET", f"/clusters/{cluster['id']}").status_code == 404
    assert stack.engines(cluster["id"]) == []
    left = {path.parent.name for path in stack.home.region.rglob("*") if cluster["id"] in path.name}
    # The fence outlives the cluster, or a worker that overslept could bring it back. It holds a number, no data.
    assert left <= {"guards"}
