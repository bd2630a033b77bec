from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from embedded.processes import processes_inside
from embedded.setup import CHECKOUT
from embedded.testbench import sweep

OWNER = (
    "import os, signal; from embedded.testbench import Testbench; bench = Testbench(); bench.start(); "
    "print(bench.home.root.parent, flush=True); signal.pause()"
)


def test_a_bench_whose_owner_was_killed_is_swept_with_its_servers() -> None:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", OWNER], env=env, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        sweep()
        assert processes_inside(folder), "a living owner's bench was swept"
        owner.send_signal(signal.SIGKILL)
    assert processes_inside(folder)
    sweep()
    assert not processes_inside(folder)
    assert not folder.exists()
