"""The namespaces that the testbed lives in: what is started in them cannot outlive them.

A keeper process is the first one of a process namespace, with network and mounts of its own. To end the testbed is to
kill the keeper: the kernel then kills whatever runs inside, pods included, takes the mounts apart and forgets
interfaces, routes and packet filters. The machine's own rules and settings are never touched, and no packet finds a
way out, because nothing connects the two networks.

Left to remove by hand are control groups and the state folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.environment import TEST_KUBECONFIG_INSIDE
from embedded.errors import SetupError
from embedded.files import digest, write_whole
from embedded.processes import passed_on, run
from embedded.setup import CHECKOUT
from testbed.steps import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKER = ".flowplane-testbed"
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
NAMESPACES = {"net": CLONE_NEWNET, "mnt": CLONE_NEWNS, "pid": CLONE_NEWPID}
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# A group weighs as much as one process beside it: beside two busy programs of the machine all pods together would get a
# third of a core, and probes and engines in them would miss their moments. This is four times as much.
WEIGHTS = {"cpu.shares": "4096", "cpu.weight": "400"}
# What the kubelet insists on. It finds these values, so it never writes the machine's own.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# Folders that programs inside write to by habit: each gets an empty one that vanishes with the namespace.
PRIVATE_FOLDERS = ("/run", "/var/log")
# Where a node writes whatever it is told, and which the machine need not have: libcni's notes, the kubelet's sockets.
PRIVATE_PARTS = {"/var/lib": ("cni", "kubelet")}
NODE_ADDRESS = "172.31.250.1"
BRIDGE = "testbed0"
# Every control plane has a sixteenth of it.
SERVICE_NETWORKS = "10.96.0.0/12"
END_SECONDS = 120.0


@dataclass(frozen=True)
class Bed:
    """One testbed of this machine; `home` holds all its state."""

    home: Path

    @property
    def record(self) -> Path:
        """Which process keeps the namespaces."""
        return self.home / "keeper.json"

    @property
    def resolver(self) -> Path:
        """What programs inside see as /etc/resolv.conf."""
        return self.home / "resolv.conf"

    @property
    def planes(self) -> Path:
        return self.home / "planes"

    @property
    def control_group(self) -> str:
        """Where the pods' control groups lie, below the root of each hierarchy."""
        return f"flowplane-testbed-{digest(str(self.home).encode())[:8]}"

    def keeper(self) -> int | None:
        """Return the process that keeps the namespaces, as seen from outside; None when it is gone."""
        try:
            noted = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        pid = int(noted["pid"])
        return pid if _begun(pid) == noted["begun"] else None

    def is_inside(self) -> bool:
        """Tell whether we are a process of this testbed."""
        try:
            noted = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return False
        return bool(noted["network"] == _network())

    def make(self) -> None:
        """Make the namespaces and their keeper, unless they are there. About 0.1 s.

        Raises:
            SetupError: we are not root, or the folder holds something else.
        """
        if self.keeper() is not None:
            return
        if os.geteuid() != 0:
            raise SetupError("The testbed needs root: it makes namespaces and runs containers.")
        self._clear()
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o755)
        (self.home / MARKER).write_text("`python -m testbed down` removes this folder.\n")
        self.resolver.write_text("nameserver 127.0.0.1\n")
        for hierarchy in _hierarchies():
            group = hierarchy / self.control_group
            group.mkdir(exist_ok=True)
            for name, weight in WEIGHTS.items():
                if (group / name).exists():
                    (group / name).write_text(weight)
        self._fork_keeper()

    def enter_and_run(self, command: Sequence[str], variables: dict[str, str]) -> int:
        """Run a command inside and return its exit status; signals are passed on to it."""
        pid = self.keeper()
        if pid is None:
            raise SetupError(f"No testbed runs in {self.home}: `python -m testbed up` starts it.")
        here = Path.cwd()
        handles = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES}
        for name, handle in handles.items():
            _system_call("setns", handle, NAMESPACES[name])
            os.close(handle)
        # Another mount namespace begins at its root.
        os.chdir(here)
        try:
            with subprocess.Popen(command, env=variables) as child, passed_on(child):
                return child.wait()
        except OSError as error:
            raise SetupError(f"{command[0]} could not be started: {error.strerror}.") from error

    def end(self) -> bool:
        """End everything inside and remove all state; False when there was nothing. Running it twice is harmless."""
        if self.is_inside():
            raise SetupError("The testbed is ended from outside: this process would die of it.")
        was_there = self.home.exists()
        pid = self.keeper()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            # The keeper's own end waits for everything in its namespace.
            wait_until(lambda: _begun(pid) is None, "the processes of the testbed end", seconds=END_SECONDS)
        self._clear()
        return was_there

    def _clear(self) -> None:
        for hierarchy in _hierarchies():
            _remove_control_group(hierarchy / self.control_group)
        if not self.home.exists():
            return
        if not (self.home / MARKER).exists() and any(self.home.iterdir()):
            raise SetupError(f"{self.home} does not carry {MARKER}, so it is not ours to remove.")
        shutil.rmtree(self.home)

    def _fork_keeper(self) -> None:
        """Leave a process behind that is the first of its namespaces."""
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            with contextlib.suppress(BaseException):
                os.close(reader)
                os.setsid()
                _system_call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
                keeper = os.fork()
                if keeper == 0:
                    self._become_keeper(writer)
                os.write(writer, f"{keeper} ".encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(middle, 0)
        with os.fdopen(reader) as answer:
            words = answer.read().split(maxsplit=2)
        if len(words) < 2 or "ready" not in words[:2]:
            raise SetupError(f"The testbed's namespaces could not be made: {' '.join(words) or 'not permitted'}.")
        pid = int(next(word for word in words if word.isdecimal()))
        noted = {"pid": pid, "begun": _begun(pid), "network": Path(f"/proc/{pid}/ns/net").stat().st_ino}
        write_whole(self.record, json.dumps(noted))

    def _become_keeper(self, writer: int) -> None:
        try:
            _furnish(self)
            program = "import signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: time.sleep(3600)"
            nowhere = os.open(os.devnull, os.O_RDWR)
            for handle in (0, 1, 2):
                os.dup2(nowhere, handle)
            os.write(writer, b"ready ")
            os.close(writer)
            # A small program of its own: whatever this one holds is let go. Children of others end up with the
            # first process; the kernel buries them, because it is told that nobody asks for them.
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", program, "flowplane-testbed"])
        except (OSError, SetupError) as error:
            with contextlib.suppress(OSError):
                os.write(writer, f"failed {error}".encode())
            os._exit(1)


def inside_variables(bed: Bed, programs: Path, kubeconfig: Path) -> dict[str, str]:
    """Return the environment of a program inside: ours, the testbed's programs first, and where the cluster is.

    The names do not begin with FLOWPLANE_, because the product refuses settings that it does not know.
    """
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        "TESTBED_HOME": str(bed.home),
        TEST_KUBECONFIG_INSIDE: str(kubeconfig),
        # For a person with kubectl or Helm; the tests name theirs.
        "KUBECONFIG": str(kubeconfig),
    }


