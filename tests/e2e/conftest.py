"""The whole product as its own processes, on real servers and real engines, in a home of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from embedded.machine import running
from tests.e2e.stack import Stack, machine_of_its_own


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, Redis, web, worker, clock and watch under their process runner; stopped afterwards, engines too."""
    with (
        machine_of_its_own() as machine,
        running(machine, lambda _title: contextlib.nullcontext()) as supervisor,
    ):
        yield Stack(machine, supervisor)
