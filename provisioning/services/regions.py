"""What operators say of a region, what is in it, and whether it answers: maintenance, draining, silence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import DurationField, ExpressionWrapper, F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Greatest, Now, Random

from common.errors import Conflict
from provisioning import placement
from provisioning import selectors as read
from provisioning.models import Backup, Cluster, Region
from provisioning.services import drills
from provisioning.services.trials import TRIAL
from provisioning.spec import Lifecycle
from provisioning.states import BackupState, Phase
from tenants import audit
from tenants.actor import Actor

# For each cluster that has waited for a region, so much more time for all of them to begin again: not all at once.
SPREAD_SECONDS = 0.1
MAX_SPREAD_SECONDS = 300.0

# What rests in a region that no watch hears is looked at so much more often, see `reconciler`.
UNHEARD_TIMES = 10

# A region's last answer is written this often at most, while it answers.
ANSWERED_EVERY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Departure:
    """A cluster in a region that is to be emptied, and the one sentence on how it can leave."""

    row: Cluster
    phase: Phase
    backed_up_at: datetime | None
    way: str


@transaction.atomic
def begin_maintenance(*, actor: Actor, slug: str, note: str = "") -> Region:
    """Let nothing of ours touch a region from here on; wishes are accepted and wait.

    Turns that were begun before come to their end, see `Cluster.objects.under_way`. Raises `Conflict` when it is so.
    """
    region = _locked(slug)
    if region.maintenance_since is not None:
        raise Conflict("This region is in maintenance already.")
    Region.objects.filter(pk=slug).update(maintenance_since=Now(), maintenance_note=note.strip()[:200])
    audit.record(actor, action="operator.region.maintenance_begun", target=region, changes={"note": ("", note)})
    return _locked(slug)


@transaction.atomic
def end_maintenance(*, actor: Actor, slug: str) -> Region:
    """What has waited goes on. A trial gets back the time for which it could not get on; a drill is called off.

    Raises `Conflict` when it is not in maintenance.
    """
    region = _locked(slug)
    if region.maintenance_since is None:
        raise Conflict("This region is not in maintenance.")
    _give_back(region, region.maintenance_since, until=region.silent_since)
    drills.call_off(region)
    Region.objects.filter(pk=slug).update(maintenance_since=None, maintenance_note="")
    _resume(region)
    audit.record(actor, action="operator.region.maintenance_ended", target=region)
    return _locked(slug)


@transaction.atomic
def begin_draining(*, actor: Actor, slug: str) -> Region:
    """Let no new cluster in; those that are there are served as before until their owners have moved them.

    Raises `Conflict` when it is so already.
    """
    region = _locked(slug)
    if region.draining_since is not None:
        raise Conflict("This region is being emptied already.")
    Region.objects.filter(pk=slug).update(draining_since=Now())
    audit.record(actor, action="operator.region.draining_begun", target=region)
    return _locked(slug)


@transaction.atomic
def end_draining(*, actor: Actor, slug: str) -> Region:
    """Let new clusters in again, if the region was open before. Raises `Conflict` when it is not being emptied."""
    region = _locked(slug)
    if region.draining_since is None:
        raise Conflict("This region is not being emptied.")
    Region.objects.filter(pk=slug).update(draining_since=None)
    audit.record(actor, action="operator.region.draining_ended", target=region)
    return _locked(slug)


def note_answer(region: Region) -> None:
    """The region has answered. One statement, which writes when there is news, or the last answer was a while ago.

    After a silence, a trial gets back the time in which nobody saw how it went, and what has waited goes on.
    """
    if region.silent_since is not None and _end_silence(region.pk):
        _resume(region)
    is_news = Q(answered_at=None) | Q(answered_at__lt=Now() - ANSWERED_EVERY)
    Region.objects.filter(is_news, pk=region.pk).update(answered_at=Now())


@transaction.atomic
def _end_silence(slug: str) -> bool:
    """True once, of several clocks that hear the region at the same moment.

    What waits is for after this transaction: a turn that closes a cluster holds that row and wants the region's.
    """
    region = _locked(slug)
    if region.silent_since is None:
        return False
    _give_back(region, region.silent_since, until=region.maintenance_since)
    Region.objects.filter(pk=slug).update(answered_at=Now(), silent_since=None, silence="")
    return True


def _give_back(region: Region, since: datetime, *, until: datetime | None) -> None:
    """Give trials the time back from then until now, or until something else began that will give back its own.

    Not more than has passed of a trial: one may have begun meanwhile.
    """
    began = Greatest(Value(since), F("trial_ends_at") - Value(TRIAL))
    none = Value(timedelta(0))
    lost = Greatest(ExpressionWrapper((Now() if until is None else Value(until)) - began, DurationField()), none)
    if until is None or until > since:
        there = Cluster.objects.live().filter(region=region, trial_ends_at__gt=since)
        there.update(trial_ends_at=F("trial_ends_at") + lost)


def note_silence(slug: str, sentence: str) -> None:
    """The region has not answered, for the reason that the sentence gives. One statement or two."""
    if not Region.objects.filter(pk=slug, silent_since=None).update(silent_since=Now(), silence=sentence[:300]):
        Region.objects.filter(pk=slug).exclude(silence=sentence[:300]).update(silence=sentence[:300])


def look_sooner(slug: str) -> None:
    """No watch hears the region any more: have what rests there be looked at when it would have been without one."""
    rests = ExpressionWrapper((F("due_at") - Now()) / Value(UNHEARD_TIMES), DurationField())
    Cluster.objects.live().filter(region=slug, failures=0, due_at__gt=Now()).update(due_at=Now() + rests)


def _resume(region: Region) -> None:
    """Have what failed there be tried again soon: one after the other, for the region has to take it all."""
    waiting = Cluster.objects.live().filter(region=region, failures__gt=0, hold="", due_at__gt=Now())
    spread = min(MAX_SPREAD_SECONDS, SPREAD_SECONDS * waiting.count())
    later = ExpressionWrapper(Value(timedelta(seconds=spread)) * Random(), DurationField())
    waiting.update(due_at=Now() + later, failures=0)


def _locked(slug: str) -> Region:
    return Region.objects.select_for_update(no_key=True).get(pk=slug)


def departures(region: Region, limit: int) -> list[Departure]:
    """What is still in a region, longest there first, each with its way out. Two queries. For operators."""
    newest = Backup.objects.filter(cluster=OuterRef("pk"), state=BackupState.COMPLETED).order_by("-number")
    rows = read.with_operation(Cluster.objects.live().filter(region=region)).select_related("organization", "plan_type")
    rows = rows.annotate(backed_up_at=Subquery(newest.values("created_at")[:1])).order_by("created_at")
    others = [one.place for one in read.regions() if one.pk != region.pk]
    targets = ", ".join(place.slug for place in others if not placement.exclusion(place))
    return [_departure(row, targets) for row in rows[:limit]]


def _departure(row: Cluster, targets: str) -> Departure:
    backed_up_at: datetime | None = row.backed_up_at  # type: ignore[attr-defined]
    return Departure(row, read.phase_of(row), backed_up_at, _way_out(row, backed_up_at, targets))


def _way_out(row: Cluster, backed_up_at: datetime | None, targets: str) -> str:
    if row.drill_of_id is not None:
        return "By itself: it is a copy that proves a backup."
    if row.lifecycle == Lifecycle.DELETED:
        window = f" after {placement.minute(row.delete_after)}" if row.delete_after else ""
        return f"By itself: it is removed{window}."
    if not settings.BACKUP_STORE:
        return "Its owner deletes it. Nothing can be moved: this installation has no backup store."
    if not targets:
        return "Not before another region takes new clusters."
    if backed_up_at is None:
        wakes = "resumes it, " if row.lifecycle == Lifecycle.SUSPENDED else ""
        return f"Its owner {wakes}backs it up, starts a new cluster on the backup in {targets}, and deletes this one."
    return (
        f"Its owner stops its workers, backs it up once more, starts a new cluster on that in {targets}, and deletes "
        f"this one. A copy of the backup that is there lacks what came after {placement.minute(backed_up_at)}."
    )