def ourselves(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs this very program with other arguments."""
    return [sys.executable, "-m", "testbed", *arguments]


def _furnish(bed: Bed) -> None:
    """Give the new namespaces what every program expects. Runs inside, as their first process."""
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    for folder in PRIVATE_FOLDERS:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for folder, names in PRIVATE_PARTS.items():
        _give_parts(Path(folder), names)
    resolver = Path("/etc/resolv.conf").resolve()
    if not resolver.exists():  # a link into /run, which we have just covered
        resolver.parent.mkdir(parents=True, exist_ok=True)
        resolver.touch()
    _mount("--bind", str(bed.resolver), str(resolver))
    settings = bed.home / "kernel"
    settings.mkdir()
    for name, value in KERNEL_SETTINGS.items():
        stand_in = settings / name.replace("/", ".")
        stand_in.write_text(f"{value}\n")
        if Path("/proc/sys", name).exists():
            _mount("--bind", str(stand_in), f"/proc/sys/{name}")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for arguments in (
        ("link", "set", "lo", "up"),
        ("link", "add", BRIDGE, "type", "bridge"),
        ("address", "add", f"{NODE_ADDRESS}/24", "dev", BRIDGE),
        ("link", "set", BRIDGE, "up"),
        # A Service's address is turned into a pod's only after a route to it was found, and there is no default one.
        ("route", "add", SERVICE_NETWORKS, "dev", BRIDGE),
    ):
        run(["ip", *arguments], purpose="Making the testbed's network", cwd=CHECKOUT)


def _give_parts(folder: Path, names: Sequence[str]) -> None:
    """Show a folder as it is, but for parts of our own. None is made where the folder is: that one is the machine's."""
    shown = Path("/run/flowplane-testbed", folder.name)
    for name in names:
        (shown / name).mkdir(parents=True)
    for entry in folder.iterdir():
        seen = shown / entry.name
        if entry.name in names:
            continue
        if entry.is_symlink():
            seen.symlink_to(entry.readlink())
            continue
        if entry.is_dir():
            seen.mkdir()
        else:
            seen.touch()
        _mount("--rbind", str(entry), str(seen))
    _mount("--rbind", str(shown), str(folder))


def _mount(*arguments: str) -> None:
    run(["mount", *arguments], purpose=f"mount {' '.join(arguments)}", cwd=Path("/"))


def _system_call(name: str, *arguments: int) -> None:
    # `os` has these two from Python 3.12 on, and Debian 12 has 3.11.
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _begun(pid: int) -> str | None:
    """Return when a process was started, in the kernel's words, so that a number used again is not taken for it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _network() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


def _hierarchies() -> list[Path]:
    """Return the control group hierarchies: one for each controller, or the single one of newer machines."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS]
    return sorted({path.resolve() for path in CONTROL_GROUPS.iterdir() if path.is_dir()})


def _remove_control_group(folder: Path) -> None:
    """Remove a group with all below it; the kernel may need a moment to see that it is empty."""
    for _ in range(20):
        if not folder.exists():
            return
        groups = [path for path in folder.rglob("*") if path.is_dir()]
        for group in (*sorted(groups, key=lambda path: -len(path.parts)), folder):
            with contextlib.suppress(OSError):
                group.rmdir()
        time.sleep(0.1)
