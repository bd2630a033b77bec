"""The programs of the testbed, compiled from Go modules.

The module `box` has our own few lines; its go.mod and go.sum are the lock. What has to be changed in a dependency is
changed in a copy while we build, and the copy is thrown away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import SetupError
from embedded.processes import run
from embedded.setup import Tool, find_python, provide_tools
from testbed.shelf import files_below, keep
from testbed.steps import step

BOX = Path(__file__).resolve().parent / "box"
# In a pod, and for people: every component under its own name.
COMPONENTS = ("kubectl", "ctr")
HELM = "helm.sh/helm/v4/cmd/helm@v4.3.1"
SHIM = "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
POLICIES = "sigs.k8s.io/kube-network-policies"
SIMULATOR = "sigs.k8s.io/kwok"
# How simulated nodes and pods come to life and go, as the simulator's own module has it.
STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
)
# nftables' "queue" needs CONFIG_NFT_QUEUE, which small kernels lack; queue.go.txt says what stands for it.
QUEUE = re.compile(
    r"queue := &expr\.Queue\{Num: uint16\(c\.config\.QueueID\)\}\n"
    r"\tif c\.config\.FailOpen \{\n\t\tqueue\.Flag = expr\.QueueFlagBypass\n\t\}"
)
QUEUE_PLACES = 2
CNI_FOLDER = Path("/usr/lib/cni")
TOOLS = (
    Tool("go", ("golang-go",), "compiles Kubernetes"),
    Tool("mmdebstrap", ("mmdebstrap",), "makes the images' file systems"),
    Tool("runc", ("runc",), "runs containers"),
    Tool("nft", ("nftables",), "carries Services"),
    Tool(str(CNI_FOLDER / "ptp"), ("containernetworking-plugins",), "connects pods"),
    Tool("ip", ("iproute2",), "connects the node"),
    Tool("openssl", ("openssl",), "makes certificates"),
    Tool("mount", ("mount",), "separates the testbed from the machine"),
)


@dataclass(frozen=True)
class Programs:
    """Where the compiled programs lie."""

    folder: Path

    @property
    def box(self) -> Path:
        return self.folder / "box"

    @property
    def stages(self) -> Path:
        return self.folder / "stages.yaml"

    @property
    def pause(self) -> Path:
        return self.folder / "pause"


def provide(cache: Path) -> Programs:
    """Return the programs, compiled the first time (about eight minutes of two cores, 1 GB of modules).

    Raises:
        SetupError: a Debian package or a Go that is new enough is missing, or the compiler's words.
    """
    provide_tools(TOOLS, find_python())
    inputs = [*files_below(BOX), HELM.encode(), Path(__file__).read_bytes()]
    return Programs(keep(cache, "programs", inputs, _build))


def _build(folder: Path) -> None:
    _require_go()
    source = folder / "source"
    shutil.copytree(BOX, source)
    with step("patched the dependencies"):
        _patch_policies(source)
    kubernetes = _version_of(source, "k8s.io/kubernetes")
    with step(f"compiled and linked Kubernetes {kubernetes}"):
        _go(source, "build", "-trimpath", "-ldflags", _stamp(kubernetes), "-o", str(folder / "box"), ".")
    with step("compiled and linked the container shim"):
        _go(source, "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{folder}/", SHIM, "./pause")
    with step(f"compiled and linked {HELM}"):
        _go(folder, "install", "-trimpath", "-ldflags", "-s -w", HELM, GOBIN=str(folder))
    stages = _folder_of(source, SIMULATOR) / "kustomize" / "stage"
    (folder / "stages.yaml").write_text("---\n".join((stages / name).read_text() for name in STAGES))
    for name in COMPONENTS:
        (folder / name).symlink_to("box")
    _open(source)
    shutil.rmtree(source)


def tidy() -> None:
    """Bring go.mod and go.sum in step with the imports and with versions that were changed by hand."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(BOX, source)
        _patch_policies(source)
        _go(source, "mod", "tidy")
        for name in ("go.mod", "go.sum"):
            shutil.copy(source / name, BOX / name)


def _patch_policies(source: Path) -> None:
    """Put a changed copy where go.mod looks for it."""
    version = _version_of(source, POLICIES)
    target = source / "third_party" / "kube-network-policies"
    downloaded = json.loads(_go(source.parent, "mod", "download", "-json", f"{POLICIES}@{version}"))
    shutil.copytree(downloaded["Dir"], target)
    _open(target)
    package = target / "pkg" / "dataplane"
    controller = package / "controller.go"
    text, places = QUEUE.subn(
        "queue := queueTarget(uint16(c.config.QueueID), c.config.FailOpen)", controller.read_text()
    )
    if places != QUEUE_PLACES:
        raise SetupError(f"{POLICIES} {version} has the queue in {places} places, and we know {QUEUE_PLACES}.")
    controller.write_text(text)
    shutil.copy(source / "queue.go.txt", package / "queue.go")


def _open(folder: Path) -> None:
    """Make a copy out of the write-protected module cache ours to change."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def _stamp(version: str) -> str:
    """Return linker flags that tell Kubernetes which version it is: without one it refuses to start."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = (f"-X {package}.{name}={value}" for package in packages for name, value in values.items())
    return " ".join(("-s", "-w", *stamps))


def _version_of(source: Path, module: str) -> str:
    required = re.search(rf"^\t{re.escape(module)} (v\S+)", (source / "go.mod").read_text(), re.MULTILINE)
    assert required, f"go.mod does not require {module}"
    return required[1]


def _folder_of(source: Path, module: str) -> Path:
    return Path(_go(source, "list", "-m", "-f", "{{.Dir}}", module).strip())


def _require_go() -> None:
    needed = re.search(r"^go (\S+)", (BOX / "go.mod").read_text(), re.MULTILINE)
    assert needed
    found = run(["go", "env", "GOVERSION"], purpose="Asking for Go's version", cwd=Path("/")).strip().removeprefix("go")
    if _numbers(found) < _numbers(needed[1]):
        raise SetupError(f"Go {needed[1]} or later is needed to build the testbed; {shutil.which('go')} is {found}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _go(folder: Path, *arguments: str, **variables: str) -> str:
    """Run Go, politely: whoever builds is at work on something else meanwhile."""
    # Static programs run in any image; a checkout's own version control has no say.
    flags = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false".strip()
    # The compiler lives for seconds: collecting its garbage less often saves a quarter of its time (docs/testing.md).
    env = {"GOGC": "400", **os.environ, "CGO_ENABLED": "0", "GOFLAGS": flags, "GOWORK": "off", **variables}
    purpose = f"`go {' '.join(arguments[:2])}`"
    return run(["nice", "-n", "10", "go", *arguments], purpose=purpose, cwd=folder, env=env)
