"""What the local backend must be told about its machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.backends.engine.store import BackupStore


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
