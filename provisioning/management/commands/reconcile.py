"""Take turns for one cluster by hand, or show what a turn would do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandParser

from provisioning import reconciler, wakeups
from provisioning.planner import foresee


class Command(BaseCommand):
    """For operators with a shell."""

    help = "Reconcile one cluster now, in this process."

    def add_arguments(self, parser: CommandParser) -> None:
        """The cluster's id, and whether only to look."""
        parser.add_argument("cluster_id", type=UUID)
        parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")

    def handle(self, *args: Any, cluster_id: UUID, dry_run: bool, **options: Any) -> None:
        """Print what was or would be done."""
        if not dry_run:
            wakeups.wake(cluster_id, is_by_hand=True)
            self.stdout.write(f"{reconciler.reconcile(cluster_id)} turns began something")
            return
        subject, observed, action = reconciler.show_plan(cluster_id)
        wish = replace(subject.desired, license_key="")  # a secret of the operator's, not for a terminal's history
        self.stdout.write(f"wished:   {wish}\nobserved: {observed}\nnext:     {action}")
        self.stdout.write("ahead:    " + " -> ".join(foresee(subject.desired, observed)))
