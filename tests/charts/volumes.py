"""A broker's volume as a folder, and the chart's scripts run on it, whole or killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CHART = Path(__file__).parents[2] / "charts" / "engine-cluster"
SCRIPTS = CHART / "files"
# The commands that change a volume; all others only look or wait.
CHANGING = ("mv", "cp", "rm", "mkdir", "sync", "dd")
NAMED = ("data", "former", "incoming")


class Cut(StrEnum):
    """Where in a command the script, and with it the whole pod, is killed."""

    BEFORE = "before"
    HALFWAY = "halfway"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit code (negative: the signal), what it said, and what it left in the pod's status."""

    status: int
    stderr: str
    message: str


# Counts the calls of all changing commands and kills the whole session at the chosen one.
WRAPPER = """#!/bin/sh
echo >>"$CUT_COUNT"
if [ "$(wc -l <"$CUT_COUNT")" = "$CUT_AT" ]; then
    case "$CUT_WHERE,{name}" in
        before,*) ;;
        halfway,rm) for last; do :; done; [ ! -d "$last" ] || {real_rm} -rf "$last"/engine/1* "$last"/origin ;;
        halfway,cp) for last; do :; done; {real_mkdir} -p "$last/engine"; echo half >"$last/engine/1.log" ;;
        halfway,*) ;;
        after,*) {real} "$@" ;;
    esac
    kill -9 0
fi
exec {real} "$@"
"""


class Volume:
    """One broker's volume."""

    def __init__(self, base: Path) -> None:
        self.path = base / "volume"
        self.path.mkdir()
        self.home = base / "engine-home"
        self._message = base / "termination-log"
        self._wrappers = base / "bin"
        self._count = base / "count"
        self._make_wrappers()

    def _make_wrappers(self) -> None:
        self._wrappers.mkdir()
        real = {name: shutil.which(name) for name in CHANGING}
        for name in CHANGING:
            wrapper = self._wrappers / name
            text = WRAPPER.format(name=name, real=real[name], real_rm=real["rm"], real_mkdir=real["mkdir"])
            wrapper.write_text(text)
            wrapper.chmod(0o755)

    def put(self, folder: str, origin: str, content: str = "") -> None:
        """Lay a folder there whose engine wrote `content`; without, it is named after the folder and its origin."""
        engine = self.path / folder / "engine"
        engine.mkdir(parents=True)
        (engine / "raft").mkdir()
        (engine / "1.log").write_text(content or f"{folder} {origin}")
        (engine / "raft" / "2.log").write_text(content or f"{folder} {origin}")
        if origin:
            (self.path / folder / "origin").write_text(f"{origin}\n")

    def origin(self, folder: str) -> str | None:
        """What a folder is noted as, None without the note."""
        path = self.path / folder / "origin"
        return path.read_text().strip() if path.exists() else None

    def content(self, folder: str) -> str | None:
        """What an engine wrote into a folder; "" when nothing, None without the folder, "broken" when not all of it."""
        engine = self.path / folder / "engine"
        if not engine.is_dir():
            return None
        paths = [engine / "1.log", engine / "raft" / "2.log"]
        found = {path.read_text() if path.exists() else "" for path in paths}
        return found.pop() if len(found) == 1 else "broken"

    @property
    def contents(self) -> dict[str, tuple[str | None, str | None]]:
        """All that has a name: content and origin."""
        return {name: (self.content(name), self.origin(name)) for name in NAMED if (self.path / name).exists()}

    @property
    def folders(self) -> set[str]:
        """All that lies on the volume."""
        return {path.name for path in self.path.iterdir()}

    def run(
        self, script: str, *, release: str = "8.6.0", epoch: str = "0", node: str = "0", **environment: str
    ) -> Outcome:
        """Run a script to its end."""
        return self._run(script, {"RELEASE": release, "DATA_EPOCH": epoch, "NODE": node, **environment})

    def run_cut(
        self, script: str, at: int, where: Cut, *, release: str = "8.6.0", epoch: str = "0", **environment: str
    ) -> bool:
        """Run a script and kill it at its call number `at`; False when it has not so many."""
        self._count.write_text("")
        cut = {"CUT_AT": str(at), "CUT_WHERE": where.value, "CUT_COUNT": str(self._count)}
        path = {"PATH": f"{self._wrappers}:{os.environ['PATH']}"}
        outcome = self._run(
            script, {"RELEASE": release, "DATA_EPOCH": epoch, "NODE": "0", **environment, **cut, **path}
        )
        assert outcome.status in (0, -signal.SIGKILL), outcome
        return outcome.status != 0

    def _run(self, script: str, environment: Mapping[str, str]) -> Outcome:
        self._message.write_text("")
        own = {
            "PATH": os.environ["PATH"],
            "VOLUME": str(self.path),
            "TERMINATION_LOG": str(self._message),
            "ZEEBE_BROKER_CLUSTER_NODEID": environment["NODE"],
        }
        # A session of its own: that is what a cut kills.
        done = subprocess.run(
            ["bash", str(SCRIPTS / script)],
            env=own | dict(environment),
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stderr, self._message.read_text())
