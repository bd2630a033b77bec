"""A worker that stands still in the middle of its turn, as on a machine that was suspended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from provisioning.backends.local.process import find_all_holders
from tests.e2e.stack import Stack

Found = TypeVar("Found")


@contextlib.contextmanager
def worker_frozen_in_its_turn(stack: Stack, cluster_id: str) -> Iterator[None]:
    """Stop the worker's process while it holds the cluster's lease, outside any transaction and any call to the engine.

    In such a call it would hold the engine itself, and everybody off until it wakes up. It cannot be told when to stop,
    so it is stopped once in each turn until it was so: while an engine starts, which takes a turn each second.
    """
    worker = stack.supervisor.pid_of("worker")
    (fence,) = stack.home.region.rglob(f"{cluster_id}.fence")
    with stack.superuser() as admin:

        def epoch_of_lease() -> int | None:
            row = admin.execute(
                "SELECT lease_epoch FROM provisioning_cluster WHERE id = %s AND lease_expires_at > now()", [cluster_id]
            ).fetchone()
            return int(row[0]) if row else None

        def is_at_it() -> bool:
            (sessions,) = admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'flowplane_system' AND state <> 'idle'"
            ).fetchone() or (0,)
            return bool(sessions)

        missed: int | None = None

        def caught() -> bool | None:
            nonlocal missed
            before = epoch_of_lease()
            if before is None or before == missed:  # stopped all the time, that turn would never end
                return None
            os.kill(worker, signal.SIGSTOP)
            time.sleep(0.5)  # what it has said last is on its way to the database, and may give the lease back
            if epoch_of_lease() == before and not is_at_it() and not find_all_holders([fence]):
                return True
            missed = before
            os.kill(worker, signal.SIGCONT)
            return None

        soon(caught)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            os.kill(worker, signal.SIGCONT)


def soon(look: Callable[[], Found | None]) -> Found:
    """The first answer, asked for without a pause: what is looked for is short."""
    deadline = time.monotonic() + 60
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not come"
    return found
