"""What the whole product does while a part of it is broken: nothing is lost, and everybody is told a sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import requests

from embedded.doors import wait_for
from embedded.errors import SetupError
from provisioning.sweeper import MAX_RINGS
from tests.e2e.freezing import worker_frozen_in_its_turn
from tests.e2e.stack import Customer, Stack

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]

Found = TypeVar("Found")
# What a clock does at its very first tick, all at once.
CHORES = 10


@pytest.fixture(scope="module")
def customer(stack: Stack) -> Customer:
    return stack.customer()


@pytest.fixture(scope="module")
def cluster(customer: Customer) -> Iterator[dict[str, Any]]:
    made = customer.create_cluster()
    customer.finished(made["operation"])
    yield customer.until(made["cluster"]["id"], "healthy")
    customer.finished(customer.api("DELETE", f"/clusters/{made['cluster']['id']}?purge=true"))


def drop_connections(stack: Stack) -> None:
    """End every session of ours, as a failover or an impatient administrator does."""
    with stack.superuser("postgres") as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'flowplane_%'")


@contextlib.contextmanager
def altered(stack: Stack, change: str, back: str) -> Iterator[None]:
    """Change the database for new sessions for the length of the block, and have everybody begin one."""
    with stack.superuser("postgres") as admin:
        admin.execute(change)
    drop_connections(stack)
    try:
        yield
    finally:
        with stack.superuser("postgres") as admin:
            admin.execute(back)
        drop_connections(stack)


def api_client(stack: Stack, customer: Customer) -> dict[str, str]:
    """The header of a program that may read and write clusters; reading with it writes nothing."""
    wish = {"name": f"faults-{uuid4().hex[:6]}", "scopes": ["clusters:read", "clusters:write"]}
    made = customer.api("POST", "/api-credentials", wish)
    answer = requests.post(
        f"{stack.public_url}/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(made["client_id"], made["client_secret"]),
        timeout=30,
    )
    assert answer.ok, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def call(stack: Stack, header: dict[str, str], method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(method, f"{stack.public_url}/api/v1{path}", headers=header, json=body, timeout=30)


def assert_told_to_wait(answer: requests.Response, code: str) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["code"] == code


def test_a_read_only_database_is_read(stack: Stack, customer: Customer, cluster: dict[str, Any]) -> None:
    header, at = api_client(stack, customer), f"/clusters/{cluster['id']}"
    change = "ALTER DATABASE flowplane SET default_transaction_read_only = on"
    with altered(stack, change, "ALTER DATABASE flowplane RESET default_transaction_read_only"):
        read = wait_for(lambda: _ok(call(stack, header, "GET", at)), seconds=30, what="A reading answer")
        # The row as it is: nobody can look at the engine, and the last look may have been an unlucky one.
        with stack.superuser() as admin:
            row = admin.execute("SELECT conditions FROM provisioning_cluster WHERE id = %s", [cluster["id"]]).fetchone()
        assert row is not None
        assert read.json()["conditions"] == row[0] != []
        assert_told_to_wait(call(stack, header, "PATCH", at, {"name": "changed"}), "read_only")
        assert_told_to_wait(call(stack, header, "POST", f"{at}/suspend"), "read_only")
    wait_for(lambda: _ok(call(stack, header, "PATCH", at, {"name": "changed"})), seconds=30, what="The change")
    wait_for(lambda: True if stack.is_complete() else None, seconds=60, what="Every process of ours")


def _ok(answer: requests.Response) -> requests.Response | None:
    return answer if answer.ok else None


@pytest.mark.parametrize("state", ["53100", "40001", "40P01"], ids=["disk full", "serialization failure", "deadlock"])
def test_a_statement_that_the_database_refuses_leaves_nothing_half_done(
    stack: Stack, customer: Customer, cluster: dict[str, Any], state: str
) -> None:
    """The real refusals of a real server, asked for by a trigger: the operation's row is the last that is written."""
    name = f"half-{uuid4().hex[:8]}"
    wish = {"name": name, "stage": "dev", "region": "local", "plan_type": "small", "channel": "stable"}
    with stack.superuser() as admin:
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$"
        )
        admin.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON provisioning_operation FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        try:
            assert_told_to_wait(customer.request("POST", "/clusters", wish), "unavailable")
        finally:
            admin.execute("DROP FUNCTION refuse() CASCADE")
    assert name not in [one["name"] for one in customer.api("GET", "/clusters")["items"]]
    made = customer.api("POST", "/clusters", wish)
    customer.finished(made["operation"])
    customer.finished(customer.api("DELETE", f"/clusters/{made['cluster']['id']}?purge=true"))


