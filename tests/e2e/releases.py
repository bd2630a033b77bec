"""The release before this one: found in the history, unpacked beside the checkout, run on our virtual environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from django.db import connections
from django.db.migrations import RunPython
from django.db.migrations.loader import MigrationLoader

from embedded.environment import Ports, base_environment, chosen_settings
from embedded.errors import SetupError
from embedded.home import Home
from embedded.processes import run
from embedded.setup import CHECKOUT, VENV
from embedded.supervision import Program, product
from tests.architecture.migration_rules import BASELINE
from tests.architecture.migration_sql import parts_of

# Git's own pattern: any app's numbered migrations.
MIGRATIONS = "*/migrations/0*.py"
_BASELINE_FILES = {f"{app}/migrations/{name}.py" for app, name in BASELINE}
_PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Release:
    """Another release's code, with the front-end files and the virtual environment of this one."""

    commit: str
    folder: Path

    @classmethod
    def unpack(cls, commit: str, folder: Path, *, checkout: Path = CHECKOUT) -> Release:
        """Take a commit's files out of the history."""
        archive = folder.with_suffix(".tar")
        _git(checkout, "archive", "--output", str(archive), commit)
        folder.mkdir()
        run(["tar", "--extract", "--file", archive, "--directory", folder], purpose="Unpacking the previous release")
        archive.unlink()
        (folder / "node_modules").symlink_to(checkout / "node_modules")
        return cls(commit, folder)

    @cached_property
    def known_settings(self) -> frozenset[str]:
        """The variables that its own `embedded run` accepts; it stops at any other, such as one that came later."""
        ask = "from embedded.environment import CHOOSABLE, OWN; print(*OWN, *CHOOSABLE)"
        argv = [str(VENV / "bin" / "python"), "-c", ask]
        told = run(argv, purpose="Asking the previous release", cwd=self.folder, env=base_environment())
        return frozenset(told.split())

    def manage(self, home: Home, ports: Ports, role: str, *arguments: str) -> str:
        """Run a Django command of this release as a database role, with the settings that its own code makes."""
        python = str(VENV / "bin" / "python")
        argv = [python, "-m", "embedded", "run", "--role", role, "--", python, "manage.py", *arguments]
        given = {name: value for name, value in chosen_settings(home, ports).items() if name in self.known_settings}
        purpose = f"The previous release's `{' '.join(arguments)}`"
        return run(argv, purpose=purpose, cwd=self.folder, env={**base_environment(), **given})

    def programs(self, home: Home, ports: Ports) -> list[Program]:
        """Its four processes; their names begin with `old-`."""
        later = sorted(chosen_settings(home, ports).keys() - self.known_settings)
        forget = ["env", *(f"--unset={name}" for name in later)]
        return [
            replace(one, name=f"old-{one.name}", command=[*forget, *one.command])
            for one in product(home, ports, checkout=self.folder)
        ]

    def note(self) -> str:
        """What to know when this release fails on our virtual environment."""
        ours, theirs = (pins(folder / "requirements" / "embedded.txt") for folder in (CHECKOUT, self.folder))
        apart = [
            f"{name} {version} (here {ours.get(name, 'gone')})"
            for name, version in sorted(theirs.items())
            if line_of(ours.get(name, "")) != line_of(version)
        ]
        wanted = f" It was locked to other lines of releases: {', '.join(apart)}." if apart else ""
        return f"The previous release is {self.commit[:12]}, run on this one's virtual environment.{wanted}"


def pins(lock: Path) -> dict[str, str]:
    """What a lock file pins."""
    return dict(_PIN.findall(lock.read_text(encoding="utf-8")))


def line_of(version: str) -> tuple[str, ...]:
    """The part of a version that stays the same while nothing breaks: `5` of 5.2.1, `0.6` of 0.6.1."""
    first, *others = version.split(".")
    return (first, *others[:1]) if first == "0" else (first,)


def changes_the_database(file: str) -> bool:
    """Whether one of our migrations has anything to run. A list of choices, for instance, is nothing to the database.

    Some operations look at the tables to tell.
    """
    app, _, name = file.removesuffix(".py").split("/")
    loader = MigrationLoader(None)
    migration = loader.disk_migrations[app, name]
    state = loader.project_state((app, name), at_end=False)
    line = connections.create_connection("default")
    try:
        parts = parts_of(migration, state, line)
        return any(part.statements or isinstance(part.operation, RunPython) for part in parts)
    finally:
        line.close()


def previous_commit(checkout: Path = CHECKOUT, *, is_felt: Callable[[str], bool] = changes_the_database) -> str:
    """The commit whose code runs while the newest migrations are applied: the one before they came.

    Those that change nothing in the database do not count: both releases would run on the same one. HEAD, when no
    migration came after the baseline, or when the newest ones are not committed yet.

    Args:
        is_felt: whether the migration in this file changes the database.

    Raises:
        SetupError: the checkout does not hold its history, and it could not be fetched.
    """
    _require_history(checkout)
    head = _git(checkout, "rev-parse", "HEAD").strip()
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=all", "--", MIGRATIONS)
    added = [line[3:] for line in changed.splitlines() if line[:2] in ("??", "A ", "AM")]
    if any(map(is_felt, added)):
        return head
    # Along the first parents: what a branch brought came when it was merged.
    came = _git(
        checkout,
        *("log", "--first-parent", "--diff-merges=first-parent", "--diff-filter=A"),
        *("--format=@%H", "--name-only", "--", MIGRATIONS),
    )
    for commit, *files in (part.split() for part in came.split("@")[1:]):
        # A file that is gone again, or was there from the beginning, is nobody's to meet.
        newer = [file for file in files if file not in _BASELINE_FILES and (checkout / file).is_file()]
        if any(map(is_felt, newer)):
            return _git(checkout, "rev-parse", f"{commit}^").strip()
    return head


def _require_history(checkout: Path) -> None:
    instead = (
        "The previous release's code is taken from the history. Give this checkout its history (git fetch --unshallow; "
        "in CI: a fetch depth of 0) and run the test again."
    )
    try:
        if _git(checkout, "rev-parse", "--is-shallow-repository").strip() == "true":
            _git(checkout, "fetch", "--unshallow", "--quiet")
    except SetupError as error:
        raise SetupError(f"{instead} {error}") from error


def _git(checkout: Path, *arguments: str) -> str:
    """Run git without asking anybody anything.

    Raises:
        SetupError: it refused; its words are quoted.
    """
    env = {**base_environment(), "GIT_TERMINAL_PROMPT": "0"}
    return run(["git", *arguments], purpose=f"`git {arguments[0]}`", cwd=checkout, env=env)
