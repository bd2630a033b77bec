"""Make a cluster's objects as they are wished, and remove those that are not wished any more."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.errors import Permanent, Temporary
from provisioning.backends.engine.tls import Authority, KeyPair, provide_certificate
from provisioning.backends.kubernetes import system
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.charts import Identity
from provisioning.backends.kubernetes.drift import Key, differs, key_of, where_it_differs
from provisioning.backends.kubernetes.errors import Changed, Missing
from provisioning.backends.kubernetes.fence import ATTEMPTS, Ground, require_held
from provisioning.backends.kubernetes.holdings import Holdings
from provisioning.backends.kubernetes.kinds import (
    DEPLOYMENT,
    RULES,
    SECRET,
    STATEFUL_SET,
    Kind,
    Object,
    kind_of,
    labels,
    meta,
    name_in,
    notes_in,
)
from provisioning.backends.kubernetes.names import (
    BROKER,
    KEYS_DIGEST,
    MANAGED_BY,
    MANAGER,
    STARTS,
    TLS,
    TOKEN_KEYS,
    namespace_of,
    selector_of,
)
from provisioning.spec import DesiredCluster

logger = logging.getLogger(__name__)

WORKLOADS = frozenset({STATEFUL_SET.name, DEPLOYMENT.name, "Job"})


def names_in_certificate(desired: DesiredCluster) -> list[str]:
    """Return what clients may call an engine: outside, and from inside the region."""
    return [desired.host_name, f"gateway.{namespace_of(desired.cluster_id)}.svc"]


def provide_identity(api: Api, ground: Ground, desired: DesiredCluster, authority: Authority) -> Identity:
    """Return the cluster's certificate (a new one where need be) and the region's token keys. Two requests at most."""
    held = None if ground.is_new else api.get(SECRET, ground.namespace, TLS)
    pair = provide_certificate(pair_in(held), authority, names_in_certificate(desired))
    return Identity(pair, system.read_keys(api))


def pair_in(secret: Object | None) -> KeyPair:
    """Return the certificate that a Secret holds, an empty one when it holds none."""
    data = (secret or {}).get("data") or {}
    return KeyPair(_decoded(data.get("tls.crt")), _decoded(data.get("tls.key")))


def finish(rendered: Iterable[Object], held: Holdings, *, starts: int) -> tuple[Object, ...]:
    """Return what the chart made with what only we know: how often it was started, and which keys it has."""
    return tuple(_finished(one, held, starts) for one in rendered)


def lay_down(api: Api, ground: Ground, finished: Iterable[Object], *, with_workloads: bool = True) -> None:
    """Apply objects in their order; one request each, and of rules that are there only one for each that differs.

    An apply leaves what others added to a list of ours (a port, a variable, a container), although a list is one thing;
    where that is so, it takes one more.
    """
    finished = tuple(finished)
    rules = {} if ground.is_new else _rules(api, ground, finished)
    for one in finished:
        if one["kind"] == STATEFUL_SET.name and with_workloads:
            put(api, ground, one)
        elif (there := rules.get(key_of(one))) is not None:
            if where_it_differs(one, there):
                _replace_rule(api, ground, one, there)
        elif with_workloads or one["kind"] not in WORKLOADS:
            _make(api, ground, one)


def _make(api: Api, ground: Ground, wished: Object) -> None:
    """Apply an object; if others have added to its lists, write these whole. Entries of theirs in a map stay.

    Raises:
        Changed: somebody changed it meanwhile.
    """
    made = api.apply(kind_of(wished), ground.namespace, wished)
    content = {name: part for name, part in wished.items() if name not in {"apiVersion", "kind", "metadata"}}
    if "spec" in content:
        # A StatefulSet never lets its claims be changed.
        content["spec"] = {name: part for name, part in content["spec"].items() if name != "volumeClaimTemplates"}
    if differs(content, made):
        change = {"metadata": {"resourceVersion": meta(made).get("resourceVersion")}, **content}
        api.merge(kind_of(wished), ground.namespace, name_in(wished), change)


def _rules(api: Api, ground: Ground, finished: Iterable[Object]) -> dict[Key, Object]:
    """Return the rules that are there, whoever made them: one with a name of ours becomes ours. A request per kind."""
    kinds = {kind_of(one) for one in finished if one["kind"] in RULES}
    return {key_of(one, kind.name): one for kind in kinds for one in api.find(kind, ground.namespace).items}


def _replace_rule(api: Api, ground: Ground, wished: Object, there: Object | None) -> None:
    """Put the wished rule in the place of the one that is there; labels and notes that others gave it stay.

    Raises:
        Temporary: it changes all the time.
    """
    kind = kind_of(wished)
    for _ in range(ATTEMPTS):
        if there is None:
            api.apply(kind, ground.namespace, wished)
            return
        about = {name: value for name, value in meta(there).items() if name != "managedFields"}
        ours = meta(wished)
        for name in ("labels", "annotations"):
            about[name] = {**(about.get(name) or {}), **(ours.get(name) or {})}
        try:
            api.replace(kind, ground.namespace, {**wished, "metadata": about})
        except Changed:
            there = next(iter(api.find(kind, ground.namespace, fields=f"metadata.name={name_in(wished)}").items), None)
        else:
            return
    raise Temporary(f"The {kind.name} {name_in(wished)} changes all the time.", retry_after_seconds=1.0)


def put(api: Api, ground: Ground, workload: Object) -> None:
    """Apply the StatefulSet in the version that was read; as `on_version`."""

    def act(version: str) -> None:
        _make(api, ground, _with(workload, **({"resourceVersion": version} if version else {})))

    on_version(api, ground, str(meta(workload).get("resourceVersion", "")), act)


def on_version(api: Api, ground: Ground, version: str, act: Callable[[str], None]) -> None:
    """Do something to the StatefulSet while it is of a version, unless a newer turn has come.

    Its status, which is Kubernetes' to write, changes the version all the time. So when it has changed, it is read
    again first and the fence after that: a newer turn raises the fence, then reads, then writes.

    Raises:
        Fenced: a newer turn has come.
        Temporary: it changes all the time.
    """
    for _ in range(ATTEMPTS):
        try:
            return act(version)
        except Changed:
            version = str(meta(api.get(STATEFUL_SET, ground.namespace, BROKER) or {}).get("resourceVersion", ""))
            require_held(api, ground)
    raise Temporary("The engine's StatefulSet changes all the time.", retry_after_seconds=1.0)


def prune(
    api: Api, ground: Ground, kinds: Iterable[Kind], finished: Iterable[Object], *, where_allowed: bool = False
) -> None:
    """Remove what carries this cluster's label and ours, and is not wished any more. One request for each kind.

    Args:
        where_allowed: pass over kinds that the region does not know, or does not let us list: what it was once asked
            for, and is not any more.

    Raises:
        Changed: somebody changed such an object meanwhile; its labels may be gone.
    """
    wished, selector = {key_of(one) for one in finished}, selector_of(ground.cluster_id)
    for kind in kinds:
        try:
            found = api.find(kind, ground.namespace, selector=selector, is_metadata_only=True).items
        except (Missing, Permanent) as error:
            if not where_allowed:
                raise
            logger.debug("not looked for in %s: %s (%s)", ground.namespace, kind.plural, error.internal)
            continue
        for one in found:
            is_ours = labels(one).get(MANAGED_BY) == MANAGER and not meta(one).get("ownerReferences")
            if is_ours and (kind.name, name_in(one)) not in wished:
                version = str(meta(one)["resourceVersion"])
                api.delete(kind, ground.namespace, name_in(one), uid=str(meta(one)["uid"]), version=version)


def _finished(rendered: Object, held: Holdings, starts: int) -> Object:
    if rendered["kind"] == STATEFUL_SET.name:
        return _finished_workload(rendered, held, starts)
    if rendered["kind"] == "ConfigMap" and name_in(rendered) == TOKEN_KEYS:
        return _with(rendered, annotations={KEYS_DIGEST: system.digest_of(str(rendered["data"]["certs"]))})
    return rendered


def _finished_workload(rendered: Object, held: Holdings, starts: int) -> Object:
    about: dict[str, Any] = {"annotations": {STARTS: str(starts)}}
    if held.version:
        about["resourceVersion"] = held.version
    finished = _with(rendered, **about)
    if held.stateful_set is None:
        return finished
    # A StatefulSet never lets its claims be changed; another size of disk is for clusters to come.
    live = held.stateful_set["spec"].get("volumeClaimTemplates")
    return {**finished, "spec": {**finished["spec"], "volumeClaimTemplates": [_bare(one) for one in live or ()]}}


def _bare(claim: Object) -> Object:
    """Return a claim's template as somebody wrote it: without what the server added."""
    about = {name: value for name, value in meta(claim).items() if name != "creationTimestamp"}
    return {**{name: value for name, value in claim.items() if name != "status"}, "metadata": about}


def _with(rendered: Object, **about: Any) -> Object:
    metadata = {**meta(rendered), **about}
    if "annotations" in about:
        metadata["annotations"] = {**notes_in(rendered), **about["annotations"]}
    return {**rendered, "metadata": metadata}


def _decoded(content: Any) -> bytes:
    try:
        return base64.b64decode(content or "")
    except (ValueError, TypeError):
        return b""


def without_version(finished: Object) -> Mapping[str, Any]:
    """Return an object as it is compared: its version is only for applying it."""
    about = {name: value for name, value in meta(finished).items() if name != "resourceVersion"}
    return {**finished, "metadata": about}
