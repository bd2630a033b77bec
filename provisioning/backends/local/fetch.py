"""Make a release runnable: find its archive, check it, unpack it, warm it up.

A program of its own (`python -m provisioning.backends.local.fetch`, the order as JSON on standard input), because it
takes minutes on a slow line and must not hold a worker. It answers by ending as soon as it has noted its first phase;
the work goes on in a process that is nobody's child. Maven's own words go to `releases/<sha256>.log` of the region.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import ControlPlaneError
from provisioning.backends.local.configuration import Program
from provisioning.backends.local.files import open_lock, write_json
from provisioning.backends.local.java import require_java
from provisioning.backends.local.layout import RegionFolder
from provisioning.backends.local.process import own_identity
from provisioning.backends.local.release import ReleaseFolder, by_hand
from provisioning.backends.local.warmup import WarmUp
from provisioning.backends.local.worker import detach, die_with_parent, redirect, unwind
from provisioning.errors import ReleaseUnavailable
from provisioning.spec import DesiredRelease

logger = logging.getLogger(__name__)

MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
READABLE = 0o755


class Preparation:
    """One attempt at one release."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._release = DesiredRelease(**order["release"])
        self._cache = Path(order["cache"])
        self._java = Path(order["java_home"]) / "bin" / "java"
        self._user: str | None = order["engine_user"]
        self._folder = ReleaseFolder(self._cache, self._release.sha256, require_java(Path(order["java_home"])))
        self._region = RegionFolder(Path(order["region_home"]))

    @property
    def log(self) -> Path:
        return self._region.releases / f"{self._release.sha256}.log"

    def note(self, phase: str, *, failure: str = "", is_over: bool = False) -> None:
        """Write down how far we are, with who we are; `is_over` is the last word, without which an end is a failure."""
        content = {"phase": phase, "failure": failure, "is_over": is_over, **own_identity().to_record()}
        write_json(self._region.release_state(self._release.sha256), content)

    def run(self) -> None:
        """Do what is missing. Every failure ends as a sentence in the note."""
        try:
            with open_lock(self._folder.lock) as lock:
                # Another region of this machine may be preparing the same release: its work serves us too.
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._prepare()
            self.note("Ready.", is_over=True)
        except SystemExit:
            self.note("Stopped.", is_over=True)
        except ControlPlaneError as error:
            self._fail(error.message)
        except OSError as error:
            self._fail(f"Preparing {self._name} failed: {error.strerror} ({error.filename}).")
        except Exception as error:  # the rim of this process: an attempt that ends without a word explains nothing
            logger.exception("preparing a release failed")
            kind = type(error).__name__
            self._fail(f"Preparing {self._name} failed for an unforeseen reason ({kind}); more is in {self.log}.")

    def _fail(self, sentence: str) -> None:
        self.note("Failed.", failure=sentence, is_over=True)

    @property
    def _name(self) -> str:
        return f"the engine release {self._release.version}"

    def unpack(self) -> None:
        """See that the distribution is in the cache; only for whoever holds the release's lock."""
        self._folder.sweep()
        if not self._folder.is_unpacked():
            with self._folder.scratch("fetch") as folder:
                self._fetch(Path(folder))

    def _prepare(self) -> None:
        self.unpack()
        if not self._folder.is_ready():
            self.note(f"Warming up {self._name}, which makes every later start twice as fast.")
            program = Program(self._java, self._folder.distribution, self._release.main_class)
            WarmUp(program, self._folder, self._user).run()

    def _fetch(self, folder: Path) -> None:
        archive = self._find_archive(folder)
        self.note(f"Unpacking {self._name}.")
        distribution = unpack(archive, folder / "unpacked")
        self._folder.path.mkdir(exist_ok=True)
        self._folder.path.chmod(READABLE)
        distribution.rename(self._folder.distribution)

    def _find_archive(self, folder: Path) -> Path:
        put_by_hand = by_hand(self._cache, self._release)
        if put_by_hand.exists():
            self._check(put_by_hand, advice=f"Replace or remove {put_by_hand}.")
            return put_by_hand
        try:
            return self._download(folder / "shared")
        except ReleaseUnavailable as error:
            if error.details.get("step") != "check":
                raise
        # Maven keeps what it has once fetched, damaged or not: ask again without its store.
        return self._download(folder / "afresh", f"-Dmaven.repo.local={folder / 'store'}")

    def _download(self, folder: Path, *options: str) -> Path:
        maven = shutil.which("mvn")
        if maven is None:
            raise ReleaseUnavailable(
                f"Maven is missing, so {self._name} cannot be downloaded. Install the package `maven`, or put the "
                f"archive {self._release.coordinates} at {by_hand(self._cache, self._release)}."
            )
        self.note(f"Downloading {self._name}.")
        command = [maven, "-q", "-B", *options, MAVEN_GOAL]
        subprocess.run(
            [*command, f"-Dartifact={self._release.coordinates}", f"-DoutputDirectory={folder}"],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            check=False,
        )
        found = list(folder.glob("*")) if folder.is_dir() else []
        if len(found) != 1:
            raise ReleaseUnavailable(
                f"Maven could not download {self._release.coordinates}; what it said is in {self.log}. Check the "
                f"network and Maven's settings, or put the archive at {by_hand(self._cache, self._release)}."
            )
        self._check(found[0], advice="Try again; if it stays so, the archive was changed after it was published.")
        return found[0]

    def _check(self, archive: Path, *, advice: str) -> None:
        self.note(f"Checking the archive of {self._name}.")
        with archive.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != self._release.sha256:
            raise ReleaseUnavailable(
                f"The archive of {self._name} is damaged: its SHA-256 should be {self._release.sha256} and is {got}. "
                f"It was not unpacked. {advice}",
                step="check",
            )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into a new folder and return the one folder in it.

    Raises:
        ReleaseUnavailable: it is damaged, holds what is neither file nor folder, or reaches outside.
    """
    folder.mkdir()
    try:
        with tarfile.open(archive) as content:
            content.extractall(folder, members=_ordinary(content, folder))  # noqa: S202 - each member is checked
    except (tarfile.TarError, EOFError) as error:
        raise ReleaseUnavailable(f"The archive {archive.name} cannot be unpacked: {error}.") from error
    found = list(folder.iterdir())
    if len(found) != 1:
        raise ReleaseUnavailable(f"The archive {archive.name} holds {len(found)} things instead of one folder.")
    return found[0]


def _ordinary(content: tarfile.TarFile, folder: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members, and refuse all but files and folders below this one.

    tarfile's own filter for this came with Python 3.11.4, and Debian 12 has 3.11.2.
    """
    for member in content:
        is_below = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not is_below or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is no file or folder inside it")
        # Owner may write, nobody gets a set-user bit: what the filter would have done.
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        yield member


def main() -> None:
    """Read the order, leave the caller, do it."""
    preparation = Preparation(json.load(sys.stdin))
    if detach(lambda: preparation.note("Waiting for its turn.")):
        os.umask(0o022)
        signal.signal(signal.SIGTERM, unwind)
        redirect(preparation.log)
        preparation.run()


if __name__ == "__main__":
    main()
