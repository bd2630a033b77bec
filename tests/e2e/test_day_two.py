"""Day two through the doors on real engines: backups, copies, restores, proofs, upgrades and other sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from embedded.doors import wait_for
from provisioning.backends.engine.door import Limits
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.layout import BrokerFolder, RegionFolder
from provisioning.backends.local.record import EngineRecord
from tests.e2e.stack import Customer, Stack
from tests.e2e.traffic import Traffic
from tests.provisioning.backends.tokens import EngineClient

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def customer(stack: Stack) -> Customer:
    return stack.customer()


@contextmanager
def living(customer: Customer, **wish: str) -> Iterator[dict[str, Any]]:
    """A healthy cluster, removed afterwards with its backups' owner."""
    made = customer.create_cluster(channel="next", **wish)
    try:
        assert customer.finished(made["operation"])["state"] == "succeeded"
        yield customer.until(made["cluster"]["id"], "healthy")
    finally:
        customer.finished(customer.api("DELETE", f"/clusters/{made['cluster']['id']}?purge=true"))


@contextmanager
def engine_of(stack: Stack, customer: Customer, cluster: Mapping[str, Any]) -> Iterator[tuple[EngineClient, str]]:
    """A stock client of the cluster with a credential of its own, and a token."""
    variables = customer.credential(cluster["id"])
    roots = Path(variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"])
    with EngineClient(variables["ZEEBE_ADDRESS"], roots) as client:
        yield client, stack.access_token(variables)


def leave(stack: Stack, customer: Customer, cluster: Mapping[str, Any], *numbers: int) -> None:
    """Start instances that wait until somebody does their work."""
    with engine_of(stack, customer, cluster) as (engine, token):
        engine.deploy_waiting(token)
        for number in numbers:
            engine.create_waiting(token, number)


def finish(stack: Stack, customer: Customer, cluster: Mapping[str, Any], *numbers: int) -> set[int]:
    """Do the work of what waits, until these are done; the numbers of all that waited."""
    with engine_of(stack, customer, cluster) as (engine, token):
        return engine.finish_waiting(token, set(numbers))


def act(customer: Customer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a change and see it through; its operation."""
    operation = customer.finished(asked(customer, path, body))
    assert operation["state"] == "succeeded", operation
    return operation


def asked(customer: Customer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a change; again while the last look at a busy engine was an unlucky one."""

    def ask() -> dict[str, Any] | None:
        answer = customer.request("POST", path, body)
        if answer.status_code == 409 and answer.json()["code"] == "not_available":
            return None
        assert answer.ok, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    return wait_for(ask, seconds=60, what="An engine that is seen to be available")


def steps_of(operation: Mapping[str, Any]) -> list[str]:
    return [step["kind"] for step in operation["steps"]]


def backups_of(customer: Customer, cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = customer.api("GET", f"/clusters/{cluster['id']}/backups")["items"]
    return found


def test_a_cluster_of_one_broker_is_upgraded_restored_copied_and_proven(stack: Stack, customer: Customer) -> None:
    with living(customer, release="8.5.8") as cluster:
        at = f"/clusters/{cluster['id']}"
        leave(stack, customer, cluster, 1, 2)

        refused = customer.request("POST", f"{at}/upgrade", {"release": "8.7.0"})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_spec"), refused.text
        foreseen = asked(customer, f"{at}/upgrade?dry_run=true", {"release": "8.6.0"})
        upgrade = act(customer, f"{at}/upgrade", {"release": "8.6.0"})
        assert steps_of(upgrade) == [step["kind"] for step in foreseen["steps"]]
        assert steps_of(upgrade)[0] == "take_backup"
        upgraded = customer.until(cluster["id"], "healthy")
        assert (upgraded["release"], upgraded["endpoint"]["grpc"]) == ("8.6.0", cluster["endpoint"]["grpc"])
        (before,) = backups_of(customer, cluster)
        assert (before["reason"], before["state"], before["release"]) == ("before_upgrade", "completed", "8.5.8")

        act(customer, f"{at}/backups")
        latest = backups_of(customer, cluster)[0]
        leave(stack, customer, cluster, 3)
        with living(customer, from_backup=latest["id"]) as copy:
            assert copy["data_source"] == {"backup": latest["id"], "cluster_id": cluster["id"]}
            assert finish(stack, customer, copy, 1, 2) == {1, 2}

        proof = act(customer, f"/backups/{latest['id']}/drill")
        proven = customer.api("GET", f"/backups/{latest['id']}")
        assert proven["verified_at"] is not None
        assert 0 < proven["recovery_seconds"] < 600
        assert proven["loss_seconds"] > 0
        # Its creation has succeeded; the removal follows.
        copy_id = proof["cluster_id"]
        wait_for(lambda: None if stack.engines(copy_id) else True, seconds=120, what="The end of the drill's engine")
        print(f"a drill: recovered in {proven['recovery_seconds']:.1f} s, lacks {proven['loss_seconds']:.1f} s")

        act(customer, f"{at}/restore-backup", {"backup": latest["id"]})
        assert finish(stack, customer, customer.until(cluster["id"], "healthy"), 1, 2) == {1, 2}

        too_late = customer.request("POST", f"{at}/upgrade", {"release": "8.5.8"})
        assert (too_late.status_code, too_late.json()["code"]) == (409, "path_blocked"), too_late.text
        assert "never goes back to an earlier release" in too_late.json()["detail"]
        # The data of a release that this one can follow is read.
        act(customer, f"{at}/restore-backup", {"backup": before["id"]})
        assert finish(stack, customer, customer.until(cluster["id"], "healthy"), 1, 2) == {1, 2}


def broker_of(stack: Stack, cluster: Mapping[str, Any]) -> BrokerFolder:
    return RegionFolder(stack.home.region / "local").cluster(UUID(cluster["id"])).broker(0)


def take_snapshot(broker: BrokerFolder) -> Path:
    """Have the engine write its state down, which is what it begins with at its next start; the folder."""
    record = EngineRecord.read(broker)
    assert record is not None
    door = LoopbackDoor(record.ports.management)
    snapshots = broker.data / "raft-partition" / "partitions" / "1" / "snapshots"
    before = set(snapshots.glob("*.checksum"))
    assert door.ask("POST", "actuator/partitions/takeSnapshot", limits=Limits(connect=1, read=60)) is not None
    return wait_for(
        lambda: next((path.with_suffix("") for path in snapshots.glob("*.checksum") if path not in before), None),
        seconds=60,
        what="The snapshot",
    )


def damage(snapshot: Path) -> dict[Path, bytes]:
    """Overwrite the middle of what a snapshot holds; its files and what is in them now."""
    for table in snapshot.glob("*.sst"):
        with table.open("r+b") as file:
            file.seek(table.stat().st_size // 2)
            file.write(os.urandom(64))
    return {path: path.read_bytes() for path in snapshot.iterdir()}


def test_an_engine_whose_files_are_damaged_says_so_and_is_restored(stack: Stack, customer: Customer) -> None:
    with living(customer, release="8.5.8") as cluster:
        at, broker = f"/clusters/{cluster['id']}", broker_of(stack, cluster)
        leave(stack, customer, cluster, 1, 2)
        act(customer, f"{at}/backups")
        (backup,) = backups_of(customer, cluster)
        leave(stack, customer, cluster, 3)  # of nothing new an engine takes no snapshot
        snapshot = take_snapshot(broker)
        act(customer, f"{at}/suspend")
        damaged = damage(snapshot)

        failed = customer.finished(customer.api("POST", f"{at}/resume"))
        assert (failed["state"], failed["error"]["code"]) == ("failed", "data_damaged")
        assert failed["error"]["message"].startswith("The engine cannot read its data")
        assert "Restore a backup into this cluster" in failed["error"]["message"]
        shown = customer.api("GET", at)
        assert shown["phase"] == "unhealthy"
        told = {one["type"]: (one["status"], one["message"]) for one in shown["conditions"]}
        assert told["Available"] == ("False", failed["error"]["message"])
        assert told["Stalled"] == ("True", failed["error"]["message"])
        (engine,) = stack.engines(cluster["id"])

        # Nothing is tried behind anybody's back, and nothing is taken away.
        stack.manage("system", "reconcile", cluster["id"])
        assert customer.api("GET", at)["conditions"] == shown["conditions"]
        assert stack.engines(cluster["id"]) == [engine]
        assert {path: path.read_bytes() for path in snapshot.iterdir()} == damaged

        act(customer, f"{at}/restore-backup", {"backup": backup["id"]})
        assert finish(stack, customer, customer.until(cluster["id"], "healthy"), 1, 2) == {1, 2}


@contextmanager
def on_offer(stack: Stack, version: str, *, upgrades_from: str, main_class: str) -> Iterator[None]:
    """An operator offers release 8.6.0 under another name, with this main class, and takes it back afterwards."""
    with stack.superuser() as admin:
        fields = ("coordinates", "sha256", "licence", "serves_rest", "restore_class", "rolls_from")
        same = ", ".join(fields)
        admin.execute(
            f"INSERT INTO provisioning_release (version, upgrades_from, main_class, is_offered, {same}) "
            f"SELECT %s, ARRAY[%s], %s, true, {same} FROM provisioning_release WHERE version = '8.6.0'",
            [version, upgrades_from, main_class],
        )
        admin.execute(
            "INSERT INTO provisioning_channel_releases (channel_id, release_id) VALUES ('next', %s)", [version]
        )
        try:
            yield
        finally:
            admin.execute("DELETE FROM provisioning_channel_releases WHERE release_id = %s", [version])
            admin.execute("UPDATE provisioning_release SET is_offered = false WHERE version = %s", [version])


def test_a_release_that_does_not_come_up_leaves_the_old_one_serving(stack: Stack, customer: Customer) -> None:
    with (
        living(customer, release="8.5.8") as cluster,
        on_offer(stack, "8.6.0-broken", upgrades_from="8.5.8", main_class="no.such.Main"),
        on_offer(stack, "8.6.0-later", upgrades_from="8.6.0", main_class="no.such.Main"),
    ):
        at = f"/clusters/{cluster['id']}"
        leave(stack, customer, cluster, 1, 2)

        blocked = customer.request("POST", f"{at}/upgrade", {"release": "8.6.0-later"})
        assert (blocked.status_code, blocked.json()["code"]) == (409, "path_blocked"), blocked.text
        assert "8.6.0-later can only follow 8.6.0" in blocked.json()["detail"]

        failed = customer.finished(customer.api("POST", f"{at}/upgrade", {"release": "8.6.0-broken"}))
        assert (failed["state"], failed["error"]["code"]) == ("failed", "upgrade_failed")
        assert "goes back to 8.5.8, with the data it had before" in failed["error"]["message"]

        served = customer.until(cluster["id"], "healthy")
        assert (served["release"], served["endpoint"]) == ("8.5.8", cluster["endpoint"])
        assert finish(stack, customer, served, 1, 2) == {1, 2}


def test_three_brokers_are_upgraded_resized_and_restored_under_load(stack: Stack, customer: Customer) -> None:
    with living(customer, release="8.5.8", plan_type="resilient") as cluster:
        at = f"/clusters/{cluster['id']}"
        leave(stack, customer, cluster, *range(20))
        variables = customer.credential(cluster["id"])
        with Traffic(variables, stack.access_token(variables)) as traffic:
            upgrade = act(customer, f"{at}/upgrade", {"release": "8.6.0"})
        print(f"rolling upgrade: {traffic.counts}")
        assert steps_of(upgrade)[:2] == ["take_backup", "roll_brokers"]
        assert traffic.counts.failed == []

        with Traffic(variables, stack.access_token(variables)) as traffic:
            act(customer, f"{at}/resize", {"plan_type": "resilient-4"})
            assert len(stack.engines(cluster["id"])) == 4
            act(customer, f"{at}/resize", {"plan_type": "resilient"})
        print(f"three, four, three brokers: {traffic.counts}")
        assert traffic.counts.failed == []
        assert len(stack.engines(cluster["id"])) == 3
        refused = customer.request("POST", f"{at}/resize", {"plan_type": "small"})
        assert (refused.status_code, refused.json()["code"]) == (409, "path_blocked"), refused.text
        assert "partition" in refused.json()["detail"]

        act(customer, f"{at}/backups")
        latest = backups_of(customer, cluster)[0]
        leave(stack, customer, cluster, 100)
        act(customer, f"{at}/restore-backup", {"backup": latest["id"]})
        whole = customer.until(cluster["id"], "healthy")
        assert finish(stack, customer, whole, *range(20)) == set(range(20))
