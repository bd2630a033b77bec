"""The ledger of what is in a region and no wish stands for: recorded, looked at, adopted or removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from common.errors import Conflict, NotFound
from provisioning.backends.base import Find
from provisioning.models import Channel, Cluster, Leftover, PlanType, Region, Release
from provisioning.states import LeftoverKind, LeftoverState
from tenants import audit
from tenants import services as tenancy
from tenants.actor import Actor
from tenants.models import Organization

# The engine may still be writing a backup that was given up; what it writes after a removal would be left for good.
BACKUP_SETTLES = timedelta(minutes=10)
MAX_BACKOFF_SECONDS = 3600


def record_forced(row: Cluster, *, by: str) -> None:
    """A deletion was ended before the region said that nothing is left."""
    _record(row, LeftoverKind.CLUSTER, reason=f"The deletion was ended by force by {by}.")


def record_backup(row: Cluster, number: int) -> None:
    """A backup was given up; the engine may have written some of it."""
    _record(
        row,
        LeftoverKind.BACKUP,
        reason="The backup was given up.",
        reference=str(number),
        due_at=Now() + BACKUP_SETTLES,
    )


def _record(row: Cluster, kind: LeftoverKind, *, reason: str, reference: str = "", due_at: Any = None) -> None:
    Leftover.objects.get_or_create(
        region_id=row.region_id,
        kind=kind.value,
        cluster_id=row.pk,
        reference=reference,
        ended_at=None,
        defaults={
            "organization_id": row.organization_id,
            "state": LeftoverState.REMOVING.value,
            "reason": reason,
            "due_at": due_at or Now(),
        },
    )


def note_finds(region: Region, finds: Iterable[Find]) -> int:
    """Bring a region's ledger up to date with what was found there. Returns how many entries are new."""
    found = {find.cluster_id: find for find in finds}
    wished = set(Cluster.objects.live().filter(pk__in=found).values_list("pk", flat=True))
    entries = {entry.cluster_id: entry for entry in _open(region, LeftoverKind.CLUSTER)}
    fresh = 0
    for cluster_id, find in found.items():
        if cluster_id in wished:
            continue
        content = {"card": dict(find.card) | {"epoch": str(find.epoch)}, "found": list(find.parts), "since": find.since}
        if cluster_id in entries:
            Leftover.objects.filter(pk=entries[cluster_id].pk, ended_at=None).update(**content)
            continue
        _, is_new = Leftover.objects.get_or_create(
            region=region,
            kind=LeftoverKind.CLUSTER.value,
            cluster_id=cluster_id,
            reference="",
            ended_at=None,
            defaults={
                **content,
                "state": LeftoverState.FOUND.value,
                "reason": "It was found in the region, and no cluster of ours is there.",
                "organization_id": _organization_named(find.card),
            },
        )
        fresh += is_new
    vanished = [entry.pk for key, entry in entries.items() if key not in found and entry.state == LeftoverState.FOUND]
    Leftover.objects.filter(pk__in=vanished).update(state=LeftoverState.GONE, ended_at=Now(), due_at=None)
    return fresh


def _open(region: Region, kind: LeftoverKind) -> list[Leftover]:
    return list(Leftover.objects.filter(region=region, kind=kind, ended_at=None))


def _organization_named(card: Mapping[str, Any]) -> UUID | None:
    try:
        wanted = UUID(str(card.get("organization", "")))
    except ValueError:
        return None
    return wanted if Organization.objects.filter(pk=wanted).exists() else None


def claim_due(limit: int, *, ttl: timedelta) -> list[Leftover]:
    """Take removals whose time has come, for `ttl`; several clocks may call this."""
    taken = []
    due = Leftover.objects.filter(state=LeftoverState.REMOVING, due_at__lte=Now()).select_related("region")
    for entry in due.order_by("due_at")[:limit]:
        if Leftover.objects.filter(pk=entry.pk, due_at=entry.due_at).update(due_at=Now() + ttl):
            taken.append(entry)
    return taken


def note_gone(entry: Leftover) -> None:
    """The region says that nothing of it is left."""
    Leftover.objects.filter(pk=entry.pk).update(
        state=LeftoverState.GONE, ended_at=Now(), due_at=None, error_message="", attempts=F("attempts") + 1
    )


