"""One line for each thing that is done, with the time it took."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from embedded.errors import SetupError

LOOK_SECONDS = 0.1


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print what was done and how long it took, once it is done."""
    begun = time.monotonic()
    yield
    print(f"{time.monotonic() - begun:7.1f} s  {what}", flush=True)


def wait_until(is_so: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Return when it is so.

    Raises:
        SetupError: it is not so in time; names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise SetupError(f"Waited {seconds:.0f} s in vain: {what}.")
        time.sleep(LOOK_SECONDS)
