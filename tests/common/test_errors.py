"""The error tree: each branch says whether to try again, and what may be read."""

from __future__ import annotations

import pytest

from common import errors
from common.errors import ControlPlaneError, Permanent, Temporary


def branches() -> list[type[ControlPlaneError]]:
    """The branches below the root."""
    return ControlPlaneError.__subclasses__()


def test_the_tree_has_its_seven_branches() -> None:
    named = {branch.__name__ for branch in branches() if branch.__module__ == errors.__name__}
    assert named == {
        "InvalidRequest",
        "NotFound",
        "NotPermitted",
        "EntitlementExceeded",
        "Conflict",
        "Temporary",
        "Permanent",
    }


@pytest.mark.parametrize("branch", branches())
def test_a_branch_has_a_stable_code_and_a_status(branch: type[ControlPlaneError]) -> None:
    assert branch.code.replace("_", "").islower()
    assert 400 <= branch.http_status < 600


def test_the_public_sentence_and_the_detail_for_logs_stay_apart() -> None:
    error = ControlPlaneError("Try again.", internal="socket 7", field="name")
    assert str(error) == error.message == "Try again."
    assert error.internal == "socket 7"
    assert error.details == {"field": "name"}


def test_only_what_is_temporary_says_when_to_try_again() -> None:
    assert Temporary("Later.", retry_after_seconds=3).retry_after_seconds == 3
    assert not hasattr(Permanent("Stuck."), "retry_after_seconds")
