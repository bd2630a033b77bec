"""Let a new key sign access tokens. The clock brings it to the regions' mirrors within seconds."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tenants import services
from tenants.actor import SYSTEM


class Command(BaseCommand):
    """For operators with a shell, as `flowplane_system`."""

    help = "Make a new token-signing key; the old ones stay good until their last token has expired."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether somebody else may hold the old keys."""
        parser.add_argument(
            "--withdraw",
            action="store_true",
            help="after a compromise: publish the old keys no more. Revoke the access to each cluster as well.",
        )

    def handle(self, *args: Any, withdraw: bool, **options: Any) -> None:
        """Rotate."""
        services.rotate_signing_key(actor=SYSTEM, withdraw=withdraw)
        self.stdout.write(
            "The new key is published." if not withdraw else "The new key signs; all others are withdrawn."
        )
