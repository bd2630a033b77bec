"""One control plane of a testbed: its folders and ports, and the processes that belong to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.processes import Process, run, stop
from testbed.bed import NODE_ADDRESS
from testbed.steps import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.build import Programs

DEFAULT_NAME = "default"
DOMAIN = "engines.test"
PORTS_EACH = 20
FIRST_PORT = 16400
POD_NETWORK = "10.244.0.0/16"
SIMULATED_NETWORK = "10.245.0.1/16"
# Components that are a few lines of Python; all others are in the one compiled program.
SCRIPTS = {"engines": Path(__file__).resolve().with_name("engines.py")}
# What this process has started and waits for nowhere: dropped, Python would warn of each as forgotten.
_CHILDREN: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Plane:
    """A control plane. All of them share the testbed's network, so each has ports of its own.

    `slot` numbers them; only the first, 0, has fixed Service addresses that a node carries.
    """

    folder: Path
    programs: Programs
    slot: int
    domain: str = DOMAIN

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def processes(self) -> Path:
        return self.folder / "run"

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd" / "containerd.sock"

    @property
    def server(self) -> str:
        return f"https://{NODE_ADDRESS}:{self.port(0)}"

    @property
    def services(self) -> str:
        """The network of Service addresses."""
        return f"10.{96 + self.slot}.0.0/16"

    def service_address(self, last: int) -> str:
        return f"10.{96 + self.slot}.0.{last}"

    @property
    def name_server(self) -> str:
        return self.service_address(10)

    @property
    def edge(self) -> str:
        """Where the region's names lead."""
        return self.service_address(20)

    def port(self, number: int) -> int:
        return FIRST_PORT + self.slot * PORTS_EACH + number

    def make_folders(self) -> None:
        for folder in (self.folder, self.pki, self.logs, self.processes, self.volumes):
            folder.mkdir(parents=True, exist_ok=True)
        # Engines in pods are not root, and must reach their volumes.
        self.folder.chmod(0o711)
        write_whole(self.folder / "plane.json", json.dumps({"slot": self.slot, "domain": self.domain}))

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl to its end and return what it said.

        Raises:
            SetupError: it failed; quotes it.
        """
        argv = [str(self.programs.box), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(argv, purpose=f"kubectl {' '.join(arguments[:3])}", cwd=self.folder)

    def succeeds(self, *arguments: str) -> bool:
        """Tell whether kubectl succeeds."""
        argv = [str(self.programs.box), "kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def apply(self, objects: str) -> None:
        """Make these objects (YAML) so."""
        argv = [str(self.programs.box), "kubectl", "--kubeconfig", str(self.kubeconfig), "apply", "-f", "-"]
        done = subprocess.run(argv, input=objects, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            # Admission may lag behind the API server by a moment: once more, and then with its words.
            source = self.folder / "refused.yaml"
            source.write_text(objects)
            self.kubectl("apply", "-f", str(source))

    def start(self, component: str, *arguments: str, path: str = "") -> None:
        """Start a component unless it runs; its words go to `log/<component>.log`. Inside the testbed only."""
        if self.running(component) is not None:
            return
        env = {**os.environ, **({"PATH": path} if path else {})}
        with (self.logs / f"{component}.log").open("ab") as log:
            child = subprocess.Popen(
                [*self._program(component), *arguments],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _CHILDREN.append(child)
        write_whole(self.processes / component, str(child.pid))

    def running(self, component: str) -> Process | None:
        """Return the process of a component, when it runs. Inside the testbed only: numbers are the namespace's."""
        try:
            process = Process(int((self.processes / component).read_text()))
        except (OSError, ValueError):
            return None
        program = self._program(component)
        return process if process.command[: len(program)] == program else None

    def _program(self, component: str) -> list[str]:
        script = SCRIPTS.get(component)
        return [sys.executable, "-I", "-S", str(script)] if script else [str(self.programs.box), component]

    def components(self) -> list[str]:
        """Return the names of the components that were started."""
        return sorted(path.name for path in self.processes.glob("[a-z]*")) if self.processes.exists() else []

    def stop(self) -> None:
        """End the components, without ceremony: what they hold is thrown away."""
        for component in self.components():
            process = self.running(component)
            if process is not None:
                stop([process], lambda one, name=component: self.running(name) == one, first=signal.SIGKILL)  # type: ignore[misc]
            with contextlib.suppress(FileNotFoundError):
                (self.processes / component).unlink()

    def remove(self) -> None:
        """End this control plane and delete its state; others go on.

        Raises:
            SetupError: it has the real node, whose pods end only with the whole testbed.
        """
        if self.running("containerd") is not None:
            raise SetupError(f"{self.name!r} has the real node: end the whole testbed, without --name.")
        self.stop()
        shutil.rmtree(self.folder)

    def wait_for(self, what: str, *arguments: str, seconds: float) -> None:
        """Wait until kubectl succeeds with these arguments."""
        wait_until(lambda: self.succeeds(*arguments), f"{what} (see {self.logs})", seconds=seconds)


def recorded(folder: Path, programs: Programs) -> Plane | None:
    """Return the control plane that lies in this folder, when there is one."""
    try:
        noted: dict[str, Any] = json.loads((folder / "plane.json").read_text())
    except (OSError, ValueError):
        return None
    return Plane(folder, programs, int(noted["slot"]), str(noted["domain"]))


def find_all(planes: Path, programs: Programs) -> list[Plane]:
    """Return all control planes of a testbed, in the order of their slots."""
    folders = planes.iterdir() if planes.exists() else ()
    found = [plane for folder in folders if (plane := recorded(folder, programs))]
    return sorted(found, key=lambda plane: plane.slot)


def provide(planes: Path, programs: Programs, name: str, domain: str) -> Plane:
    """Return the control plane of this name, with a free slot when it is new."""
    existing = find_all(planes, programs)
    for plane in existing:
        if plane.name == name:
            return plane
    taken = {plane.slot for plane in existing}
    slot = next(number for number in range(len(taken) + 1) if number not in taken)
    plane = Plane(planes / name, programs, slot, domain)
    plane.make_folders()
    return plane


def words(*arguments: str, **flags: Sequence[str] | str) -> list[str]:
    """Return command-line arguments: `a_b="c"` becomes `--a-b=c`."""
    options = []
    for name, value in flags.items():
        joined = value if isinstance(value, str) else ",".join(value)
        options.append(f"--{name.replace('_', '-')}={joined}")
    return [*arguments, *options]
