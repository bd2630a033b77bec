"""Restore Flowplane itself from a backup that `installation_backup` wrote, or rehearse it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from config.management.refusals import said_in_a_sentence
from config.restore import Outcome, rehearse, restore

# The database is set back, as `provisioning.services.installation.set_back` has it: what that means for a person.
AFTERWARDS = (
    "Until an operator has acknowledged it, nothing is removed in any region; clusters that are not there as they are "
    "wished here stay as they are until each was looked at. See “Installations” at /operator/."
)


class Command(BaseCommand):
    """For operators, as `flowplane_owner`, with the processes stopped."""

    help = "Put a backup of this installation in the place of its database."

    def add_arguments(self, parser: CommandParser) -> None:
        """What from, with which key, and how far to go."""
        parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="the backup")
        parser.add_argument(
            "--identity", type=Path, required=True, metavar="FILE", help="the private key that opens it"
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--force", action="store_true", help="end the connections of processes that still run")
        how.add_argument("--rehearse", action="store_true", help="do everything but the last step; processes may run")

    def handle(self, *args: Any, source: Path, identity: Path, force: bool, **options: Any) -> None:
        """Restore, and say what was restored and what is left to do."""
        aftermath = (
            "The restore broke off. The database is whole: see in its audit trail whether it is the restored one."
        )
        with said_in_a_sentence(aftermath):
            outcome = rehearse(source, identity) if options["rehearse"] else restore(source, identity, force=force)
        self.stdout.write("\n".join(_sentences(outcome, rehearsed=options["rehearse"])))


def _sentences(outcome: Outcome, *, rehearsed: bool) -> list[str]:
    done = "Rehearsed, and removed again" if rehearsed else "Restored"
    lines = [f"{done} in {outcome.seconds:.1f} s: {outcome.manifest}."]
    if outcome.replaced:
        lines.append(
            f"The former database is kept as {outcome.replaced}. When it is not needed any more: "
            f"DROP DATABASE {outcome.replaced}"
        )
    if not rehearsed:
        lines.append(AFTERWARDS)
    return [*lines, *outcome.notes]
