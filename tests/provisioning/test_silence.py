"""A region that does not answer is tried by one at a time; one that does is visited by everybody."""

from __future__ import annotations

import pytest

from provisioning.errors import NoCapacity, RegionUnreachable
from provisioning.silence import Silences


def fall_silent(silences: Silences, region: str) -> None:
    with pytest.raises(RegionUnreachable, match="broken off"), silences.visiting(region):
        raise RegionUnreachable("broken off")


def test_any_number_visits_a_region_that_answers() -> None:
    silences = Silences()
    with silences.visiting("a"), silences.visiting("a"), silences.visiting("b"):
        pass


def test_one_at_a_time_tries_a_silent_region_and_the_others_are_untouched() -> None:
    silences = Silences()
    fall_silent(silences, "a")
    with silences.visiting("a"):
        with pytest.raises(RegionUnreachable) as refused, silences.visiting("a"):
            pytest.fail("two tried it at once")
        assert refused.value.retry_after_seconds > 1
        with silences.visiting("b"), silences.visiting("b"):
            pass
    with silences.visiting("a"), silences.visiting("a"):
        pass  # it has answered


def test_a_region_that_goes_on_being_silent_is_tried_again_and_again() -> None:
    silences = Silences()
    for _ in range(3):
        fall_silent(silences, "a")
    with silences.visiting("a"), pytest.raises(RegionUnreachable), silences.visiting("a"):
        pass


def test_a_refusal_is_an_answer() -> None:
    silences = Silences()
    fall_silent(silences, "a")
    with pytest.raises(NoCapacity), silences.visiting("a"):
        raise NoCapacity("full")
    with silences.visiting("a"), silences.visiting("a"):
        pass
