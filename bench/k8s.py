"""`make bench-k8s`: what our engine clusters cost on Kubernetes, beside Helm, a bare client and an operator on kopf.

    python -m bench.k8s [--figure one|healthy|burst|fleet|fair ...] [--tenants 300] [--pairs 9] [--minutes 2]
                        [--steps 10 100] [--regions 1]

As root. Each figure has a testbed of its own, fresh, with simulated nodes (`healthy`: a real one), and a PostgreSQL
that waits for the disk. Requests are counted by the API server's own log; CPU by the kernel. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.k8s_place import GROUP, OURS, PLANES, REGIONS, make_accounts, planes
from embedded.errors import SetupError
from embedded.processes import end_session, interruptible, passed_on, uninterrupted
from embedded.setup import CHECKOUT
from embedded.testbench import Testbench
from testbed.bed import Bed, ourselves
from testbed.simulated import SCHEDULING
from tests.kubernetes import Kubernetes

FIGURES = ("one", "healthy", "burst", "fleet", "fair")
# Here real engines run, on the one real node.
REAL = "healthy"
NODES = 5
# A node has room for three hundred.
TENANTS_OF_A_NODE = 200
# What a region would say of itself.
VALUES = {
    "image": {"pullPolicy": "IfNotPresent"},
    "networkPolicy": {
        "clientsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flowplane-edge"}}}]
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each figure in a testbed of its own."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = options_parser().parse_args(given)
    interruptible()
    if options.home is not None and Bed(options.home).is_inside():
        return _inside(options, given)
    if "burst" in options.figure and importlib.util.find_spec("kopf") is None:
        raise SetupError("kopf is missing: `python -m embedded.setup bench` brings it.")
    for figure in options.figure:
        status = _in_a_testbed(figure, options, given)
        if status:
            return status
    return 0


def options_parser() -> argparse.ArgumentParser:
    """Return what reads the options, here and in the process that measures."""
    parser = argparse.ArgumentParser(prog="bench.k8s", description=__doc__)
    parser.add_argument("--figure", nargs="+", choices=FIGURES, default=["one"], help="which ones (one)")
    parser.add_argument("--tenants", type=int, default=300, help="of a burst, and of the largest fleet (300)")
    parser.add_argument("--pairs", type=int, default=9, help="rounds of what is measured side by side (9)")
    parser.add_argument("--block", type=int, default=30, help="tenants of a burst in each such round (30)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long a fleet is watched at rest (2)")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[10, 100], help="smaller fleets that are watched before (10 100)"
    )
    parser.add_argument(
        "--regions", type=int, choices=(1, 2), default=1, help="that a fleet is in; two: only at rest (1)"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes (1)")
    parser.add_argument("--budget", type=int, help="requests a second that a process may make (the product's own)")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    return parser


def _in_a_testbed(figure: str, options: argparse.Namespace, given: Sequence[str]) -> int:
    home = Path(tempfile.mkdtemp(prefix="flowplane-bench-", dir="/tmp")) / "bed"
    bed = Bed(home)
    place = ["--home", str(home)]
    try:
        nodes = max(NODES, math.ceil(options.tenants / options.regions / TENANTS_OF_A_NODE))
        tier = ["node"] if figure == REAL else ["simulated", "--nodes", str(nodes)]
        for name in PLANES[: options.regions]:
            up = ["up", *tier, "--name", name, "--audited", GROUP]
            subprocess.run(ourselves([*place, *up]), check=True, stdout=subprocess.DEVNULL)
        words = [sys.executable, "-m", "bench.k8s", *given, "--figure", figure, *place]
        with subprocess.Popen(ourselves([*place, "run", "--", *words])) as child, passed_on(child):
            return child.wait()
    finally:
        with uninterrupted():
            bed.end()
            home.parent.rmdir()


def _inside(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Bring the servers up inside the testbed, and measure in a process of the product's."""
    bench = Testbench()
    try:
        bench.start(durable=True)
        bench.migrate()
        folder, values = bench.home.root / "kubeconfigs", bench.home.root / "values"
        folder.mkdir()
        values.mkdir()
        # Simulated pods go only where they ask to.
        told = VALUES if options.figure == [REAL] else {**VALUES, "scheduling": SCHEDULING}
        # The first region's last: the sides that are compared find its accounts under their own names.
        for region, plane in reversed(list(zip(REGIONS, planes(options.home), strict=False))):
            make_accounts(Kubernetes(plane / "admin.kubeconfig"), folder)
            shutil.copy(folder / f"{OURS}.yaml", folder / f"{region}.yaml")
            (values / f"{region}.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
        return _measure(bench, folder, values, options, given)
    finally:
        with uninterrupted():
            bench.stop()


def _measure(
    bench: Testbench, kubeconfigs: Path, values: Path, options: argparse.Namespace, given: Sequence[str]
) -> int:
    helm = shutil.which("helm")
    assert helm is not None, "the testbed brings helm"
    variables = bench.environment("system")
    # No store: backups are not what is measured.
    variables = {name: value for name, value in variables.items() if not name.startswith("FLOWPLANE_BACKUP_S3_")}
    variables |= {
        "FLOWPLANE_KUBECONFIG_DIR": str(kubeconfigs),
        "FLOWPLANE_REGION_VALUES_DIR": str(values),
        "FLOWPLANE_HELM": helm,
        "FLOWPLANE_ENGINE_IMAGE": "localhost/zeebe",
        "BENCH_POSTGRES": str(bench.home.postgres),
        "BENCH_LOGS": str(bench.home.logs),
    }
    if options.budget:
        variables["FLOWPLANE_REGION_REQUESTS_PER_SECOND"] = str(options.budget)
    argv = [sys.executable, "-m", "bench.k8s_inside", *given]
    child = subprocess.Popen(argv, cwd=CHECKOUT, env=variables, start_new_session=True)
    try:
        with passed_on(child):
            return child.wait()
    finally:
        end_session(child)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
