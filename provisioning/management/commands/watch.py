"""The watch process: regions' changes become wake-ups."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from common import pulse
from provisioning import watcher
from provisioning.selectors import regions


class Command(BaseCommand):
    """Run until told to stop, or until a watch dies."""

    help = "Watch every region and wake clusters that changed."

    def handle(self, *args: Any, **options: Any) -> None:
        """Exit 0 when told to stop, 1 when a watch died: whoever runs us starts us again."""

        def stop(*_: Any) -> None:
            sys.exit(0)

        # First of all: it may wait for the database for long.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        ended = watcher.watch(watcher.insist(regions, pause=_rest))
        while not ended.wait(1.0):
            # None has ended. Of a silent one the backend goes on trying: nothing may have happened for hours.
            pulse.beat(settings.PULSE_FILE)
        sys.exit(1)


def _rest(seconds: float) -> None:
    """Pass the time until the database is asked again."""
    pulse.beat(settings.PULSE_FILE)
    time.sleep(seconds)
