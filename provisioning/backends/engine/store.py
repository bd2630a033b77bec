"""The region's backup store: what lies in it, by cluster and number. Engines write into it by themselves.

An engine lays a partition's part of a backup below `<cluster id>/<partition>/<number>/<broker>/`, with a manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from common.errors import Temporary
from provisioning.backends.engine.names import parse_id
from provisioning.backends.engine.origins import rank
from provisioning.spec import BackupRef

TIMEOUT = urllib3.Timeout(connect=2.0, read=10.0)
# Within a turn, whose lease is 20 s: the engine is asked for a backup's state (5 s, see `admin`), the store (5 s), the
# engine's topology (2 s for each broker that hangs), and the engine for the backup (5 s).
TURN_TIMEOUT = urllib3.Timeout(connect=1.0, read=4.0)
# One call of the backend is to be quick; a backup is some ten objects for each partition.
MAX_REMOVALS = 500
MANIFEST = "manifest.json"
# A manifest names files; one of a megabyte would name ten thousand.
MAX_MANIFEST_BYTES = 1_000_000
# Of servers that do not put their refusal into S3's words.
STATUS = re.compile(r"Response code: (\d+)")
NOT_THERE = frozenset({"NoSuchBucket", "NoSuchKey"})


@dataclass(frozen=True, slots=True)
class BackupStore:
    """Where backups go: an S3 interface. Each cluster's lie below its id.

    Attributes:
        endpoint: address such as "https://s3.example:9000", without a path.
        path_style: True when the bucket is named in the path and not in the host name.
    """

    endpoint: str
    region: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    path_style: bool = True

    @property
    def fingerprint(self) -> str:
        """Tells whether a running engine knows this very store; says nothing about the key."""
        return sha256(repr(astuple(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class BackupContent:
    """What the store says of a complete backup.

    Attributes:
        size_bytes: how much all of it is.
        release: the newest that took part in taking it.
        checkpoints: of each partition, the position of the record that it ends with.
    """

    size_bytes: int
    release: str
    checkpoints: Mapping[int, int]


class Store:
    """One S3 bucket. Every method raises `Temporary`, with a sentence, when the store does not do its part."""

    def __init__(self, settings: BackupStore, timeout: urllib3.Timeout = TIMEOUT) -> None:
        self._settings = settings
        self._timeout = timeout

    def provide_bucket(self) -> None:
        """Make the bucket if it is missing. One request, two the first time."""
        with _answering():
            if not self._client.bucket_exists(self._settings.bucket):
                self._client.make_bucket(self._settings.bucket, location=self._settings.region)

    def cluster_ids(self) -> set[UUID]:
        """Return the clusters of which there are backups. One request for each thousand."""
        with _answering():
            names = (found.object_name or "" for found in self._list("", is_deep=False))
            return {found for name in names if (found := parse_id(name.rstrip("/"))) is not None}

    def look_into(self, backup: BackupRef) -> BackupContent | None:
        """Return what is there of a backup, None when it is not there as a whole. A request for each partition, and
        one for each manifest."""
        with _answering():
            objects = list(self._objects(backup))
            manifests = [self._read(found) for found in objects if (found.object_name or "").endswith(f"/{MANIFEST}")]
            complete = [one for one in manifests if one["statusCode"] == "completed"]
            checkpoints = {one["id"]["partitionId"]: one["descriptor"]["checkpointPosition"] for one in complete}
            if not complete or len(checkpoints) != complete[0]["descriptor"]["numberOfPartitions"]:
                return None
            releases = [str(one["descriptor"]["brokerVersion"]) for one in complete]
            return BackupContent(sum(found.size or 0 for found in objects), max(releases, key=rank), checkpoints)

    def remove(self, backup: BackupRef) -> bool:
        """Remove up to `MAX_REMOVALS` objects of a backup; True when none is left."""
        with _answering():
            doomed = list(islice(self._objects(backup), MAX_REMOVALS + 1))
            batch = [DeleteObject(found.object_name or "") for found in doomed[:MAX_REMOVALS]]
            refused = list(self._client.remove_objects(self._settings.bucket, batch)) if batch else []
        if refused:
            raise Temporary(
                "The backup store refuses to remove a backup. Check that its key may delete objects.",
                internal=str(refused[0]),
            )
        return len(doomed) <= MAX_REMOVALS

    @cached_property
    def _client(self) -> Minio:
        address = urlsplit(self._settings.endpoint)
        client = Minio(
            address.netloc,
            access_key=self._settings.access_key,
            secret_key=self._settings.secret_key,
            region=self._settings.region,
            secure=address.scheme == "https",
            http_client=urllib3.PoolManager(timeout=self._timeout, retries=False, maxsize=4),
        )
        if not self._settings.path_style:
            client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        return client

    def _objects(self, backup: BackupRef) -> Iterator[Object]:
        """Yield the objects of this very backup: partition by partition, because the number comes after it.

        With the slash at its end no prefix is another's beginning.
        """
        partitions = (found.object_name or "" for found in self._list(f"{backup.cluster_id}/", is_deep=False))
        folders = (f"{name}{backup.number}/" for name in partitions if name.endswith("/"))
        return chain.from_iterable(self._list(folder, is_deep=True) for folder in folders)

    def _list(self, prefix: str, *, is_deep: bool) -> Iterable[Object]:
        found: Iterable[Object] = self._client.list_objects(self._settings.bucket, prefix=prefix, recursive=is_deep)
        return found

    def _read(self, found: Object) -> dict[str, Any]:
        answer = self._client.get_object(self._settings.bucket, found.object_name or "")
        try:
            return dict(json.loads(answer.read(MAX_MANIFEST_BYTES)))
        finally:
            answer.close()
            answer.release_conn()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (MinioException, HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise Temporary(_explain(error), internal=repr(error)[:500]) from error


def _explain(error: Exception) -> str:
    status = found[1] if (found := STATUS.search(str(error))) else ""
    if status == "404" or (isinstance(error, S3Error) and error.code in NOT_THERE):
        return "The backup store has no such bucket. Check FLOWPLANE_BACKUP_S3_BUCKET, or make the bucket."
    if status.startswith("4") or isinstance(error, S3Error):
        return (
            "The backup store refuses us. Check FLOWPLANE_BACKUP_S3_ACCESS_KEY and FLOWPLANE_BACKUP_S3_SECRET_KEY, and "
            "that its clock and ours agree."
        )
    return "The backup store does not answer. Check that it runs, and FLOWPLANE_BACKUP_S3_ENDPOINT."
