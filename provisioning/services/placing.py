"""Find the region for a new cluster, and hold its row until the cluster is in it, so that no limit is passed."""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID

from provisioning import placement, statements
from provisioning import selectors as read
from provisioning.errors import InvalidSpec, NoPlace
from provisioning.models import Backup, Channel, PlanType, Region, Release
from provisioning.spec import ClusterRequest

_OFFER = (("region", Region), ("plan_type", PlanType), ("channel", Channel), ("release", Release))


@cache
def _offer_statement() -> str:
    return statements.offer_statement(statements.columns_of(_OFFER))


def offered(request: ClusterRequest, organization_id: UUID) -> list[Any]:
    """The region, which is locked, and the plan type, channel and release that are asked for; the latter None where
    there is none, for which the caller finds the sentence. One prepared statement; two when no region is named.

    The organization is locked before any region, and a region before any cluster; a turn that closes a cluster goes the
    other way round.

    Raises:
        InvalidSpec: a label is none, or the region is not there, lacks a label, or takes no new clusters.
        NoPlace: it is full, or no region fits.
    """
    _require_labels(request)
    if request.region:
        found = _with_region(request, request.region)
        _require_fitting(found[0], request)
        return found
    source = _region_of(request.from_backup, organization_id) if request.from_backup and not request.labels else None
    if source is not None:
        found = _with_region(request, source)
        if not placement.exclusion(found[0].place):
            return found
    return _chosen(request)


def _chosen(request: ClusterRequest) -> list[Any]:
    """The region that is filled least; when it was filled up a moment ago, the next."""
    while True:
        places = [region.place for region in read.regions()]
        best = placement.choose(places, request.labels)
        if best is None:
            raise NoPlace(placement.why_none(places, request.labels), field="region")
        found = _with_region(request, best.slug)
        if not placement.exclusion(found[0].place, request.labels):
            return found


def _with_region(request: ClusterRequest, slug: str) -> list[Any]:
    asked = {name: getattr(request, name) for name, _ in _OFFER} | {"region": slug}
    # No name has the one character that the database cannot even be asked for.
    values = statements.fetch(_offer_statement(), {key: name.replace("\0", "\ufffd") for key, name in asked.items()})
    assert values is not None
    rest = iter(values)
    return [statements.instance(model, rest) for _, model in _OFFER]


def _require_fitting(region: Region | None, request: ClusterRequest) -> None:
    if region is None or (why := placement.refusal(region.place, request.labels)):
        offer = ", ".join(one.slug for one in read.regions() if not placement.refusal(one.place, request.labels))
        is_full = False
        if region is None:
            why = f"There is no region “{request.region}”."
        else:
            why = f"The region “{region.slug}” cannot take this cluster: {why}."
            is_full = region.is_open and region.draining_since is None and not region.place.has_room
        error = NoPlace if is_full else InvalidSpec
        raise error(f"{why} On offer: {offer or 'none at present'}.", field="region")


def require_room(region_id: str) -> Region:
    """Hold a region's row until one more cluster is in it. One query; the organization is locked.

    Raises:
        NoPlace: it is full.
    """
    region = Region.objects.select_for_update(no_key=True).get(pk=region_id)
    if not region.place.has_room:
        raise NoPlace(
            f"The region “{region_id}” is full.",
            field="region",
            internal=f"{region.placed} of {region.max_clusters}",
        )
    return region


def _require_labels(request: ClusterRequest) -> None:
    if len(request.labels) > placement.MAX_LABELS:
        raise InvalidSpec(f"Ask for {placement.MAX_LABELS} labels at most.", field="labels")
    for label in request.labels:
        if not placement.LABEL.fullmatch(label):
            raise InvalidSpec(f"“{label}” is no label. Write it as name=value, such as country=de.", field="labels")


def _region_of(backup_id: UUID, organization_id: UUID) -> str | None:
    """Where the cluster is, or was, that the backup is of: that region knows its release already."""
    rows = Backup.objects.for_organization(organization_id).filter(pk=backup_id)
    return rows.values_list("cluster__region_id", flat=True).first()
