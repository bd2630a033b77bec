"""The watch while the database is away: it waits, says so once, and loses nothing that it was told."""

from __future__ import annotations

import pytest
from django.db import InterfaceError, OperationalError

from provisioning import watcher


@pytest.mark.django_db
def test_it_asks_until_there_is_an_answer_and_says_once_why_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    refusals = [OperationalError("too many connections"), InterfaceError("the connection is closed")] * 3
    pauses: list[float] = []

    def ask() -> str:
        if refusals:
            raise refusals.pop()
        return "here"

    assert watcher.insist(ask, pause=pauses.append) == "here"
    assert pauses == [watcher.AWAY_AGAIN_SECONDS] * 6
    assert [record.getMessage() for record in caplog.records] == [
        "the database does not answer; the watch waits for it"
    ]


@pytest.mark.django_db
def test_any_other_trouble_is_no_reason_to_wait() -> None:
    def ask() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        watcher.insist(ask, pause=lambda _seconds: pytest.fail("it waits"))
