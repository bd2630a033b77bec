"""What the local backend must be told about its machine."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from hashlib import sha256
from pathlib import Path


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
class LocalSettings:
    """One region on this machine.

    Attributes:
        region_home: holds all state of the region's engines; made by `create_region`.
        cache: holds unpacked releases, shared by regions and readable by the engine user.
        java_home: a Java runtime, 21 or later.
        ca_cert, ca_key: the installation's certificate authority (PEM), which signs the certificates.
        ports: engines listen on ports of this range only; each takes a block of `layout.PORTS_PER_ENGINE`.
        engine_user: the account engines run as; needs root. None runs them as the invoking user.
        memory_budget_mib: what all engines together may reserve; None means what the machine has available.
        address: the name under which clients of this machine reach the engines.
        store: where backups go; None when the region has no place for them.
    """

    region_home: Path
    cache: Path
    java_home: Path
    ca_cert: Path
    ca_key: Path
    ports: range
    engine_user: str | None = None
    memory_budget_mib: int | None = None
    address: str = "localhost"
    store: BackupStore | None = None

    @property
    def java(self) -> Path:
        return self.java_home / "bin" / "java"
