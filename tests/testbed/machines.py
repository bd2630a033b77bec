"""A machine of its own, as far as the kernel tells: whatever a testbed leaves on it can be counted.

On the machine itself, or in the testbed that the tests run in, pods of other tests come and go meanwhile: what they add
could not be told from what is left behind. Here nothing else runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.bed import CONTROL_GROUPS, KERNEL_SETTINGS, PRIVATE_FOLDERS

NAMESPACES = ("--net", "--mount", "--pid")
# Buries what is left to it, as a first process has to, and says when it is there.
FIRST = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nprint(flush=True)\nwhile True: signal.pause()"
COMMANDS = (
    "from embedded.processes import processes\nprint(*sorted(str(one.command) for one in processes()), sep='\\n')"
)
# Where programs of a node leave things by habit, whatever they are told. These are empty to begin with; and others.
EMPTY = (*PRIVATE_FOLDERS, "/var/lib/cni", "/var/lib/kubelet", "/opt/containerd", "/dev/shm")
FOLDERS = ("/etc", "/opt", "/var/lib")
SETTINGS = (*KERNEL_SETTINGS, "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet")


@dataclass(frozen=True)
class Machine:
    """Namespaces for network, mounts and processes; `pid` is the first process in them, as seen from outside."""

    pid: int

    def run(self, *command: str) -> str:
        """Run a command there to its end and return what it said."""
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES, "--wd", "--"]
        done = subprocess.run([*enter, *command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def network(self) -> list[str]:
        """What its network is, in lines: interfaces, addresses, ways, names, and what is done to packets."""
        asked = (
            ("ip", "address"),
            ("ip", "route", "show", "table", "all"),
            ("ip", "rule"),
            ("ip", "netns"),
            ("nft", "list", "ruleset"),
            # Made with the first rule of iptables' own; those of its newer make are nftables'.
            ("sh", "-c", "cat /proc/self/net/ip_tables_names /proc/self/net/ip6_tables_names 2>/dev/null || true"),
        )
        return [line for command in asked for line in self.run(*command).splitlines()]

    def state(self) -> list[str]:
        """What else a node changes, in lines: mounts, files, settings of the kernel."""
        asked = (
            ("cat", "/proc/self/mounts"),
            ("find", *FOLDERS, "-maxdepth", "2"),
            ("find", *(one for one in EMPTY if Path(one).exists())),
            ("grep", "", *(f"/proc/sys/{name}" for name in SETTINGS)),
        )
        return [line for command in asked for line in sorted(self.run(*command).splitlines())]

    def processes(self) -> list[str]:
        """The commands of all processes."""
        return self.run(sys.executable, "-c", COMMANDS).splitlines()


@contextmanager
def machine() -> Iterator[Machine]:
    """Yield an empty machine; all that runs in it ends with it."""
    begin = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", FIRST]
    with subprocess.Popen(begin, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as unshare:
        try:
            assert unshare.stdout
            assert unshare.stdout.readline(), "the kernel lets us have no namespaces"
            (first,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
            made = Machine(int(first))
            for folder in EMPTY:
                if Path(folder).exists():
                    made.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
            yield made
        finally:
            unshare.kill()


def groups(name: str) -> list[str]:
    """Control groups of this name, which are the same for all namespaces."""
    return [str(path) for path in (*CONTROL_GROUPS.glob(name), *CONTROL_GROUPS.glob(f"*/{name}"))]
