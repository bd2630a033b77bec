"""With everything of ours switched off, the database included, engines serve; a broker may even be restarted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import pytest

from embedded.doors import wait_for
from embedded.processes import Process, identity
from embedded.supervision import PRODUCT, STORES
from tests.e2e.stack import Customer, Stack, is_alive
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def customer(stack: Stack) -> Customer:
    return stack.customer()


@pytest.fixture(scope="module")
def cluster(customer: Customer) -> dict[str, Any]:
    made = customer.create_cluster(plan_type="resilient")
    assert customer.finished(made["operation"])["state"] == "succeeded"
    return customer.until(made["cluster"]["id"], "healthy")


def test_no_call_fails_while_everything_of_ours_is_off(
    stack: Stack, customer: Customer, cluster: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    seconds = request.config.getoption("off_seconds")
    variables = customer.credential(cluster["id"])
    before = stack.engines(cluster["id"])
    assert len(before) == 3
    with Traffic(variables, stack.access_token(variables)) as traffic, stack.without(*PRODUCT, *reversed(STORES)):
        off_at = time.monotonic()
        time.sleep(seconds / 4)
        by_hand = restart_by_hand(stack, before[-1])
        time.sleep(max(0.0, seconds - (time.monotonic() - off_at)))
        assert set(stack.engines(cluster["id"])) == {*before[:-1], by_hand.pid}
    counts = traffic.counts
    print(f"{counts.calls} calls in {seconds} s, {counts.retries} asked again, worst {counts.worst_seconds:.1f} s")
    assert counts.failed == []
    assert counts.calls > seconds / 5
    by_hand.terminate()
    by_hand.wait(120)

    def three() -> bool | None:
        return len(stack.engines(cluster["id"])) == 3 or None

    # First: until somebody has looked, the row is still as healthy as before the outage.
    wait_for(three, seconds=120, what="The third broker")
    customer.until(cluster["id"], "healthy")
    assert set(before[:-1]) < set(stack.engines(cluster["id"])), "an engine that ran well was restarted"
    customer.finished(customer.api("DELETE", f"/clusters/{cluster['id']}?purge=true"))


def restart_by_hand(stack: Stack, broker: int) -> subprocess.Popen[bytes]:
    """End a broker and run it again exactly as it ran, as its machine's owner might."""
    seen = Process(broker)
    command, variables, folder = seen.command[:-1], seen.environment, seen.working_directory
    os.kill(broker, signal.SIGTERM)
    wait_for(lambda: None if is_alive(broker) else True, seconds=120, what="The broker's end")
    return subprocess.Popen(
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
