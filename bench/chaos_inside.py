"""What `bench.chaos` asks of the account database at the end: one line for everything that is amiss.

Reads from its input, as JSON, what customers were told of: `{"operations": {id: [cluster, kind]}, "clusters": [id]}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.db.models.functions import Now  # noqa: E402 - settings first

from provisioning import sweeper  # noqa: E402
from provisioning.models import Cluster, Leftover, Operation  # noqa: E402
from provisioning.states import OPEN_STATES, LeftoverState  # noqa: E402
from tenants.models import AuditEvent  # noqa: E402

OVERDUE = timedelta(minutes=2)


def findings(told: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each thing that is not as it should be."""
    sweeper.take_inventories()
    for entry in Leftover.objects.filter(state=LeftoverState.FOUND):
        yield f"in the region and nobody's: {entry} {entry.found}"
    for entry in Leftover.objects.filter(state=LeftoverState.MISSING):
        yield f"wished and not in the region: {entry}"
    # A backup that was given up is removed ten minutes later: the engine may still write some of it.
    for entry in Leftover.objects.filter(state=LeftoverState.REMOVING, due_at__lt=Now() - OVERDUE):
        yield f"was to be removed and is not: {entry}"
    for row in Operation.objects.filter(state__in=OPEN_STATES, cluster__drill_of=None):
        yield f"operation {row.pk} ({row.kind}) is still {row.state}"
    for cluster in Cluster.objects.live().exclude(hold=""):
        yield f"cluster {cluster.pk} is held: {cluster.hold}"
    for cluster in Cluster.objects.live().filter(is_on_trial=True):
        yield f"cluster {cluster.pk} is still on trial"
    for cluster in Cluster.objects.live().filter(lease_expires_at__lt=Now()):
        yield f"cluster {cluster.pk} has a lease that nobody gave back"
    yield from _unknown_to_customers(told)
    yield from _audit_gaps()


def _unknown_to_customers(told: Mapping[str, Any]) -> Iterator[str]:
    """Every operation and cluster is one that a customer was told of, and the other way round."""
    accepted = {number: tuple(about) for number, about in told["operations"].items()}
    asked = Operation.objects.exclude(actor_kind="system")
    held = {str(row.pk): (str(row.cluster_id), row.kind) for row in asked.only("cluster", "kind")}
    for number in accepted.keys() | held.keys():
        if accepted.get(number) != held.get(number):
            yield f"operation {number}: a customer was told {accepted.get(number)}, the database has {held.get(number)}"
    live = {str(row.pk) for row in Cluster.objects.live().filter(drill_of=None).only("pk")}
    for number in live ^ set(told["clusters"]):
        yield f"cluster {number} is {'nobody’s' if number in live else 'not there any more'}"


def _audit_gaps() -> Iterator[str]:
    """Every change that a person asked for has one audit event, and every event its change."""
    asked = Counter(
        (str(row.cluster_id), row.kind)
        for row in Operation.objects.exclude(actor_kind="system").only("cluster", "kind")
    )
    told = Counter(
        (event.target_id, event.action.removeprefix("cluster.").removesuffix("_requested"))
        for event in AuditEvent.objects.filter(action__startswith="cluster.", action__endswith="_requested")
    )
    for key in asked.keys() | told.keys():
        if asked[key] != told[key]:
            yield f"{key} was asked for {asked[key]} times and audited {told[key]} times"


if __name__ == "__main__":
    for sentence in findings(json.load(sys.stdin)):
        sys.stdout.write(sentence + "\n")
