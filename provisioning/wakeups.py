"""Ask for a turn soon. The row says that a cluster is due; the message only rings."""

from __future__ import annotations

from uuid import UUID

from celery import current_app
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from provisioning.models import Cluster

RECONCILE = "provisioning.reconcile"

# A message that nobody took for so long is worthless: the sweep has rung again since.
RING_EXPIRES_SECONDS = 30


def send(cluster_id: UUID) -> None:
    """Send the message now.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    current_app.send_task(RECONCILE, args=[str(cluster_id)], retry=False, expires=RING_EXPIRES_SECONDS)


def ring(cluster_id: UUID) -> None:
    """Send the message after commit. Losing it is harmless: the sweep finds due rows.

    A broker that is down must not fail an accepted wish, hence `robust`. The hook is a function of its own because
    Django names a failed hook by its `__qualname__`, which a `partial` does not have.
    """

    def ring_after_commit() -> None:
        send(cluster_id)

    transaction.on_commit(ring_after_commit, robust=True)


def wake(cluster_id: UUID) -> None:
    """Make a cluster due and ring. A cluster that is due already keeps its time, so that the sweep sees its true age.

    It is rung for all the same: its own due time may just have passed, and the clock that should ring may be dead.
    """
    row = Cluster.objects.live().filter(pk=cluster_id)
    if row.filter(Q(due_at=None) | Q(due_at__gt=Now())).update(due_at=Now()) or row.exists():
        ring(cluster_id)
