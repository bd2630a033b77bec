"""Where `bench.k8s` measures: accounts that are told apart, the API server's own log of requests, processes' costs.

Nothing here knows the product: what is counted is counted by the API server and the kernel, the same way for each side.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import yaml

from embedded.setup import CHECKOUT
from tests.kubernetes import Kubernetes, eventually

NAMESPACE = "flowplane-bench"
# The group of all our sides' accounts: the API server logs what these ask, and nobody else.
GROUP = f"system:serviceaccounts:{NAMESPACE}"
OURS, HELM, BARE, KOPF = "ours", "helm", "bare", "kopf"
RIGHTS = CHECKOUT / "docs" / "region-rights.yaml"
ROLES = {OURS: "flowplane-region", HELM: "cluster-admin", BARE: "cluster-admin", KOPF: "cluster-admin"}
CONTROL_PLANE = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok", "folder-volumes")
# Each is a region; what is measured side by side is in the first.
PLANES = ("default", "second")
REGIONS = ("bench", "second")
PATIENCE_SECONDS = 900.0
LOOK_SECONDS = 0.02
OK = 300


def make_accounts(cluster: Kubernetes, folder: Path) -> None:
    """Make an account for each side and write how it reaches the region; ours has the rights of the guide."""
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    cluster.apply(RIGHTS.read_text(encoding="utf-8"))
    for name, role in ROLES.items():
        cluster.apply(yaml.safe_dump_all(_account(name, role)))
        token = cluster.kubectl("-n", NAMESPACE, "create", "token", name, "--duration=24h").strip()
        content = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
        content["users"] = [{"name": one["name"], "user": {"token": token}} for one in content["users"]]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _account(name: str, role: str) -> Iterator[Mapping[str, object]]:
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    rights = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"bench-{name}"},
        "roleRef": rights,
        "subjects": [subject],
    }


# --- Requests ---


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as the API server saw it; times are the machine's, in seconds."""

    side: str
    verb: str
    kind: str
    place: str
    name: str
    status: int
    begun: float
    ended: float

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")

    @property
    def has_laid_down(self) -> bool:
        """Whether it made the last of a tenant's objects: all sides lay the StatefulSet down last."""
        return self.kind == "statefulsets" and self.verb in ("patch", "create", "update") and self.status < OK


class Audit:
    """The API servers' logs, read along; a place in them is how many requests there were before."""

    def __init__(self, *paths: Path) -> None:
        for path in paths:
            assert eventually(path.exists, seconds=60), f"{path}: start the testbed with --audited {GROUP}"
        self._read_bytes = dict.fromkeys(paths, 0)
        self._asked: list[Asked] = []

    def place(self) -> int:
        """Return where the log ends now."""
        self._read()
        return len(self._asked)

    def since(self, place: int, side: str, *, until: float = float("inf")) -> list[Asked]:
        """Return a side's requests that began before some time, from a place on."""
        self._read()
        return [one for one in self._asked[place:] if one.side == side and one.begun <= until]

    def applied(self, place: int, side: str, tenants: Collection[str]) -> dict[str, float]:
        """Wait until all these namespaces have their last object; when each got it."""
        found: dict[str, float] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            fresh, place = self._asked[place:], len(self._asked)
            for one in fresh:
                if one.side == side and one.has_laid_down and one.place in tenants:
                    found.setdefault(one.place, one.ended)
            if len(found) == len(tenants):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(tenants) - len(found)} of {len(tenants)} tenants have no StatefulSet")
            time.sleep(LOOK_SECONDS)
            self._read()

    def _read(self) -> None:
        for path, read_bytes in self._read_bytes.items():
            with path.open("rb") as file:
                file.seek(read_bytes)
                whole, end, _ = file.read().rpartition(b"\n")
            self._read_bytes[path] += len(whole) + len(end)
            for line in whole.splitlines():
                event = json.loads(line)
                # What lasts has two lines; a watch is counted when it begins, anything else when it is over.
                if (event["verb"] == "watch") == (event["stage"] == "ResponseStarted"):
                    self._asked.append(_to_asked(event))


def _to_asked(event: Mapping[str, object]) -> Asked:
    about: Mapping[str, str] = event.get("objectRef") or {}  # type: ignore[assignment]
    user: Mapping[str, str] = event["user"]  # type: ignore[assignment]
    status: Mapping[str, int] = event.get("responseStatus") or {}  # type: ignore[assignment]
    kind, name = about.get("resource", ""), about.get("name", "")
    return Asked(
        user["username"].rpartition(":")[2],
        str(event["verb"]),
        f"{kind}/{about['subresource']}" if about.get("subresource") else kind,
        name if kind == "namespaces" else about.get("namespace", ""),
        name,
        int(status.get("code", 0)),
        _seconds(str(event["requestReceivedTimestamp"])),
        _seconds(str(event["stageTimestamp"])),
    )


def _seconds(time_of_day: str) -> float:
    return datetime.fromisoformat(time_of_day).timestamp()


# --- Processes ---


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes have run so far: their threads to the nanosecond, children that have ended by the tick."""
    nanoseconds = ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += int(fields[13]) + int(fields[14])
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                nanoseconds += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9 + ticks / os.sysconf("SC_CLK_TCK")


def pss_mb(pids: Iterable[int]) -> float:
    """Memory of these processes; what several share counts once."""
    return sum(float(psutil.Process(pid).memory_full_info().pss) for pid in pids) / 1e6


def peak_mb(pid: int) -> float:
    """The most that a process was resident, since it started."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


def family(pid: int) -> list[int]:
    """A process and all that it started and that still run."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def planes(home: Path) -> list[Path]:
    """Folders of the testbed's control planes, the first one's first; each is a region."""
    return [home / "planes" / name for name in PLANES if (home / "planes" / name).exists()]


def control_planes() -> list[int]:
    """The processes of Kubernetes itself."""
    files = [plane / "run" / name for plane in planes(testbed_home()) for name in CONTROL_PLANE]
    return [int(file.read_text(encoding="ascii")) for file in files if file.exists()]


def audit_logs() -> list[Path]:
    """Where the API servers log what our sides ask."""
    return [plane / "log" / "audit.log" for plane in planes(testbed_home())]


def testbed_home() -> Path:
    return Path(os.environ["TESTBED_HOME"])


def until(is_so: Callable[[], bool], what: str, *, every: float = 0.2) -> None:
    """Wait for something that has to come.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {PATIENCE_SECONDS:.0f} s")
        time.sleep(every)
