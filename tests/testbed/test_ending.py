"""What is started in a testbed ends with it, and leaves the machine as it was.

These tests run in a testbed themselves: their own ones are made inside it, which the kernel allows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.processes import processes
from testbed.bed import CONTROL_GROUPS, KERNEL_SETTINGS, Bed

pytestmark = [pytest.mark.kubernetes]
LEFT_IN = ("/run", "/var/log", "/etc/cni", "/var/lib/kubelet")


def on_testbed(home: Path, *arguments: str) -> str:
    """Run `python -m testbed` to its end and return what it said."""
    argv = [sys.executable, "-m", "testbed", "--home", str(home), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def traces(home: Path) -> dict[str, object]:
    """What a testbed with this home might leave behind. Pods of other tests come and go meanwhile."""
    mine, group = str(home), Bed(home).control_group
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
    return {
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if mine in line],
        "processes": [one.command for one in processes() if any(mine in word for word in one.command)],
        "files": {folder: sorted(path.name for path in Path(folder).glob("*")) for folder in LEFT_IN},
        # Other testbeds of this machine have theirs beside it.
        "groups": [str(path) for path in (*CONTROL_GROUPS.glob(group), *CONTROL_GROUPS.glob(f"*/{group}"))],
        "settings": {name: Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS},
        "interfaces": [link["ifname"] for link in links if not link["ifname"].startswith("veth")],
    }


def test_a_testbed_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "bed"
    before = traces(home)
    on_testbed(home, "up", "control")
    try:
        assert "kube-apiserver" in on_testbed(home, "status")
        assert Bed(home).keeper() is not None
    finally:
        on_testbed(home, "down")
    assert traces(home) == before
    assert not home.exists()
    # Once more is harmless.
    on_testbed(home, "down")


def test_a_second_control_plane_runs_beside_the_first(tmp_path: Path) -> None:
    home = tmp_path / "bed"
    try:
        on_testbed(home, "up", "control")
        on_testbed(home, "up", "simulated", "--name", "second", "--nodes", "1")
        said = on_testbed(home, "run", "--name", "second", "--", "kubectl", "get", "nodes", "-o", "name")
        assert "node/simulated-0" in said
        on_testbed(home, "down", "--name", "second")
        status = on_testbed(home, "status")
        assert "'default'" in status
        assert "'second'" not in status
    finally:
        on_testbed(home, "down")


def test_a_folder_that_is_not_ours_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    argv = [sys.executable, "-m", "testbed", "--home", str(tmp_path), "down"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not ours to remove" in done.stderr
    assert (tmp_path / "precious").exists()
