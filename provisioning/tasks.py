"""Celery's door: messages say that something is due, never what to do with it."""

from __future__ import annotations

import logging
from uuid import UUID

from celery import shared_task
from celery.signals import celeryd_after_setup
from django.db import DatabaseError, InterfaceError

from provisioning import reconciler, sweeper, wakeups
from provisioning.statements import is_away

logger = logging.getLogger(__name__)


@shared_task(name=wakeups.RECONCILE, acks_late=False)
def reconcile(cluster_id: str) -> None:
    """Take turns for whatever is due, in fair order. Whose id it is does not matter, see `wakeups.send`."""
    wakeups.hear()
    try:
        is_more_due = reconciler.serve()
    except Exception as error:
        if not is_away(error):
            raise
        # It rings for everything that is due then. A failed task would be a page in the log for each wish meanwhile.
        logger.warning("the database does not answer; the clock rings when it is back")
        return
    if is_more_due:
        wakeups.send(UUID(cluster_id))


@celeryd_after_setup.connect
def compare_registers(**_: object) -> None:
    """Before the first turn: on a database that was restored from an older copy nothing may be done."""
    try:
        sweeper.keep_registers()
    except (DatabaseError, InterfaceError):
        # Turns fail, too, until it is back; and the clock compares again and again.
        logger.warning("the database does not answer yet")
