"""The watch process: regions' changes become wake-ups."""

from __future__ import annotations

import signal
import sys
import threading
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
        told = threading.Event()
        ended = watcher.watch(watcher.insist(regions, pause=_rest))

        def stop(*_: Any) -> None:
            told.set()
            ended.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        while not ended.wait(1.0):
            # None has ended. That a silent one ends is the backend's business: nothing may have happened for hours.
            pulse.beat(settings.PULSE_FILE)
        sys.exit(0 if told.is_set() else 1)


def _rest(seconds: float) -> None:
    """Pass the time until the database is asked again."""
    pulse.beat(settings.PULSE_FILE)
    time.sleep(seconds)
