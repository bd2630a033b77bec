"""A bench of this package's own: its servers are killed and restarted here."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedded.accounts import service_account
from embedded.home import Home
from embedded.testbench import Testbench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def wait_until(holds: Callable[[], object]) -> None:
    """Look again and again, for 20 s."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that the service user can reach; pytest's own are neither."""
    path = Path(tempfile.mkdtemp(prefix="flowplane-unit-", dir="/tmp")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> Home:
    """A home that is not prepared yet."""
    return Home(folder / "home", folder / "cache", service_account())


@pytest.fixture(scope="module")
def bench() -> Iterator[Testbench]:
    """PostgreSQL and Redis, running."""
    bench = Testbench()
    try:
        bench.start()
        yield bench
    finally:
        bench.stop()
