"""The whole product as its own processes, on real servers and real engines, in a home of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.accounts import service_account
from embedded.environment import Ports
from embedded.home import Home, purge
from embedded.machine import furnish, running
from tests.e2e.stack import Stack


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, Redis, web, worker, clock and watch under their process runner; stopped afterwards, engines too."""
    # Not the user's folder for temporary files: the service user must pass through.
    folder = Path(tempfile.mkdtemp(prefix="flowplane-stack-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "home", Path(os.environ["FLOWPLANE_CACHE"]), service_account())
    machine = furnish(home, Ports(free_port(), free_port()))
    try:
        with running(machine, lambda _title: contextlib.nullcontext()) as supervisor:
            yield Stack(machine, supervisor)
    finally:
        purge(home)
        folder.rmdir()
