"""Run a release once so that Java keeps an archive of its loaded classes; later starts need half the time."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provisioning.backends.engine import health
from provisioning.backends.engine.tls import Authority
from provisioning.backends.local.configuration import (
    LOG_CONFIGURATION,
    LOOPBACK,
    Program,
    Surroundings,
    Workplace,
    arguments,
    environment,
)
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.files import write_whole
from provisioning.backends.local.layout import PORTS_PER_ENGINE, ClusterFolder, Ports
from provisioning.backends.local.release import ReleaseFolder
from provisioning.backends.local.tls import KeyPairFiles, ensure_certificate
from provisioning.backends.local.worker import die_with_parent
from provisioning.spec import DesiredCluster, DesiredRelease, DesiredSize, Lifecycle

# A cold start takes 20 s on two busy cores, and writing the archive about 8 more.
READY_SECONDS = 180
EXIT_SECONDS = 120
POLL_SECONDS = 0.3
MAX_PORT = 65535
SIZE = DesiredSize(
    brokers=1, partitions=1, replication_factor=1, memory_mib=640, heap_mib=192, disk_mib=0
)  # the smallest plan's


class WarmUp:
    """One warm-up of one release on one build of Java."""

    def __init__(self, program: Program, release: ReleaseFolder, user: str | None) -> None:
        self._program = program
        self._release = release
        self._account = pwd.getpwnam(user) if user and os.geteuid() == 0 else None

    def run(self) -> None:
        """Leave the class archives, or none: a release that cannot be warmed up still starts, only slower.

        They are made where they will be used, because the second one remembers the place of the first.
        """
        shutil.rmtree(self._release.archives, ignore_errors=True)
        self._release.archives.mkdir()
        self._give(self._release.archives)
        # Beside the release, where the engine user may pass through anyway, and where leftovers are swept.
        with self._release.scratch("warm-up") as home:
            self._make_archives(Path(home))
        self._release.warmed.touch()
        self._release.archives.chmod(0o755)
        self._keep_for_ourselves()

    def _make_archives(self, home: Path) -> None:
        self._give(home)
        base = self._run(
            [str(self._program.java), "-XX:-UsePerfData", "-XX:+UseSerialGC", "-Xshare:dump", self._use_base()],
            {},
            home,
        )
        if base.wait() == 0 and not self._dump_engine_classes(home):
            self._release.engine_archive.unlink(missing_ok=True)

    def _use_base(self) -> str:
        return f"-XX:SharedArchiveFile={self._release.base_archive}"

    def _dump_engine_classes(self, home: Path) -> bool:
        """Start an engine, wait until it is ready, stop it: Java writes the archive on its way out."""
        cluster = ClusterFolder(uuid.uuid4(), home, home)
        place = Workplace(home / "data", home / "log", home / "tmp")
        for path in (place.data, place.log, place.tmp, cluster.tls):
            path.mkdir()
            self._give(path)
        write_whole(cluster.log_configuration, LOG_CONFIGURATION.read_bytes(), mode=0o444)
        owner = (self._account.pw_uid, self._account.pw_gid) if self._account else None
        ensure_certificate(KeyPairFiles(cluster.tls), _throwaway_authority(), ["localhost"], owner=owner)
        ports = _free_ports()
        dump = (self._use_base(), f"-XX:ArchiveClassesAtExit={self._release.engine_archive}")
        command = arguments(self._program, place, cluster.log_configuration, heap_mib=SIZE.heap_mib, extra=dump)
        around = Surroundings(0, {0: ports}, home)
        engine = self._run(command, environment(self._example(), cluster, place, around), home)
        try:
            is_ready = _await_ready(engine, ports)
            engine.terminate()
            engine.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            engine.kill()
            engine.wait()
        return is_ready

    def _example(self) -> DesiredCluster:
        release = DesiredRelease("", "", self._release.sha256, self._program.main_class, serves_rest=True)
        return DesiredCluster(uuid.uuid4(), 1, Lifecycle.RUNNING, release, SIZE, "warm-up", "localhost")

    def _run(self, command: list[str], variables: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
        account = self._account
        return subprocess.Popen(
            command,
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - this program has one thread
        )

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _keep_for_ourselves(self) -> None:
        for path in (self._release.archives, *self._release.archives.iterdir()):
            os.chown(path, os.geteuid(), os.getegid())


def _await_ready(engine: subprocess.Popen[bytes], ports: Ports) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while engine.poll() is None and time.monotonic() < deadline:
        look = health.look_at(LoopbackDoor(ports.management))
        if look.up and look.healthy:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _free_ports() -> Ports:
    """Return a block above a port that is free. Somebody may still take one; then this start fails, no more."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return Ports(min(probe.getsockname()[1], MAX_PORT - PORTS_PER_ENGINE))


def _throwaway_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Warm-up")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)