def test_a_database_without_a_free_connection_answers_503_and_comes_back_by_itself(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    header, at = api_client(stack, customer), f"/clusters/{cluster['id']}"
    with altered(stack, "ALTER ROLE flowplane_app CONNECTION LIMIT 0", "ALTER ROLE flowplane_app CONNECTION LIMIT -1"):
        assert_told_to_wait(call(stack, header, "GET", at), "unavailable")
    wait_for(lambda: _ok(call(stack, header, "GET", at)), seconds=30, what="An answer")


@contextlib.contextmanager
def counted_deaths(stack: Stack) -> Iterator[Callable[[], int]]:
    """Count how often a cluster's turn is taken for one whose worker died, however soon that is forgotten."""
    with stack.superuser() as admin:
        admin.execute("CREATE TABLE counted (cluster_id uuid)")
        admin.execute(
            "CREATE FUNCTION count_death() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
            "$$ BEGIN INSERT INTO public.counted VALUES (NEW.id); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE TRIGGER count_death AFTER UPDATE ON provisioning_cluster FOR EACH ROW "
            "WHEN (NEW.deaths > OLD.deaths) EXECUTE FUNCTION count_death()"
        )

        def count() -> int:
            (number,) = admin.execute("SELECT count(*) FROM counted").fetchone() or (0,)
            return int(number)

        try:
            yield count
        finally:
            admin.execute("DROP FUNCTION count_death() CASCADE")
            admin.execute("DROP TABLE counted")


def has_lapsed(stack: Stack, cluster_id: str) -> bool | None:
    """Whether somebody holds the cluster's lease although its time is over."""
    with stack.superuser() as admin:
        found = admin.execute(
            "SELECT lease_expires_at < now() FROM provisioning_cluster WHERE id = %s", [cluster_id]
        ).fetchone()
    return bool(found and found[0]) or None


class Logs:
    """What our processes without a door have written from now on."""

    def __init__(self, stack: Stack) -> None:
        self._files = {name: stack.home.logs / f"{name}.log" for name in ("worker", "clock", "watch")}
        self._begun = {name: file.stat().st_size for name, file in self._files.items()}
        self._since = time.monotonic()

    def lines(self, name: str, words: str = "") -> int:
        """How many lines with these words."""
        written = self._files[name].read_bytes()[self._begun[name] :].decode()
        return sum(words in line for line in written.splitlines())

    @property
    def seconds(self) -> float:
        """The time since they began, or more."""
        return time.monotonic() - self._since


def test_workers_without_a_connection_lose_no_wish_and_neither_die_nor_spin(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    """The role of worker, clock and watch may not connect, for longer than a lease; the web's may."""
    limit = "ALTER ROLE flowplane_system CONNECTION LIMIT"
    made = customer.create_cluster()
    new = made["cluster"]["id"]
    wait_for(lambda: stack.engines(new) or None, seconds=120, what="The new cluster's engine")
    pids = {name: stack.supervisor.pid_of(name) for name in ("worker", "clock", "watch")}
    with counted_deaths(stack) as deaths, contextlib.ExitStack() as frozen:
        frozen.enter_context(worker_frozen_in_its_turn(stack, new))
        logs = Logs(stack)
        with altered(stack, f"{limit} 0", f"{limit} -1"):
            frozen.close()  # what its turn finds, nobody can write down
            revoked = customer.request("POST", f"/clusters/{cluster['id']}/revoke-access")
            assert revoked.status_code == 202, revoked.text
            name = f"meanwhile-{uuid4().hex[:6]}"
            customer.api("PATCH", f"/clusters/{new}", {"name": name})
            for engine in stack.engines(cluster["id"]):
                os.kill(engine, signal.SIGKILL)  # of which the watch tells
            refused = "the database does not answer"
            wait_for(lambda: logs.lines("watch", refused) or None, seconds=60, what="The watch's word")
            wait_for(lambda: logs.lines("worker", refused) or None, seconds=60, what="The worker's word")
            wait_for(lambda: has_lapsed(stack, new), seconds=60, what="The end of the lease")

            # One line for each silence, message and chore; a tick each second, and all rarer chores are less than one.
            messages = logs.lines("worker", "received")
            assert logs.lines("watch") == 1
            assert messages <= MAX_RINGS + 2, "those on their way, and one for each wish"
            assert logs.lines("worker") <= 3 * (messages + MAX_RINGS)
            assert logs.lines("clock") <= 2 * (logs.seconds + 1) + CHORES
            assert {name: stack.supervisor.pid_of(name) for name in pids} == pids

        assert customer.finished(made["operation"])["state"] == "succeeded"
        assert customer.finished(revoked.json())["state"] == "succeeded"
        assert customer.until(new, "healthy")["name"] == name
        customer.until(cluster["id"], "healthy")
        assert [len(stack.engines(one)) for one in (new, cluster["id"])] == [1, 1]
        assert deaths() == 0
    assert {name: stack.supervisor.pid_of(name) for name in pids} == pids
    customer.finished(customer.api("DELETE", f"/clusters/{new}?purge=true"))


@contextlib.contextmanager
def database_killed(stack: Stack) -> Iterator[None]:
    """Kill the database's server, and have it come back after the block only."""
    os.kill(stack.supervisor.pid_of("postgres"), signal.SIGKILL)
    stack.supervisor.stop(("postgres",))
    try:
        yield
    finally:
        with contextlib.suppress(SetupError):  # while anybody of the killed one's is left, it is tried again
            stack.supervisor.start(("postgres",))
        wait_for(lambda: stack.supervisor.states()["postgres"] == "RUNNING" or None, seconds=60, what="The database")


def test_a_database_killed_in_the_middle_loses_no_accepted_change(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    header, at = api_client(stack, customer), f"/clusters/{cluster['id']}"
    customer.finished(customer.api("POST", f"{at}/suspend"))
    accepted = customer.api("POST", f"{at}/resume")
    with worker_frozen_in_its_turn(stack, cluster["id"]), database_killed(stack):
        assert_told_to_wait(call(stack, header, "GET", at), "unavailable")
    wait_for(lambda: _ok(call(stack, header, "GET", at)), seconds=60, what="An answer")

    def ended() -> dict[str, Any] | None:
        with contextlib.suppress(requests.RequestException):
            answer = customer.request("GET", f"/operations/{accepted['id']}")
            return answer.json() if answer.ok and answer.json()["state"] == "succeeded" else None
        return None

    wait_for(ended, seconds=240, what="The resumption's end")
    customer.until(cluster["id"], "healthy")


def test_a_broker_that_forgets_everything_loses_nothing(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    cli = stack.machine.parts.redis / "redis-cli"
    operation = customer.api("POST", f"/clusters/{cluster['id']}/suspend")
    for _ in range(20):
        subprocess.run([cli, "-s", stack.home.broker_socket, "FLUSHALL"], check=True, capture_output=True)
        time.sleep(0.1)
    assert customer.finished(operation)["state"] == "succeeded"
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/resume"))


def test_a_worker_that_overslept_its_lease_does_no_harm(
    stack: Stack, customer: Customer, cluster: dict[str, Any]
) -> None:
    """Frozen in its turn, past its lease of 20 s, while the clock takes over; then it wakes up and is refused."""
    log = stack.home.logs / "worker.log"
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/suspend"))
    operation = customer.api("POST", f"/clusters/{cluster['id']}/resume")
    with worker_frozen_in_its_turn(stack, cluster["id"]):
        written = log.stat().st_size
        assert customer.finished(operation, seconds=240)["state"] == "succeeded"
        suspended = customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/suspend"), seconds=240)
        assert suspended["state"] == "succeeded"
        assert stack.engines(cluster["id"]) == []

    def refused() -> bool | None:
        lines = log.read_bytes()[written:].decode().splitlines()
        return any("turn was overtaken" in line and cluster["id"] in line for line in lines) or None

    wait_for(refused, seconds=60, what="The refusal of the turn that was overtaken")
    assert stack.engines(cluster["id"]) == [], "what it knows best is that an engine is wanted"
    customer.until(cluster["id"], "suspended")
    customer.finished(customer.api("POST", f"/clusters/{cluster['id']}/resume"))
    customer.until(cluster["id"], "healthy")
