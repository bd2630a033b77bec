"""A release is rolled out under load: the new code's migration first, then old and new processes side by side.

The old code is the last commit before the newest migration that changes the database. Each test goes on where the one
before it stopped.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_django.plugin import DjangoDbBlocker

from embedded.doors import wait_for
from embedded.environment import Ports
from tests.e2e.releases import Release, previous_commit
from tests.e2e.rolling import OLD, Traffic, TwoReleases, two_releases
from tests.e2e.stack import Customer, free_port, machine_of_its_own

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(600)]


# Far more than a start takes, and less than pytest's own limit: it is this wait that tells what was waited for.
SECONDS = 200.0


@pytest.fixture(scope="module")
def releases(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[TwoReleases]:
    """The old release at work; the new one is installed but not started, and the database knows nothing of it."""
    with django_db_blocker.unblock():
        commit = previous_commit()
    with (
        tempfile.TemporaryDirectory(prefix="flowplane-old-", dir="/tmp") as folder,
        machine_of_its_own() as machine,
    ):
        old = Release.unpack(commit, Path(folder) / "checkout")
        with two_releases(machine, old, Ports(free_port(), free_port())) as releases:
            yield releases


@pytest.fixture(scope="module")
def customer(releases: TwoReleases) -> Customer:
    """Somebody in front of the old web process."""
    return releases.customer()


@pytest.fixture(scope="module")
def newer(releases: TwoReleases, customer: Customer) -> Customer:
    """The same person in front of the new one, which must run by then."""
    return customer.at(releases.new_ports.public_url)


@pytest.fixture(scope="module")
def cluster_id(customer: Customer) -> str:
    """A cluster that the old release made by itself."""
    made = customer.create_cluster()
    assert customer.finished(made["operation"])["state"] == "succeeded"
    return str(made["cluster"]["id"])


def begun(releases: TwoReleases, customer: Customer, operation: dict[str, Any]) -> None:
    """Wait until somebody works on an operation.

    Whoever rings is asked to ring again when no message is left: one that nobody took within 30 s is thrown away, and
    there is no clock.
    """

    def look() -> bool | None:
        if customer.api("GET", f"/operations/{operation['id']}")["state"] != "pending":
            return True
        if not releases.ringing():
            customer.api("PATCH", f"/clusters/{operation['cluster_id']}", {"name": f"rung-{uuid4().hex[:6]}"})
        return None

    wait_for(look, seconds=120, what="The operation's first turn")


def test_the_old_release_serves_while_the_new_one_migrates(
    releases: TwoReleases, customer: Customer, cluster_id: str
) -> None:
    traffic = Traffic(customer.at(releases.public_url), cluster_id)
    with traffic.flowing():
        releases.manage("owner", "migrate", "--no-input", "--verbosity", "0")
        releases.manage("system", "bootstrap")
    assert traffic.answers
    assert traffic.failed == []


def test_the_old_release_works_on_the_migrated_database(customer: Customer, cluster_id: str) -> None:
    suspended = customer.finished(customer.api("POST", f"/clusters/{cluster_id}/suspend"))
    assert suspended["state"] == "succeeded"
    customer.until(cluster_id, "suspended")


def test_the_new_worker_takes_what_old_code_put_into_the_queue_and_hands_it_over(
    releases: TwoReleases, customer: Customer
) -> None:
    releases.drain("old-worker", "old-clock", "old-watch")
    made = customer.create_cluster()
    releases.until_somebody_rings()
    releases.start("worker")
    begun(releases, customer, made["operation"])
    releases.drain("worker")  # in the middle of it
    releases.start("old-worker", "old-clock", "watch")
    assert customer.finished(made["operation"], seconds=SECONDS)["state"] == "succeeded"
    assert len(releases.engines(made["cluster"]["id"])) == 1


def test_the_old_worker_takes_what_new_code_put_into_the_queue_and_hands_it_over(
    releases: TwoReleases, customer: Customer, newer: Customer, cluster_id: str
) -> None:
    releases.drain("old-clock", "watch")
    releases.start("web")
    operation = newer.api("POST", f"/clusters/{cluster_id}/resume")
    begun(releases, newer, operation)
    releases.drain("old-worker")
    releases.start("worker", "clock", "old-watch")
    assert customer.finished(operation, seconds=SECONDS)["state"] == "succeeded"
    assert len(releases.engines(cluster_id)) == 1


def test_each_release_shows_what_the_other_wrote(customer: Customer, newer: Customer, cluster_id: str) -> None:
    operation = customer.api("GET", "/operations")["items"][0]["id"]
    for person in (customer, newer):
        for path in ("/clusters", f"/clusters/{cluster_id}", "/operations", f"/operations/{operation}"):
            assert person.api("GET", path)
            assert person.page(path)


def test_a_request_that_web_has_begun_to_read_is_answered_before_it_ends(
    releases: TwoReleases, customer: Customer, cluster_id: str
) -> None:
    body = json.dumps({"name": "renamed-at-the-end"}).encode()
    with (
        socket.create_connection(("127.0.0.1", releases.machine.ports.plain), timeout=30) as line,
        ThreadPoolExecutor() as threads,
    ):
        line.sendall(customer.head("PATCH", f"/clusters/{cluster_id}", len(body)))
        assert line.recv(4096).startswith(b"HTTP/1.1 100 "), "web waits for the body by now"
        stopped = threads.submit(releases.drain, "old-web")
        deadline = time.monotonic() + 10
        while releases.supervisor.states()["old-web"] != "STOPPING":
            assert time.monotonic() < deadline, "the stop did not begin"
            time.sleep(0.05)  # from here on, it waits for 10 s
        line.sendall(body)
        answer = b"".join(iter(lambda: line.recv(4096), b""))
        stopped.result()
    assert answer.startswith(b"HTTP/1.1 202 "), answer[:500]


def test_the_new_release_goes_on_alone_and_nothing_has_failed(
    releases: TwoReleases, newer: Customer, cluster_id: str
) -> None:
    releases.drain("old-watch")
    assert {releases.supervisor.states()[name] for name in OLD} == {"STOPPED"}
    assert newer.api("GET", f"/clusters/{cluster_id}")["name"] == "renamed-at-the-end"
    operation = newer.api("DELETE", f"/clusters/{cluster_id}?purge=true")
    assert newer.finished(operation)["state"] == "succeeded"
    operations = newer.api("GET", "/operations?limit=100")["items"]
    # A rename gives way to the next one.
    assert {(one["kind"], one["state"]) for one in operations} <= {
        *((kind, "succeeded") for kind in ("create", "suspend", "resume", "update", "delete")),
        ("update", "cancelled"),
    }
    assert releases.complaints() == []
