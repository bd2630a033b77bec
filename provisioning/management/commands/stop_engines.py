"""Stop every engine on this machine; their data and the wishes stay."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from provisioning.backends.local.stop_all import stop_all


class Command(BaseCommand):
    """Needs no database, so that it works when everything else is down."""

    help = "Stop every local engine. Run it with the worker, the clock and the watch stopped, or they start again."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Stop region after region."""
        for region_home in sorted(settings.HOME_DIR.glob("*")):
            stop_all(region_home)
