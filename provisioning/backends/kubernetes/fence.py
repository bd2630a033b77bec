"""Let only the newest turn act on a cluster: its namespace carries the highest epoch that was seen.

What was deleted has no namespace any more; its epoch is remembered in `flowplane-system`. A turn that makes a namespace
looks there after that and takes it back if need be: whoever deletes writes there first, so one of the two sees the
other. Looking before as well would cost every first start a request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from common.errors import Permanent, Temporary
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.errors import Changed, Invalid, Missing
from provisioning.backends.kubernetes.kinds import CONFIG_MAP, NAMESPACE, Object, labels, meta, notes_in
from provisioning.backends.kubernetes.names import (
    CARD,
    EPOCH,
    FENCES,
    MANAGED_BY,
    MANAGER,
    POD_SECURITY,
    SYSTEM,
    cluster_of,
    labels_of,
    namespace_of,
)
from provisioning.backends.kubernetes.system import ensure_config_map
from provisioning.errors import Fenced
from provisioning.spec import DesiredCluster

# Somebody else writes the same namespace: Kubernetes' own controllers do now and then, a second turn hardly ever.
ATTEMPTS = 4
# A ConfigMap holds a megabyte, some 15,000 of these.
MAX_REMEMBERED = 10_000
# An empty ConfigMap has no `data` to which one more could be added.
_ABOUT = "about"


@dataclass(frozen=True, slots=True)
class Ground:
    """A cluster's namespace, held for one turn.

    Attributes:
        is_new: this very call made it, so nothing can be in it.
        is_going: it is on its way out.
    """

    cluster_id: UUID
    namespace: str
    uid: str
    version: str
    annotations: Mapping[str, str]
    is_new: bool = False
    is_going: bool = False


def require_ours(found: Object, cluster_id: UUID) -> None:
    """Refuse a namespace that has a cluster's name and is not that cluster's: it is neither used nor removed.

    Raises:
        Permanent: it is somebody else's.
    """
    if cluster_of(found) != cluster_id or labels(found).get(MANAGED_BY) != MANAGER:
        raise Permanent(
            f"A namespace called {namespace_of(cluster_id)} is in the region and is not this cluster's. Remove it, or "
            "give it its labels back, if it is.",
            internal=str(dict(labels(found)))[:300],
        )


def enter(api: Api, cluster_id: UUID, epoch: int, notes: Mapping[str, str | None] | None = None) -> Ground | None:
    """Raise the cluster's epoch, note something with it and label it as it was; None when there is no namespace.

    One request to read, one to write.

    Raises:
        Fenced: a newer turn has been here.
        Permanent: the namespace is somebody else's.
        Temporary: it is on its way out, or changes all the time.
    """
    name = namespace_of(cluster_id)
    for _ in range(ATTEMPTS):
        found = api.get(NAMESPACE, "", name)
        if found is None:
            return None
        require_ours(found, cluster_id)
        _require_newest(cluster_id, epoch, int(notes_in(found).get(EPOCH, 0)))
        try:
            return _raise(api, cluster_id, found, {EPOCH: str(epoch), **(notes or {})})
        except Changed:
            continue
    raise Temporary("The cluster's namespace is being changed all the time.", internal=name)


def found(api: Api, desired: DesiredCluster, epoch: int) -> Ground:
    """Make a cluster's namespace. Two requests. Raises as `enter`, and `Changed` when it is there by now."""
    made = api.create(NAMESPACE, "", namespace_for(desired, epoch))
    ground = _ground(desired.cluster_id, made, is_new=True)
    try:
        require_not_deleted(api, desired.cluster_id, epoch)
    except Fenced:
        api.delete(NAMESPACE, "", ground.namespace, uid=ground.uid)
        raise
    return ground


def labels_for(cluster_id: UUID) -> Mapping[str, str]:
    """Return the labels of a cluster's namespace: whose it is, and what pods may do there."""
    return {**labels_of(cluster_id, "namespace"), **POD_SECURITY}


def lacks(cluster_id: UUID, namespace: Object) -> Mapping[str, str]:
    """Return the labels that somebody took from the namespace, or changed."""
    there = labels(namespace)
    return {name: value for name, value in labels_for(cluster_id).items() if there.get(name) != value}


def namespace_for(desired: DesiredCluster, epoch: int) -> Object:
    """Return a cluster's namespace as it is made."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace_of(desired.cluster_id),
            "labels": labels_for(desired.cluster_id),
            "annotations": {CARD: card_of(desired), EPOCH: str(epoch)},
        },
    }


def card_of(desired: DesiredCluster) -> str:
    """Return who a cluster is and how it is wished, for the day on which its row is lost."""
    card = {**desired.card, "spec_generation": desired.spec_generation, "audience": desired.audience}
    return json.dumps(card, sort_keys=True)


def require_not_deleted(api: Api, cluster_id: UUID, epoch: int) -> None:
    """Refuse a turn from before the cluster's deletion. One request."""
    known = api.get(CONFIG_MAP, SYSTEM, FENCES) or {}
    _require_newest(cluster_id, epoch, int((known.get("data") or {}).get(str(cluster_id), 0)))


