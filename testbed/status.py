"""What runs in a testbed, in words and figures. Inside the testbed only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from testbed.bed import NODE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedded.processes import Process
    from testbed.bed import Bed
    from testbed.plane import Plane


def describe(bed: Bed, planes: list[Plane]) -> Iterator[str]:
    """Yield the lines: addresses, where the kubeconfig lies, processes with their memory."""
    folders = list(Path("/proc").glob("[0-9]*"))
    memory = sum(_memory(folder)[1] for folder in folders)
    yield f"testbed in {bed.home}: {len(folders)} processes with {memory:.0f} MiB of their own"
    for plane in planes:
        yield ""
        yield f"control plane {plane.name!r}: {plane.server}"
        yield f"  kubeconfig  {plane.kubeconfig}"
        yield f"  logs        {plane.logs}"
        if plane.running("kubelet"):
            yield f"  node        {NODE_ADDRESS}, names from {plane.name_server}"
            yield f"  edge        *.{plane.domain}:443 at {plane.edge}"
        for component in plane.components():
            process = plane.running(component)
            yield f"  {component:<24} {_words(process) if process else 'ended: look into its log'}"
        if plane.succeeds("get", "--raw", "/readyz"):
            yield from (f"  {line}" for line in plane.kubectl("get", "nodes").splitlines())
            pods = plane.kubectl("get", "pods", "-A", "--no-headers", "--ignore-not-found").splitlines()
            ready = sum(1 for line in pods if " Running " in line)
            yield f"  pods: {ready} running, {len(pods) - ready} others"


def _words(process: Process) -> str:
    resident, own = _memory(process.folder)
    return f"process {process.pid:>6}  {resident:5.0f} MiB resident, {own:4.0f} MiB its own"


def _memory(folder: Path) -> tuple[float, float]:
    """Return resident and anonymous memory in MiB: the components share one file, which counts only once."""
    try:
        lines = (line.split() for line in (folder / "status").read_text().splitlines())
        sizes = {words[0]: int(words[1]) / 1024 for words in lines if words[:1] and words[0] in ("VmRSS:", "RssAnon:")}
    except (OSError, ValueError):
        return 0.0, 0.0
    return sizes.get("VmRSS:", 0.0), sizes.get("RssAnon:", 0.0)
