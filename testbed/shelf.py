"""What is built once and kept: folders in the cache, named by the content of what they are made from."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from embedded.files import alone, digest
from testbed.steps import step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def keep(cache: Path, name: str, inputs: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """Return the folder for these inputs; `make` fills it the first time. One builder at a time, others wait."""
    shelf = cache / "testbed"
    shelf.mkdir(parents=True, exist_ok=True)
    folder = shelf / f"{name}-{digest(*inputs)}"
    if folder.exists():
        return folder
    with alone(shelf):
        if folder.exists():
            return folder
        for leftover in shelf.glob(".unfinished-*"):
            _remove(leftover)
        unfinished = Path(mkdtemp(dir=shelf, prefix=".unfinished-"))
        try:
            with step(f"made {folder.name} in {shelf}"):
                make(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        finally:
            _remove(unfinished)
    return folder


def files_below(folder: Path) -> list[bytes]:
    """Return names and contents of all files below a folder, in an order that does not change."""
    found: list[bytes] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found += [str(path.relative_to(folder)).encode(), path.read_bytes()]
    return found


def _remove(folder: Path) -> None:
    """Delete a folder, copies of the module cache with their write protection included."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
