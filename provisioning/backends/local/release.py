"""The releases a region can run, and how far it has come with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import Temporary
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.files import read_json
from provisioning.backends.local.java import require_java
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import Identity
from provisioning.backends.local.settings import LocalSettings
from provisioning.errors import JavaMissing, ReleaseUnavailable
from provisioning.spec import DesiredRelease, ReleaseState

# The folder that holds the top package, for the program that prepares releases.
CODE = Path(__file__).parents[3]
OURS = ("FLOWPLANE_", "DJANGO_")


@dataclass(frozen=True, slots=True)
class ReleaseFolder:
    """A release in the cache, named by its content; `java` is the build of Java its class archives are for."""

    cache: Path
    sha256: str
    java: str

    @property
    def path(self) -> Path:
        return self.cache / "engines" / self.sha256

    @property
    def lock(self) -> Path:
        return self.cache / "engines" / f"{self.sha256}.lock"

    @property
    def distribution(self) -> Path:
        return self.path / "dist"

    @property
    def archives(self) -> Path:
        return self.path / f"java-{self.java}"

    @property
    def base_archive(self) -> Path:
        return self.archives / "base.jsa"

    @property
    def engine_archive(self) -> Path:
        return self.archives / "engine.jsa"

    @property
    def warmed(self) -> Path:
        """There once the class archives were tried: without them an engine starts too, only slower."""
        return self.archives / "done"

    def is_unpacked(self) -> bool:
        return self.distribution.is_dir()

    def is_ready(self) -> bool:
        return self.is_unpacked() and self.warmed.exists()

    def class_archives(self) -> str:
        return f"{self.base_archive}:{self.engine_archive}" if self.engine_archive.exists() else ""


def by_hand(cache: Path, release: DesiredRelease) -> Path:
    """Where a person may put a release's archive, for a machine without Maven or network."""
    _, artifact, version, packaging = release.coordinates.split(":")
    return cache / "archives" / f"{artifact}-{version}.{packaging}"


class Releases:
    """The releases of one region."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._region = RegionFolder(settings.region_home)

    def state(self, release: DesiredRelease) -> tuple[ReleaseState, str]:
        """Return how far a release is and a sentence about it; reads three small files."""
        try:
            folder = self._folder(release)
        except JavaMissing as error:
            return ReleaseState.FAILED, error.message
        if folder.is_ready():
            return ReleaseState.READY, ""
        note = read_json(self._region.release_state(release.sha256))
        if note.get("failure"):
            return ReleaseState.FAILED, str(note["failure"])
        worker = Identity.from_record(note)
        if worker is not None and worker.is_alive():
            return ReleaseState.PREPARING, str(note["phase"])
        return ReleaseState.ABSENT, ""

    def prepare(self, release: DesiredRelease) -> None:
        """Start the program that fetches a release, unless it is at work or done; an earlier failure is forgotten.

        Raises:
            JavaMissing: no Java to run the release on.
            ReleaseUnavailable: the cache cannot be written.
        """
        folder = self._folder(release)
        if self.state(release)[0] in {ReleaseState.READY, ReleaseState.PREPARING}:
            return
        try:
            folder.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReleaseUnavailable(
                f"The cache {self._settings.cache} cannot be written: {error.strerror}."
            ) from error
        order = {"release": asdict(release), **_to_order(self._settings)}
        subprocess.run(
            [sys.executable, "-m", "provisioning.backends.local.fetch"],
            input=json.dumps(order).encode(),
            env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
            cwd=CODE,
            check=True,
        )

    def program(self, release: DesiredRelease) -> Program:
        """Return what to run.

        Raises:
            JavaMissing: no Java to run it on.
            Temporary: the release is not prepared.
        """
        folder = self._folder(release)
        if not folder.is_ready():
            raise Temporary(f"The engine release {release.version} is not ready in this region yet.")
        return Program(self._settings.java, folder.distribution, release.main_class, folder.class_archives())

    def _folder(self, release: DesiredRelease) -> ReleaseFolder:
        return ReleaseFolder(self._settings.cache, release.sha256, require_java(self._settings.java_home))


def _to_order(settings: LocalSettings) -> dict[str, str | None]:
    return {
        "region_home": str(settings.region_home),
        "cache": str(settings.cache),
        "java_home": str(settings.java_home),
        "engine_user": settings.engine_user,
    }
