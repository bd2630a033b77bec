"""A backup of Flowplane itself is restored while engines run that it knows nothing of, or knows otherwise."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from embedded.doors import wait_for
from embedded.environment import base_environment, chosen_settings
from embedded.machine import held, running
from embedded.setup import CHECKOUT
from provisioning.backends.local.layout import RegionFolder
from tests.e2e.stack import Customer, Stack, machine_of_its_own
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]

LEDGER = "/operator/provisioning/leftover/"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A product of its own, held as a demo holds it: its database is replaced."""
    with (
        machine_of_its_own() as machine,
        held(machine.home),
        running(machine, lambda _title: contextlib.nullcontext()) as supervisor,
    ):
        yield Stack(machine, supervisor)


def make_operator(stack: Stack) -> None:
    """Let everybody who has signed up so far into the operator site."""
    with stack.superuser() as admin:
        admin.execute("UPDATE tenants_user SET is_staff = true, is_superuser = true")


def command(stack: Stack, *words: str | Path) -> str:
    """`python -m embedded ...`, as make runs it: a process of its own, which may fork beside our gRPC threads."""
    done = subprocess.run(
        [sys.executable, "-m", "embedded", *map(str, words)],
        cwd=CHECKOUT,
        env={**base_environment(), **chosen_settings(stack.home, stack.machine.ports, {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def healthy_cluster(customer: Customer) -> dict[str, Any]:
    made = customer.create_cluster()
    assert customer.finished(made["operation"])["state"] == "succeeded"
    return customer.until(made["cluster"]["id"], "healthy")


def knows_all(stack: Stack, given: Iterable[Mapping[str, str]]) -> bool | None:
    """Whether the region remembers everybody who was given access, which it is told every ten seconds."""
    text = RegionFolder(stack.home.region / "local").register.read_text(encoding="utf-8")
    return all(one["ZEEBE_CLIENT_ID"] in text for one in given) or None


def entry_of(customer: Customer, cluster_id: str) -> str | None:
    """The ledger's entry of what was found of a cluster, if there is one."""
    entries: list[str] = re.findall(rf"{LEDGER}([0-9a-f-]{{36}})/change/", customer.page(LEDGER))
    return next((entry for entry in entries if cluster_id in customer.page(f"{LEDGER}{entry}/change/")), None)


def test_an_older_database_ends_no_engine_and_tells_what_it_does_not_know(stack: Stack, tmp_path: Path) -> None:
    customer, neighbour = stack.customer(), stack.customer()
    make_operator(stack)
    same, other = healthy_cluster(customer), healthy_cluster(customer)
    archive = tmp_path / "older.age"
    command(stack, "backup", "--to", archive)

    younger = healthy_cluster(neighbour)
    customer.finished(customer.api("POST", f"/clusters/{other['id']}/suspend"))
    variables = {same["id"]: customer.credential(same["id"]), younger["id"]: neighbour.credential(younger["id"])}
    tokens = {cluster_id: stack.access_token(one) for cluster_id, one in variables.items()}
    engines = {cluster["id"]: stack.engines(cluster["id"]) for cluster in (same, younger)}

    with (
        Traffic(variables[same["id"]], tokens[same["id"]]) as of_same,
        Traffic(variables[younger["id"]], tokens[younger["id"]]) as of_younger,
    ):
        wait_for(
            lambda: knows_all(stack, variables.values()), seconds=120, what="The region's knowledge of who has access"
        )
        said = command(stack, "restore", "--from", archive)
        entry = wait_for(lambda: entry_of(customer, younger["id"]), seconds=150, what="The ledger's entry")
    assert "nothing is removed in any region" in said
    assert of_same.counts.failed == of_younger.counts.failed == []
    assert {cluster_id: stack.engines(cluster_id) for cluster_id in engines} == engines

    # What is there as it is wished goes on; what differs waits, and nobody starts it again.
    assert customer.until(same["id"], "healthy")["id"] == same["id"]
    assert stack.engines(other["id"]) == []
    report = customer.page("/operator/provisioning/installation/1/change/")
    assert "Set back" in report
    for lost in variables.values():
        assert lost["ZEEBE_CLIENT_ID"] in report

    customer.press("/operator/provisioning/installation/acknowledge/")
    customer.press(f"{LEDGER}{entry}/adopt/")
    neighbour.until(younger["id"], "healthy")
    assert stack.engines(younger["id"]) == engines[younger["id"]], "adopting does not touch the engine"
    assert stack.engines(other["id"]) == []
    customer.press(f"/operator/provisioning/cluster/{other['id']}/release/")
    customer.until(other["id"], "healthy")
    assert len(stack.engines(other["id"])) == 1

    # It is a cluster like any other again.
    for owner, cluster in ((customer, same), (neighbour, younger), (customer, other)):
        owner.finished(owner.api("POST", f"/clusters/{cluster['id']}/suspend"))
        assert stack.engines(cluster["id"]) == []
