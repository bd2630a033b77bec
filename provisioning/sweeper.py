"""What the clock does at every tick: ring for due clusters, and take over what nobody took up.

Several clocks may run: whatever they do is claimed in the database.
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.db import InterfaceError
from django.db import OperationalError as DatabaseAway
from kombu.exceptions import OperationalError

from provisioning import executor, reconciler, wakeups
from provisioning import selectors as read
from tenants import tokens

logger = logging.getLogger(__name__)

# Constant work: one tick looks at so many due rows, however many there are.
BATCH = 100

# A due row that was rung for is given this long before it is rung for again.
RING_AGAIN_SECONDS = 5.0

# Overdue by more than this, the message was lost or the workers are deaf: the clock takes the turn itself.
TAKE_OVER_SECONDS = 15.0


class Sweeper:
    """Rings for due clusters; remembers only whom it rang for lately, so as not to flood the broker."""

    def __init__(self) -> None:
        self._rung: dict[UUID, float] = {}

    def sweep(self, *, now: float) -> int:
        """One tick; `now` is monotonic seconds. Returns how many due rows were found. One statement when idle."""
        due = read.due_clusters(BATCH)
        self._rung = {pk: at for pk, at in self._rung.items() if now - at < RING_AGAIN_SECONDS}
        for cluster_id, overdue_seconds in due:
            try:
                self._attend(cluster_id, overdue_seconds, now)
            except (DatabaseAway, InterfaceError):
                raise
            except Exception:  # one broken cluster must not hold up the others of this tick
                logger.exception("a turn broke off", extra={"cluster_id": cluster_id})
        return len(due)

    def _attend(self, cluster_id: UUID, overdue_seconds: float, now: float) -> None:
        if overdue_seconds > TAKE_OVER_SECONDS:
            reconciler.reconcile(cluster_id)
        elif cluster_id not in self._rung:
            self._rung[cluster_id] = now
            self._ring_or_take(cluster_id)

    @staticmethod
    def _ring_or_take(cluster_id: UUID) -> None:
        try:
            wakeups.send(cluster_id)
        except OperationalError:
            logger.warning("the broker does not answer; the clock takes the turn", extra={"cluster_id": cluster_id})
            reconciler.reconcile(cluster_id)


def publish_keys() -> None:
    """Bring the public token keys to every region's mirror, so that engines never have to ask us for them.

    One region's failure is logged and does not keep the others waiting.
    """
    jwks = tokens.public_jwks()
    for region in read.watched_regions():
        try:
            executor.backend_of(region.slug, region.backend).publish_keys(jwks)
        except Exception:  # a region's rim: the next tick tries again
            logger.exception("could not publish token keys to region %s", region.slug)
