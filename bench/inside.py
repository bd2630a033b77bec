"""Figures that are taken inside a process of ours: what a turn costs, and how long a wake-up takes."""

from __future__ import annotations

import os
import statistics
import sys
import time
from datetime import timedelta
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.db import connection  # noqa: E402 - settings first
from django.db.models.functions import Now  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from provisioning import reconciler, wakeups  # noqa: E402
from provisioning.models import Cluster  # noqa: E402

NOOP_TURNS = 200


def noop(cluster_id: UUID) -> None:
    """Count statements and connections of a turn that finds nothing to do, and its CPU time."""
    reached: list[str] = []
    sys.addaudithook(lambda event, _args: reached.append(event) if event in _ACTS else None)
    _make_due(cluster_id)
    with CaptureQueriesContext(connection) as queries:
        reconciler.turn(cluster_id)
    print(f"{len(queries)} SQL statements, {len(reached)} calls to the engine or the region (exact)")
    used = time.process_time()
    for _ in range(NOOP_TURNS):
        _make_due(cluster_id)
        reconciler.turn(cluster_id)
    print(f"{(time.process_time() - used) / NOOP_TURNS * 1000:.1f} ms CPU each (n={NOOP_TURNS})")


# A connection, a process or a signal: whatever leaves for the region. psycopg's own connections are libpq's.
_ACTS = frozenset({"socket.connect", "subprocess.Popen", "os.kill", "os.posix_spawn"})


def wakes(cluster_id: UUID, times: int) -> None:
    """Wake a healthy cluster again and again; from the wake's commit until the worker's turn is recorded."""
    took = []
    for _ in range(times):
        woken = _now()
        started = time.perf_counter()
        wakeups.wake(cluster_id)
        while Cluster.objects.filter(pk=cluster_id, seen_at__gt=woken, lease_expires_at=None).count() == 0:
            time.sleep(0.001)
        took.append((time.perf_counter() - started) * 1000)
    ordered = sorted(took)
    p99 = ordered[int(len(ordered) * 0.99) - 1]
    print(f"p50 {statistics.median(ordered):.0f} ms, p99 {p99:.0f} ms (n={times}), the turn's statements included")


def _make_due(cluster_id: UUID) -> None:
    Cluster.objects.filter(pk=cluster_id).update(due_at=Now() - timedelta(seconds=1))


def _now() -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


if __name__ == "__main__":
    if sys.argv[1] == "noop":
        noop(UUID(sys.argv[2]))
    else:
        wakes(UUID(sys.argv[2]), int(sys.argv[3]))