def note_remaining(entry: Leftover, sentence: str) -> None:
    """Some of it is still there; another try follows, ever more slowly."""
    wait = timedelta(seconds=min(MAX_BACKOFF_SECONDS, 2 ** min(entry.attempts + 1, 12)))
    Leftover.objects.filter(pk=entry.pk).update(due_at=Now() + wait, error_message=sentence, attempts=F("attempts") + 1)


@transaction.atomic
def remove(*, actor: Actor, leftover_id: UUID) -> Leftover:
    """Have a found thing removed: its engine is ended and its data is gone for good. For operators.

    Raises:
        NotFound, Conflict: it is not there any more, or is being removed already.
    """
    entry = _found(leftover_id)
    entry.state, entry.due_at = LeftoverState.REMOVING.value, Now()
    entry.save(update_fields=["state", "due_at"])
    audit.record(actor, action="operator.leftover.removal_requested", target=entry)
    return entry


@transaction.atomic
def adopt(*, actor: Actor, leftover_id: UUID) -> Cluster:
    """Make the row again of a cluster that was found, from its card. For operators; the engine is not touched.

    Raises:
        NotFound, Conflict: it is not there any more, its card does not say enough, or its id was deleted here.
    """
    entry = _found(leftover_id)
    row = _from_card(entry)
    row.audience = tenancy.open_audience(
        organization_id=row.organization_id, audience_id=row.pk, epoch=_audience_epoch(entry.card)
    )
    row.save(force_insert=True)
    entry.state, entry.ended_at, entry.due_at = LeftoverState.ADOPTED.value, Now(), None
    entry.organization_id = row.organization_id
    entry.save(update_fields=["state", "ended_at", "due_at", "organization_id"])
    audit.record(actor, action="operator.leftover.adopted", target=row)
    return row


def adoption_of(entry: Leftover) -> tuple[Cluster | None, str]:
    """What adopting would make, or the sentence why it cannot be. Three queries, nothing written."""
    try:
        return _from_card(entry), ""
    except Conflict as error:
        return None, error.message


def _found(leftover_id: UUID) -> Leftover:
    entry = Leftover.objects.select_for_update(of=("self",), no_key=True).filter(pk=leftover_id).first()
    if entry is None:
        raise NotFound("There is no such entry in the ledger.")
    if entry.state != LeftoverState.FOUND:
        raise Conflict("This entry does not wait for anybody any more: it is being removed, or it is gone.")
    return entry


def _from_card(entry: Leftover) -> Cluster:
    card = entry.card
    if Cluster.objects.filter(pk=entry.cluster_id).exists():
        raise Conflict("A cluster of this id was deleted here; what is left of it can only be removed.")
    if card.get("drill"):
        raise Conflict("It is a copy that proved a backup, and nobody's cluster otherwise; it can only be removed.")
    named = _organization_named(card)
    organization = Organization.objects.filter(pk=named).first() if named else None
    if organization is None:
        raise Conflict("Its card names no organization that is known here; what is there can only be removed.")
    try:
        return Cluster(
            pk=entry.cluster_id,
            organization=organization,
            name=_free_name(organization, str(card["name"])),
            stage=card["stage"],
            region_id=entry.region_id,
            plan_type=PlanType.objects.get(pk=card["plan_type"]),
            channel=Channel.objects.get(pk=card["channel"]),
            release=Release.objects.get(pk=card["release"]),
            partitions=int(card["partitions"]),
            data_epoch=int(card["data_epoch"]),
            spec_generation=int(card.get("spec_generation", 0)) + 1,
            lease_epoch=int(card.get("epoch", 0)) + 1,
            was_healthy=True,
        )
    except (KeyError, ValueError, PlanType.DoesNotExist, Channel.DoesNotExist, Release.DoesNotExist) as error:
        raise Conflict(f"Its card does not say enough to make the cluster's row again ({error!r}).") from error


def _free_name(organization: Organization, name: str) -> str:
    taken = Cluster.objects.for_organization(organization.pk).counted().filter(name=name).exists()
    return f"{name[:40]} (adopted)" if taken else name


def _audience_epoch(card: Mapping[str, Any]) -> int:
    return int(str(card.get("audience", "/1")).rpartition("/")[2] or 1)
