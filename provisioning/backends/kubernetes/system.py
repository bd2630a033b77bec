"""What a region remembers in `flowplane-system`: token keys, the register, and the fences of deleted clusters."""

from __future__ import annotations

import base64
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.errors import Changed, Missing
from provisioning.backends.kubernetes.kinds import CONFIG_MAP, NAMESPACE, Object, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import (
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
# A turn that began before a change of the keys may give a cluster those from before: no longer than its lease lasts,
# unless its process was held still. Both together are well below the time after which a new key signs.
KEYS_SETTLE_SECONDS = 60.0
KEYS_COMPARED_EVERY_SECONDS = 300.0
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


class TokenKeys:
    """The public token keys in one region: its own copy, which new clusters take theirs from, and each cluster's."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._digest = ""
        self._changed_at = self._compared_at = -math.inf

    def publish(self, jwks: Mapping[str, Any]) -> None:
        """Write the keys where they differ.

        One request while nothing changes. Every five minutes, and after a change until a minute has passed, another one
        for each 2,000 clusters, and one for each cluster that has not got them.
        """
        document = json.dumps(jwks, sort_keys=True)
        digest, now = digest_of(document), self._clock()
        if read_keys(self._api) != document:
            ensure_config_map(self._api, TOKEN_KEYS, {"certs": document})
            self._digest = ""
        if digest != self._digest:
            self._digest, self._changed_at = digest, now
        is_settled = self._compared_at >= self._changed_at + KEYS_SETTLE_SECONDS
        if not is_settled or now - self._compared_at >= KEYS_COMPARED_EVERY_SECONDS:
            self._hand_on(document, digest)
            # When it began: what was written meanwhile may not have been seen.
            self._compared_at = now

    def _hand_on(self, document: str, digest: str) -> None:
        change = {"metadata": {"annotations": {KEYS_DIGEST: digest}}, "data": {"certs": document}}
        selector = f"{OURS},{COMPONENT}={TOKEN_KEYS}"
        for held in self._api.find(CONFIG_MAP, selector=selector, is_metadata_only=True).items:
            if notes_in(held).get(KEYS_DIGEST) != digest and not meta(held).get("deletionTimestamp"):
                # It may have just gone with its cluster.
                with suppress(Missing):
                    self._api.merge(CONFIG_MAP, str(meta(held)["namespace"]), name_in(held), change)


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
