"""Work that may kill the process that does it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def is_killed_in(work: Callable[[], object]) -> bool:
    """Do it in a process of its own; whether that was killed. It must not fail."""
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            work()
            failed = 0
        finally:
            os._exit(failed)  # or this process would go on as a second run of the tests
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "something broke in the process"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True
