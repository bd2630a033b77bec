"""The clock process: sweeps due rows in the database. Several may run; there is no beat."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import close_old_connections

from common import pulse
from provisioning.services import schedules
from provisioning.statements import is_away
from provisioning.sweeper import Sweeper, keep_registers, publish_keys, take_inventories, tidy_stores
from tenants import idempotency
from tenants import services as tenancy

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
MAIL_EVERY_SECONDS = 5.0
KEYS_EVERY_SECONDS = 10.0
REGISTER_EVERY_SECONDS = 10.0
STORES_EVERY_SECONDS = 10.0
SCHEDULES_EVERY_SECONDS = 30.0
INVENTORY_EVERY_SECONDS = 60.0
TIDY_EVERY_SECONDS = 3600.0


class Command(BaseCommand):
    """Run until told to stop."""

    help = "Sweep due clusters and mails, and keep the regions' token keys fresh."

    def handle(self, *args: Any, **options: Any) -> None:
        """Tick until SIGTERM or SIGINT; a tick that fails is logged, and the next one tries again."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        sweeper = Sweeper()
        chores: list[tuple[float, Callable[[], object]]] = [
            # First: a database that was restored from an older copy must touch nothing.
            (REGISTER_EVERY_SECONDS, keep_registers),
            (TICK_SECONDS, lambda: sweeper.sweep(now=time.monotonic())),
            (MAIL_EVERY_SECONDS, tenancy.sweep_mail),
            (KEYS_EVERY_SECONDS, publish_keys),
            (STORES_EVERY_SECONDS, tidy_stores),
            (SCHEDULES_EVERY_SECONDS, schedules.start_due_backups),
            (SCHEDULES_EVERY_SECONDS, schedules.start_due_drills),
            (INVENTORY_EVERY_SECONDS, schedules.end_stale_drills),
            (INVENTORY_EVERY_SECONDS, take_inventories),
            (TIDY_EVERY_SECONDS, idempotency.forget_old),
        ]
        due = [0.0] * len(chores)
        while not stop.is_set():
            for index, (every, chore) in enumerate(chores):
                if stop.is_set():  # whoever stops us does not wait for all of them
                    break
                if time.monotonic() >= due[index]:
                    due[index] = time.monotonic() + every
                    _attempt(chore)
                    # Also after one that failed: a database or a region that is away is no reason to start us anew.
                    pulse.beat(settings.PULSE_FILE)
            stop.wait(TICK_SECONDS)


def _attempt(chore: Callable[[], object]) -> None:
    close_old_connections()
    try:
        chore()
    except Exception as error:  # the clock's rim: one chore that cannot be done must not stop the clock for good
        if is_away(error):
            # One line for each, as this may go on for hours.
            logger.warning("a tick failed, because the database refuses: %s", " ".join(str(error).split()))
        else:
            logger.exception("a tick failed")
