"""A worker that stands still in the middle of its turn, as on a machine that was suspended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import UUID

import psycopg

from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import find_all_holders
from tests.e2e.stack import Stack

Found = TypeVar("Found")

SLOW_SECONDS = 0.5


@contextlib.contextmanager
def worker_frozen_in_its_turn(stack: Stack, cluster_id: str) -> Iterator[None]:
    """Stop the worker's process while it holds the cluster's lease, outside any transaction and any call to the engine.

    In such a call it would hold the engine itself, and everybody off until it wakes up. Its claim takes half a second
    inside the database meanwhile, so that it can be stopped while it waits for it, with all of its turn still to come.
    """
    worker = stack.supervisor.pid_of("worker")
    fence = RegionFolder(stack.home.region / "local").cluster(UUID(cluster_id)).fence
    with stack.superuser() as admin, _slow_claims(admin, cluster_id):

        def is_leased() -> bool:
            return bool(
                admin.execute(
                    "SELECT 1 FROM provisioning_cluster WHERE id = %s AND lease_expires_at > now()", [cluster_id]
                ).fetchone()
            )

        def is_at_it(how: str) -> bool:
            return bool(
                admin.execute(f"SELECT 1 FROM pg_stat_activity WHERE usename = 'flowplane_system' AND {how}").fetchone()
            )

        def caught() -> bool | None:
            if not is_at_it("wait_event = 'PgSleep'"):
                return None
            os.kill(worker, signal.SIGSTOP)
            time.sleep(2 * SLOW_SECONDS)
            # Not so when it was stopped too late, or when the clock has claimed it.
            if is_leased() and not is_at_it("state <> 'idle'") and not find_all_holders([fence]):
                return True
            os.kill(worker, signal.SIGCONT)
            return None

        soon(caught)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            os.kill(worker, signal.SIGCONT)


@contextlib.contextmanager
def _slow_claims(admin: psycopg.Connection, cluster_id: str) -> Iterator[None]:
    admin.execute(
        "CREATE FUNCTION slow_claim() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_sleep({SLOW_SECONDS}); RETURN NULL; END $$"
    )
    try:
        admin.execute(
            "CREATE TRIGGER slow_claim AFTER UPDATE ON provisioning_cluster FOR EACH ROW "
            f"WHEN (NEW.id = '{cluster_id}' AND NEW.lease_epoch > OLD.lease_epoch) EXECUTE FUNCTION slow_claim()"
        )
        yield
    finally:
        admin.execute("DROP FUNCTION slow_claim() CASCADE")


def soon(look: Callable[[], Found | None]) -> Found:
    """The first answer, asked for without a pause: what is looked for is short."""
    deadline = time.monotonic() + 60
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not come"
    return found
