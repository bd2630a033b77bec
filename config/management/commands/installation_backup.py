"""Back up Flowplane itself: its database and its secrets. Engines' data have backups of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from config.backup import back_up, put_on_record
from config.management.refusals import said_in_a_sentence


class Command(BaseCommand):
    """For a timer, as `flowplane_owner`. Harms nothing that runs."""

    help = "Write one encrypted file from which this installation's database and secrets can be restored."

    def add_arguments(self, parser: CommandParser) -> None:
        """Where to, and for whom."""
        parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
        parser.add_argument(
            "--recipient",
            action="append",
            required=True,
            metavar="age1...",
            help="public key of whoever may restore it; may be given several times",
        )

    def handle(self, *args: Any, to: Path, recipient: list[str], **options: Any) -> None:
        """Write it, read it back, put it on record, and say what is in it."""
        with said_in_a_sentence("There is no backup, and nothing is left of what was begun."):
            manifest, size_bytes = back_up(to.absolute(), recipient)
        with said_in_a_sentence(f"{to} is whole. Only the audit trail, and with it /metrics, does not know of it."):
            put_on_record(manifest, size_bytes)
        self.stdout.write(f"{to}: {manifest}; {size_bytes / 1e6:.1f} MB, read back and whole.")
