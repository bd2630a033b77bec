"""What this database knows of itself: its beat, and what follows when it turns out to be an older copy."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import BigIntegerField, F
from django.db.models.functions import Cast, Extract, Greatest, Now

from provisioning.models import Cluster, Installation, Leftover, Region
from provisioning.services.operations import open_operation, supersede_operations
from provisioning.spec import Lifecycle
from provisioning.states import Hold, OperationKind, StepKind
from tenants import audit
from tenants import selectors as tenancy_read
from tenants.actor import SYSTEM, Actor

logger = logging.getLogger(__name__)

# A clock that goes back by less is not worth a change to every cluster: nothing waits that much longer.
LEAP = timedelta(minutes=1)

# What was changed carries the time of its statement, and is seen once its transaction has ended.
LONGEST_CHANGE = timedelta(minutes=1)

# A copy older than this is told apart all the same; only the list of credentials is not complete any more.
REMEMBERED = timedelta(days=30)
MAX_REMEMBERED = 5000

# A fencing number above every one that a region may have seen from a newer database. A cluster's turns are much rarer
# than one a second, so the seconds since 1970 stay ahead of them, however often a database is set back.
_OVERTAKING = Greatest(F("lease_epoch") + 1, Cast(Extract(Now(), "epoch"), BigIntegerField()))


def note_act() -> None:
    """Say that a turn is about to act in a region, so that the next beat counts. One statement, mostly without a write.

    Outside a transaction: the row is everybody's. The turn's own epoch is in the database before, so a copy in which
    this beat is counted and the act not yet done has nothing to be afraid of.
    """
    Installation.objects.filter(pk=1, has_acted=False).update(has_acted=True)


@transaction.atomic
def beat() -> int:
    """Return the count of beats, one up if anything was changed since the last one that a region should know of.

    Notices whether the database's clock has gone back since. Three statements.
    """
    rows = Installation.objects.filter(pk=1).select_for_update().annotate(now=Now())
    row = rows.first()
    if row is None:
        Installation.objects.get_or_create(pk=1)
        row = rows.get()
    back = (row.beat_at or row.now) - row.now
    if back > LEAP:
        logger.warning("the database's clock has gone back by %s: leases and due times follow it", back)
        _follow(back)
    since = (row.beat_at or row.now) - LONGEST_CHANGE
    # After a leap nobody can say by their times which events came since.
    if row.beat_at is None or back > LEAP or row.has_acted or tenancy_read.is_audited_since(since):
        row.beat += 1
    row.beat_at, row.has_acted = row.now, False
    row.save(update_fields=["beat", "beat_at", "has_acted"])
    return row.beat


def _follow(back: timedelta) -> None:
    """Bring forward what the clock before the leap has set, or nobody's turn would come for so long.

    What was set since then is due at once, and a turn that was begun since then may be overtaken; both do no harm.
    """
    for name in ("due_at", "lease_expires_at", "claimed_at", "start_after"):
        Cluster.objects.live().filter(**{f"{name}__gt": Now()}).update(**{name: F(name) - back})
    Leftover.objects.filter(due_at__gt=Now()).update(due_at=F("due_at") - back)


def register(count: int, slugs: Collection[str]) -> dict[str, Any]:
    """What these regions are to remember of this database: its beat, who was given or lost access lately. No secret.

    Puts down first that this beat is sent to them. Two statements; may run twice.
    """
    Region.objects.filter(pk__in=slugs).update(beat=Greatest("beat", count))
    credentials = tenancy_read.access_changed_within(REMEMBERED, limit=MAX_REMEMBERED)
    return {"beat": count, "sent_to": sorted(slugs), "credentials": credentials}


def is_set_back() -> bool:
    """Whether the database was found to be an older copy, and no operator has said that it may go on."""
    return Installation.objects.filter(set_back_at__isnull=False).exists()


def compare(region: Region, remembered: Mapping[str, Any]) -> bool:
    """Hold everything back when a region remembers a later beat than this database has sent there; True when it does.

    Read the region first: whatever it remembers had been put down here before that moment. It is not compared with what
    this database has counted: a copy goes on counting while a region is silent, and would catch up. One statement when
    all is well, and no lock; may run twice.
    """
    seen = int(remembered.get("beat", 0))
    known = Region.objects.values_list("beat", flat=True).get(pk=region.pk)
    if not known or region.slug not in remembered.get("sent_to", ()):
        # It was sent to another row of ours that leads to the same place, by a release that put nothing down, or to a
        # region that is entered anew.
        known = Installation.objects.filter(pk=1).values_list("beat", flat=True).first() or 0
    if seen <= known:
        return False
    set_back(remembered)
    # All clusters are held by now, whatever another region may say; a later beat than this is another matter.
    Region.objects.filter(beat__gt=0, beat__lt=seen).update(beat=seen)
    return True


@transaction.atomic
def set_back(remembered: Mapping[str, Any] | None = None) -> None:
    """This database is an older copy: touch nothing in any region until it is seen that wish and region agree.

    Clusters for which nothing is to be done go on by themselves; all others, and every removal, wait for an operator.
    """
    Installation.objects.get_or_create(pk=1)
    row = Installation.objects.select_for_update().get(pk=1)
    row.set_back_at = Now()
    row.beat = max(row.beat, int((remembered or {}).get("beat", 0)))
    row.report = _report(remembered or {}, row.report)
    row.save()
    Cluster.objects.live().update(
        hold=Hold.SET_BACK.value, due_at=Now(), lease_epoch=_OVERTAKING, lease_expires_at=None
    )
    row.refresh_from_db()
    audit.record(SYSTEM, action="installation.set_back", target=row)


def _report(remembered: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Secrets that a region knows otherwise: lost ones buy no further token, and those revoked since are live again."""
    told = remembered.get("credentials", ())
    known = tenancy_read.secrets_of(one["client_id"] for one in told)
    found = []
    for one in told:
        is_live = known.get((one["client_id"], one["secret"]))
        if one["revoked_at"] and is_live:
            found.append(one | {"state": "live again"})
        elif not one["revoked_at"] and is_live is None:
            found.append(one | {"state": "lost"})
    return {"credentials": [*(one for one in earlier.get("credentials", ()) if one not in found), *found]}


@transaction.atomic
def acknowledge(*, actor: Actor) -> None:
    """An operator has read the report: removals may go on. Clusters that differ stay held, one by one."""
    row = Installation.objects.select_for_update().get(pk=1)
    row.set_back_at = None
    row.save(update_fields=["set_back_at"])
    audit.record(actor, action="operator.installation.acknowledged", target=row)


@transaction.atomic
def release_hold(*, actor: Actor, cluster: Cluster) -> None:
    """An operator has looked: what is wished of this cluster is to be done. A removal has somebody who asks for it."""
    Cluster.objects.filter(pk=cluster.pk).update(
        hold=Hold.NONE.value, due_at=Now(), failures=0, lease_epoch=_OVERTAKING, lease_expires_at=None
    )
    if cluster.hold == Hold.UNEXPLAINED and cluster.lifecycle == Lifecycle.DELETED:
        supersede_operations(cluster, error_code="superseded", sentence="An operator's decision took its place.")
        open_operation(actor, cluster, OperationKind.DELETE, (StepKind.REMOVE, StepKind.CLOSE), {})
    audit.record(actor, action="operator.cluster.released", target=cluster, changes={"hold": (cluster.hold, "")})


def report() -> Installation | None:
    """The installation's own row. One query."""
    return Installation.objects.filter(pk=1).first()
