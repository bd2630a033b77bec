"""Figures from interleaved pairs: the median ratio with its interval, and what disturbed a pair."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

RESAMPLES = 10_000
# A pair is repeated when somebody waited for a processor for more than this share of its time, but not for ever.
MAX_STALLED = 0.25
MAX_TRIES = 3

_Figure = TypeVar("_Figure")


@dataclass(frozen=True)
class Ratio:
    """How many times as much one side took as the other: median over pairs, and the bootstrap's 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two sides that were measured in pairs."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    chance = random.Random(1)  # the same figures give the same interval
    medians = sorted(statistics.median(chance.choices(each, k=len(each))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(each), percentile(medians, 0.025), percentile(medians, 0.975))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so large a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


@dataclass
class Stalls:
    """How many pairs were thrown away because others kept the processors busy, and how many kept all the same."""

    thrown_away: int = 0
    kept: int = 0

    def __str__(self) -> str:
        return (
            f"{self.thrown_away} disturbed rounds were measured again, {self.kept} rounds of those shown were disturbed"
        )


def interleaved(
    sides: Mapping[str, Callable[[], _Figure]], rounds: int, stalls: Stalls | None = None
) -> dict[str, list[_Figure]]:
    """Measure every side once a round, forwards and backwards in turn.

    With `stalls` a round is repeated when foreign processes disturbed it: only for sides that keep one processor busy
    at most, or they would disturb themselves.
    """
    found: dict[str, list[_Figure]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name, figure in _round(sides, order, stalls).items():
            found[name].append(figure)
    return found


def _round(
    sides: Mapping[str, Callable[[], _Figure]], order: Sequence[str], stalls: Stalls | None
) -> dict[str, _Figure]:
    for attempt in range(MAX_TRIES):
        with stalled() as share:
            figures = {name: sides[name]() for name in order}
        if stalls is None or share[0] <= MAX_STALLED:
            break
        if attempt < MAX_TRIES - 1:
            stalls.thrown_away += 1
        else:
            stalls.kept += 1
    return figures


@contextmanager
def stalled() -> Iterator[list[float]]:
    """The share of the time in which somebody waited for a processor, once it is over."""
    share: list[float] = []
    waited, began = _waited_seconds(), time.monotonic()
    yield share
    share.append((_waited_seconds() - waited) / (time.monotonic() - began))


def _waited_seconds() -> float:
    pressure = Path("/proc/pressure/cpu")
    if not pressure.exists():
        return 0.0
    some = pressure.read_text(encoding="ascii").splitlines()[0]
    return int(some.rpartition("total=")[2]) / 1e6
