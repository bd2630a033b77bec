"""Everything of any cluster that is in a region, whether or not anybody wishes it there."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from common.errors import Temporary
from provisioning.backends.base import Find
from provisioning.backends.engine.store import Store
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.errors import Missing
from provisioning.backends.kubernetes.fence import require_ours
from provisioning.backends.kubernetes.kinds import CLAIM, JOB, NAMESPACE, POD, Kind, Object, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import CARD, EPOCH, OURS, cluster_of, namespace_of
from provisioning.backends.kubernetes.pods import parse_time

logger = logging.getLogger(__name__)

_WORDS = ((NAMESPACE, "The namespace"), (POD, "The pod"), (CLAIM, "The volume claim"))


@dataclass(slots=True)
class _Parts:
    """What was found of one cluster."""

    words: list[str] = field(default_factory=list)
    since: list[datetime] = field(default_factory=list)
    card: dict[str, object] = field(default_factory=dict)
    epoch: int = 0


def take_inventory(api: Api, store: Store | None) -> Iterator[Find]:
    """Yield a find for each cluster of which anything is there. A request for each 2,000 objects of three kinds."""
    found: defaultdict[UUID, _Parts] = defaultdict(_Parts)
    for kind, words in _WORDS:
        for one in api.find(kind, selector=OURS, is_metadata_only=True).items:
            _add(found, kind, words, one)
    _find_backups(store, found)
    for cluster_id, parts in sorted(found.items()):
        since = min(parts.since, default=None)
        yield Find(cluster_id, parts.card, tuple(parts.words), since, parts.epoch)


def list_belongings(api: Api, kinds: Iterable[Kind], cluster_id: UUID) -> Iterator[str]:
    """Yield kind and name of everything in a cluster's namespace, whoever made it: it goes with the namespace.

    One request, and one for each kind when there is such a namespace.

    Raises:
        Permanent: a namespace with its name is somebody else's.
    """
    name = namespace_of(cluster_id)
    namespace = api.get(NAMESPACE, "", name)
    if namespace is None:
        return
    require_ours(namespace, cluster_id)
    yield f"{NAMESPACE.name} {name}"
    for kind in (CLAIM, POD, JOB, *kinds):
        # A volume's own name is what a storage's owner asks for.
        is_volume = kind is CLAIM
        # Of a kind that the region does not know (any more) there is nothing.
        with suppress(Missing):
            for one in api.find(kind, name, is_metadata_only=not is_volume).items:
                volume = str((one.get("spec") or {}).get("volumeName") or "") if is_volume else ""
                yield f"{kind.name} {name_in(one)}" + (f", volume {volume}" if volume else "")


def _add(found: defaultdict[UUID, _Parts], kind: Kind, words: str, one: Object) -> None:
    cluster_id, about = cluster_of(one), meta(one)
    if cluster_id is None:
        return
    parts = found[cluster_id]
    is_going = ", which is on its way out" if about.get("deletionTimestamp") else ""
    place = name_in(one) if kind is NAMESPACE else f"{name_in(one)} of {about.get('namespace')}"
    parts.words.append(f"{words} {place}{is_going}.")
    parts.since.append(parse_time(str(about["creationTimestamp"])))
    if kind is NAMESPACE:
        parts.card = _read_card(notes_in(one).get(CARD, ""))
        parts.epoch = int(notes_in(one).get(EPOCH, 0))


def _read_card(text: str) -> dict[str, object]:
    try:
        card = json.loads(text)
    except ValueError:
        return {}
    return dict(card) if isinstance(card, dict) else {}


def _find_backups(store: Store | None, found: defaultdict[UUID, _Parts]) -> None:
    """Ask the store; its silence must not hide all the rest."""
    if store is None:
        return
    try:
        for cluster_id in store.cluster_ids():
            found[cluster_id].words.append("Backups in the region's store.")
    except Temporary as error:
        logger.warning("the inventory lacks backups: %s (%s)", error.message, error.internal)
