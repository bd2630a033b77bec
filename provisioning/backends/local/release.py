"""The releases a region can run, and how far it has come with one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import Temporary
from provisioning.backends.local import worker
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.files import read_json
from provisioning.backends.local.java import require_java
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.settings import LocalSettings
from provisioning.errors import JavaMissing, ReleaseUnavailable
from provisioning.spec import DesiredRelease, ReleaseState


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

    def scratch(self, purpose: str) -> tempfile.TemporaryDirectory[str]:
        """A folder for the time of a preparation; only for whoever holds `lock`."""
        return tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f".{purpose}-{self.sha256}-")

    def sweep(self) -> None:
        """Remove what a killed preparation left; only for whoever holds `lock`."""
        for left in self.path.parent.glob(f".*-{self.sha256}-*"):
            shutil.rmtree(left, ignore_errors=True)

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
        """Return how far a release is and a sentence about it; reads four small files."""
        try:
            folder = self._folder(release)
        except JavaMissing as error:
            return ReleaseState.FAILED, error.message
        if folder.is_ready():
            return ReleaseState.READY, ""
        path = self._region.release_state(release.sha256)
        note = read_json(path)
        at_work = worker.worker_of(note)
        if at_work is None:
            failure = str(note.get("failure", ""))
            return (ReleaseState.FAILED if failure else ReleaseState.ABSENT), failure
        if at_work.is_alive():
            return ReleaseState.PREPARING, str(note["phase"])
        if read_json(path) != note:
            # It ended in order, between our two looks.
            return self.state(release)
        # Were this absent, it would be begun again at once, for ever.
        return ReleaseState.FAILED, _explain_silence(release, note)

    def prepare(self, release: DesiredRelease) -> None:
        """Start the program that fetches a release, unless it is at work or done; an earlier failure is forgotten.

        Raises:
            JavaMissing: no Java to run the release on.
            ReleaseUnavailable: the cache cannot be written.
            RegionUnreachable: the program did not begin.
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
        worker.begin(
            "provisioning.backends.local.fetch", [order], what=f"Preparing the engine release {release.version}"
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


def _explain_silence(release: DesiredRelease, note: Mapping[str, Any]) -> str:
    return (
        f"The preparation of the engine release {release.version} ended without a word. The last one was: "
        f"“{note['phase']}” Something may have killed it, such as a machine short of memory; try again."
    )


def _to_order(settings: LocalSettings) -> dict[str, str | None]:
    return {
        "region_home": str(settings.region_home),
        "cache": str(settings.cache),
        "java_home": str(settings.java_home),
        "engine_user": settings.engine_user,
    }
