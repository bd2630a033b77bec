"""What a region remembers in `flowplane-system`: token keys, the register, and the fences of deleted clusters."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.errors import Changed, Missing
from provisioning.backends.kubernetes.kinds import CONFIG_MAP, NAMESPACE, Object, labels, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import (
    CLUSTER,
    COMPONENT,
    KEYS_DIGEST,
    MANAGED_BY,
    MANAGER,
    OURS,
    POD_SECURITY,
    REGISTER,
    SYSTEM,
    TOKEN_KEYS,
)
from provisioning.errors import RegionUnreachable

# An object may have 1.5 MB as the API server's store takes it, and a ConfigMap 1 MiB.
MAX_PART_BYTES = 900_000
_VERSION = "flowplane.dev/version"
_PARTS = "flowplane.dev/parts"
_CONTENT = "content"


def ensure_config_map(api: Api, name: str, data: Mapping[str, str], notes: Mapping[str, str] | None = None) -> None:
    """Make a ConfigMap of ours as it is to be, with its namespace if need be. One request, then three."""
    wished: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER}, "annotations": dict(notes or {})},
        "data": dict(data),
    }
    try:
        api.apply(CONFIG_MAP, SYSTEM, wished)
    except Missing:
        _ensure_namespace(api)
        api.apply(CONFIG_MAP, SYSTEM, wished)


def _ensure_namespace(api: Api) -> None:
    about = {"name": SYSTEM, "labels": {MANAGED_BY: MANAGER, **POD_SECURITY}}
    try:
        api.create(NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": about})
    except Changed:
        return


def digest_of(jwks: str) -> str:
    return sha256(jwks.encode()).hexdigest()[:16]


def read_keys(api: Api) -> str:
    """Return the public token keys as they were last published: the document that engines read. One request."""
    found = api.get(CONFIG_MAP, SYSTEM, TOKEN_KEYS) or {}
    return str((found.get("data") or {}).get("certs", '{"keys": []}'))


def publish_keys(api: Api, jwks: Mapping[str, Any]) -> None:
    """Write the keys where they differ: the region's own copy, then each cluster's. Two requests when none does."""
    document = json.dumps(jwks, sort_keys=True)
    digest = digest_of(document)
    if read_keys(api) != document:
        ensure_config_map(api, TOKEN_KEYS, {"certs": document})
    held = api.find(CONFIG_MAP, selector=f"{OURS},{COMPONENT}={TOKEN_KEYS}", is_metadata_only=True)
    for one in held.items:
        if notes_in(one).get(KEYS_DIGEST) != digest and not meta(one).get("deletionTimestamp"):
            _hand_on(api, one, document, digest)


def keys_for(namespace_labels: Mapping[str, str], document: str) -> Object:
    """Return a cluster's copy of the keys."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": TOKEN_KEYS,
            "labels": dict(namespace_labels),
            "annotations": {KEYS_DIGEST: digest_of(document)},
        },
        "data": {"certs": document},
    }


def _hand_on(api: Api, held: Object, document: str, digest: str) -> None:
    """Change one cluster's copy, unless it has just gone with its cluster."""
    assert CLUSTER in labels(held)
    change = {"metadata": {"annotations": {KEYS_DIGEST: digest}}, "data": {"certs": document}}
    try:
        api.merge(CONFIG_MAP, str(meta(held)["namespace"]), name_in(held), change)
    except Missing:
        return


def write_register(api: Api, register: Mapping[str, Any]) -> None:
    """Replace the register. The part that names the others is written last, and what was before is removed after it."""
    packed = base64.b64encode(gzip.compress(json.dumps(register).encode(), mtime=0)).decode()
    version = digest_of(packed)
    parts = [packed[start : start + MAX_PART_BYTES] for start in range(0, len(packed), MAX_PART_BYTES)]
    before = api.get(CONFIG_MAP, SYSTEM, REGISTER)
    for number, part in reversed(list(enumerate(parts))):
        notes = {_VERSION: version, _PARTS: str(len(parts))}
        ensure_config_map(api, _part_name(version, number), {_CONTENT: part}, notes)
    if before is not None and notes_in(before).get(_VERSION) != version:
        for name in list(_other_parts(before)):
            if old := api.get(CONFIG_MAP, SYSTEM, name):
                api.delete(CONFIG_MAP, SYSTEM, name, uid=str(meta(old)["uid"]))


def read_register(api: Api) -> Mapping[str, Any]:
    """Return what was last written, {} when nothing was.

    Raises:
        RegionUnreachable: it is damaged, or parts of it are missing.
    """
    first = api.get(CONFIG_MAP, SYSTEM, REGISTER)
    if first is None:
        return {}
    parts = [first, *(api.get(CONFIG_MAP, SYSTEM, name) or {} for name in _other_parts(first))]
    packed = "".join(str((part.get("data") or {}).get(_CONTENT, "")) for part in parts)
    try:
        return dict(json.loads(gzip.decompress(base64.b64decode(packed))))
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise RegionUnreachable("The region's register is damaged.", internal=repr(error)[:300]) from error


def _other_parts(first: Object) -> Iterator[str]:
    version, count = notes_in(first).get(_VERSION, ""), int(notes_in(first).get(_PARTS, 1))
    return (_part_name(version, number) for number in range(1, count))


def _part_name(version: str, number: int) -> str:
    return REGISTER if number == 0 else f"{REGISTER}-{version}-{number}"
