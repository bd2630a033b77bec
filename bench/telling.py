"""How figures are told in a table, and on what they were taken."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.pairs import percentile


def middle(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """The median with the range and how many there are."""
    median, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median}{unit} ({low} to {high}, n={len(values)})"


def tail(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """What half and what all but one in a hundred stay below, and the largest."""
    told = (percentile(values, 0.5), percentile(values, 0.99), max(values))
    p50, p99, most = (f"{value:.{digits}f}" for value in told)
    return f"p50 {p50}, p99 {p99}, most {most} {unit} (n={len(values)})"


def machine() -> str:
    """What the figures were taken on, and how busy that was when they began."""
    memory_gib = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) / 2**20
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, Python "
        f"{platform.python_version()}, load at the beginning {os.getloadavg()[0]:.1f}"
    )