def require_held(api: Api, ground: Ground) -> None:
    """Make sure that no newer turn has come since the ground was entered. One request.

    Raises:
        Fenced: one has.
        Missing: the namespace is gone.
    """
    now = api.get(NAMESPACE, "", ground.namespace)
    if now is None or str(meta(now)["uid"]) != ground.uid:
        raise Missing("The cluster's namespace is gone.", internal=ground.namespace)
    _require_newest(ground.cluster_id, int(ground.annotations.get(EPOCH, 0)), int(notes_in(now).get(EPOCH, 0)))


def remember(api: Api, cluster_id: UUID, epoch: int, *, is_first: bool) -> None:
    """Keep the epoch of a cluster that is being deleted. One request where `is_first` is right, else two or three.

    All deletions write one object, each its own field: the server is told what that field was, and not of which version
    the object was, or a hundred at once would begin again for each other's sake.

    Args:
        is_first: nothing is known of an earlier deletion of this cluster. A guess, which the server corrects.

    Raises:
        Fenced: a newer turn has deleted it.
        Temporary: others delete the same cluster, too often.
        Permanent: the region does not take it.
    """
    place = f"/data/{cluster_id}"
    tested = known = None if is_first else _remembered(api).get(str(cluster_id))
    refusal: Exception | None = None
    for _ in range(ATTEMPTS):
        _require_newest(cluster_id, epoch, int(known or 0))
        if known == str(epoch):
            return
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": place, "value": known},
            {"op": "add", "path": place, "value": str(epoch)},
        ]
        try:
            written = api.edit(CONFIG_MAP, SYSTEM, FENCES, operations)
        except (Missing, Changed, Invalid) as error:
            refusal, tested, known = error, known, _remembered(api).get(str(cluster_id))
        else:
            _forget_some(api, written, cluster_id)
            return
    if isinstance(refusal, Invalid) and tested == known:
        raise refusal
    raise Temporary("The same cluster is being deleted by others at this moment.", retry_after_seconds=1.0)


def _remembered(api: Api) -> Mapping[str, str]:
    """Return what is known of deletions; makes a place for it where there is none."""
    data: Mapping[str, str] = (api.get(CONFIG_MAP, SYSTEM, FENCES) or {}).get("data") or {}
    if not data:
        ensure_config_map(api, FENCES, {_ABOUT: "The epoch of each deleted cluster's last turn, by the cluster's id."})
    return data


def _forget_some(api: Api, written: Object, latest: UUID) -> None:
    """Where there are too many, forget a tenth of them, whichever: only a turn that overslept asks for one.

    Whoever writes next sees to it, should this one not.
    """
    names = [name for name in written["data"] if name not in (_ABOUT, str(latest))]
    if len(names) >= MAX_REMEMBERED:
        surplus = random.sample(names, len(names) - MAX_REMEMBERED * 9 // 10)
        expected = {"resourceVersion": meta(written)["resourceVersion"]}
        with suppress(Changed):
            api.merge(CONFIG_MAP, SYSTEM, FENCES, {"metadata": expected, "data": dict.fromkeys(surplus)})


def _raise(api: Api, cluster_id: UUID, namespace: Object, notes: Mapping[str, str | None]) -> Ground:
    held, lacking = notes_in(namespace), lacks(cluster_id, namespace)
    is_as_wished = not lacking and all(held.get(name) == value for name, value in notes.items())
    if meta(namespace).get("deletionTimestamp") or is_as_wished:
        return _ground(cluster_id, namespace)
    about = {"resourceVersion": meta(namespace)["resourceVersion"], "annotations": notes, "labels": lacking}
    change = {"metadata": about}
    return _ground(cluster_id, api.merge(NAMESPACE, "", namespace_of(cluster_id), change))


def _ground(cluster_id: UUID, namespace: Object, *, is_new: bool = False) -> Ground:
    about = meta(namespace)
    return Ground(
        cluster_id,
        str(about["name"]),
        str(about["uid"]),
        str(about["resourceVersion"]),
        notes_in(namespace),
        is_new,
        bool(about.get("deletionTimestamp")),
    )


def _require_newest(cluster_id: UUID, epoch: int, highest: int) -> None:
    if epoch < highest:
        raise Fenced("A newer turn has taken over this cluster.", internal=f"{cluster_id}: epoch {epoch} < {highest}")
