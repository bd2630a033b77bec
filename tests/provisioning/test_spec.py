from __future__ import annotations

from dataclasses import replace

from provisioning.spec import Gateway, Lifecycle
from tests.provisioning.test_planner import RELEASE, SIZE, desired


def test_the_digest_changes_with_all_that_needs_a_restart() -> None:
    wish = desired()
    changed = [
        replace(wish, audience="a/2"),
        replace(wish, release=replace(RELEASE, version="8.6.0")),
        replace(wish, size=replace(SIZE, heap_mib=192)),
        replace(wish, license_key="key"),
        replace(wish, host_name="b.example"),
        replace(wish, gateway=Gateway.STANDALONE),
    ]
    assert len({wish.digest, *(other.digest for other in changed)}) == len(changed) + 1


def test_the_digest_stays_when_nothing_of_the_engine_changes() -> None:
    wish = desired()
    assert replace(wish, lifecycle=Lifecycle.SUSPENDED).digest == wish.digest
    assert replace(wish, spec_generation=9).digest == wish.digest
