"""Lay down what an engine needs, and have the launcher start it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import Permanent
from provisioning.backends.local.configuration import LOG_CONFIGURATION, Program, arguments, environment
from provisioning.backends.local.files import DISK_ERRORS, write_json, write_whole
from provisioning.backends.local.layout import ClusterFolder, Ports
from provisioning.backends.local.record import EngineRecord
from provisioning.backends.local.settings import LocalSettings
from provisioning.backends.local.tls import KeyPairFiles, ensure_certificate, load_authority
from provisioning.errors import Fenced, RegionUnreachable
from provisioning.spec import DesiredCluster

LAUNCHER = Path(__file__).with_name("launch.py")


def require_possible(desired: DesiredCluster, engine_user: str | None) -> None:
    """Raise `Permanent` for what no other turn will change."""
    if desired.size.brokers != 1:
        raise Permanent(
            "This region runs engines on one machine, so a cluster here has one broker. Choose such a plan."
        )
    if engine_user is None:
        return
    try:
        uid = pwd.getpwnam(engine_user).pw_uid
    except KeyError:
        raise Permanent(f"There is no user {engine_user}, whom FLOWPLANE_ENGINE_USER names. Create it.") from None
    if os.geteuid() not in {0, uid}:
        raise Permanent(f"Only root can run engines as {engine_user}. Unset FLOWPLANE_ENGINE_USER, or run as root.")


def lay_down(desired: DesiredCluster, folder: ClusterFolder, ports: Ports, settings: LocalSettings) -> None:
    """Make the cluster's folders, keep its ports and what disk it was promised, give it a certificate; may run twice.

    Raises:
        Permanent: the installation's authority cannot be read.
    """
    authority = load_authority(settings.ca_cert, settings.ca_key)
    owner = _account(settings.engine_user)
    shutil.rmtree(folder.tmp, ignore_errors=True)
    # The engine user passes through the cluster's folder and owns three in it; what we rely on stays ours.
    _make(folder.path, 0o750, (os.geteuid(), owner[1]))
    _make(folder.tls, 0o750, (os.geteuid(), owner[1]))
    for own in (folder.data, folder.log, folder.tmp):
        _make(own, 0o700, owner)
    write_whole(folder.log_configuration, LOG_CONFIGURATION.read_bytes(), mode=0o444)
    write_json(folder.ports, {"first": ports.first, "disk_mib": desired.size.disk_mib}, is_durable=True)
    names = list(dict.fromkeys(["localhost", settings.address, desired.host_name]))
    ensure_certificate(KeyPairFiles(folder.tls), authority, names, owner=owner)


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of one engine."""

    desired: DesiredCluster
    folder: ClusterFolder
    ports: Ports
    program: Program
    epoch: int

    def run(self, before: EngineRecord | None, *, issuer: Path, engine_user: str | None) -> None:
        """Start the engine.

        Raises:
            Fenced: a newer turn came while we were on the way.
            Permanent: the engine user lacks access to something.
            RegionUnreachable: the launcher itself failed, or met a living engine that is not on record.
            OSError: the disk is full, read-only or broken.
        """
        order = {
            "lock": str(self.folder.engine_lock),
            "fence": str(self.folder.fence),
            "record_file": str(self.folder.record),
            "record": self._record(before),
            "user": engine_user if os.geteuid() == 0 else None,
            "console": str(self.folder.log / "console.log"),
            "folder": str(self.folder.data),
            "argv": arguments(self.program, self.folder, heap_mib=self.desired.size.heap_mib),
            "env": environment(self.desired, self.ports, self.folder, issuer),
        }
        _judge(_run_launcher(order))

    def _record(self, before: EngineRecord | None) -> dict[str, Any]:
        """Return what `EngineRecord` reads back; the launcher adds who the engine is."""
        return {
            "digest": self.desired.digest,
            "release": self.desired.release.version,
            "epoch": self.epoch,
            "ports": self.ports.first,
            "memory_mib": self.desired.size.memory_mib,
            "serves_rest": self.desired.release.serves_rest,
            "starts": before.starts + 1 if before else 1,
            "last_exit": before.explain_end(self.folder) if before else "",
        }


def _run_launcher(order: Mapping[str, Any]) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    if ran.returncode != 0:
        raise RegionUnreachable("The engine's launcher did not come to its end.", internal=ran.stderr[-500:])
    return dict(json.loads(ran.stdout))


def _judge(answer: Mapping[str, Any]) -> None:
    if answer["outcome"] == "locked":
        raise RegionUnreachable("An engine of this cluster runs already, and its record is not there (yet).")
    if answer["outcome"] == "fenced":
        raise Fenced("A newer turn has taken over this cluster.")
    if answer.get("errno") in DISK_ERRORS:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if answer["outcome"] == "failed":
        raise Permanent(
            "The engine's process could not be started. The engine user must be able to read the engine's program, "
            "Java and the folder of the cluster.",
            internal=answer["reason"],
        )


def _account(engine_user: str | None) -> tuple[int, int]:
    if engine_user is None:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(engine_user)
    return entry.pw_uid, entry.pw_gid


def _make(folder: Path, mode: int, owner: tuple[int, int]) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    os.chown(folder, *owner, follow_symlinks=False)
