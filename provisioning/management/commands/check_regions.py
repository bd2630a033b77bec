"""Say of each region whether it can be reached with the credentials that we have."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import ControlPlaneError
from provisioning import selectors, sweeper


class Command(BaseCommand):
    """For operators with a shell, and for whoever lays a new kubeconfig."""

    help = "Ask every region once, with the credentials that lie there now; exit 1 when one cannot be used."

    def add_arguments(self, parser: CommandParser) -> None:
        """Some regions, or all."""
        parser.add_argument("regions", nargs="*", metavar="SLUG", help="only these")

    def handle(self, *args: Any, regions: list[str], **options: Any) -> None:
        """One line for each: that it answers, or why it cannot be used. Changes nothing."""
        known = {region.slug: region for region in selectors.regions()}
        for slug in regions:
            if slug not in known:
                raise CommandError(f"There is no region “{slug}”. There are: {', '.join(known)}.")
        asked = [region for slug, region in known.items() if not regions or slug in regions]
        answers = sweeper.ask_all(asked, lambda backend: backend.read_register())
        refused = 0
        for region, answer in answers:
            refused += isinstance(answer, Exception)
            said = "answers"
            if isinstance(answer, Exception):
                said = answer.message if isinstance(answer, ControlPlaneError) else repr(answer)
            self.stdout.write(f"{region.slug}: {said}")
        if refused:
            raise CommandError(f"{refused} of {len(asked)} regions cannot be used.")
