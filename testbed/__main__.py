"""`python -m testbed`: build, start, look at and end a Kubernetes of our own, and run a program beside it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.files import alone
from embedded.home import locate
from embedded.processes import passed_on, run_as_command, uninterrupted
from testbed import build, control, definitions, images, node, plane, product, simulated, status
from testbed.bed import Bed, inside_variables, ourselves
from testbed.build import Programs
from testbed.plane import Plane
from testbed.steps import step

if TYPE_CHECKING:
    from collections.abc import Sequence

TIERS = {"control": (), "simulated": ("simulated",), "node": ("node",), "all": ("simulated", "node")}
DEFAULT_HOME = Path("/tmp/flowplane-testbed")
SIMULATED_NODES = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(given)
    return run_as_command(lambda: int(options.action(Bed(options.home.resolve()), options, given)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    home = Path(os.environ.get("TESTBED_HOME", DEFAULT_HOME))
    parser.add_argument("--home", type=Path, default=home, help=f"folder for all state ({home})")
    actions = parser.add_subparsers(required=True)
    make = actions.add_parser("build", help="compile the programs and make the images, unless the cache has them")
    make.set_defaults(action=_build)
    tidy = actions.add_parser("tidy", help="bring go.mod and go.sum in step, after a change to testbed/box")
    tidy.set_defaults(action=_tidy)
    up = actions.add_parser("up", help="start it, or what is missing of it")
    up.add_argument("tier", choices=sorted(TIERS), nargs="?", default="all", help="what to start (all)")
    up.add_argument("--name", default=plane.DEFAULT_NAME, help="of the control plane; others run beside it")
    up.add_argument("--nodes", type=int, default=SIMULATED_NODES, help=f"simulated ones ({SIMULATED_NODES})")
    up.add_argument(
        "--domain", default=plane.DOMAIN, help=f"the region's, whose names lead to the edge ({plane.DOMAIN})"
    )
    up.add_argument(
        "--audited", metavar="GROUP", default="", help="log each request of these users; when first started"
    )
    up.set_defaults(action=_up)
    down = actions.add_parser("down", help="end everything and remove all state")
    down.add_argument("--name", help="end only this control plane")
    down.set_defaults(action=_down)
    ours = actions.add_parser("product", help="make the product's own image and bring it to the node")
    ours.set_defaults(action=_product)
    look = actions.add_parser("status", help="say what runs, where, and in how much memory")
    look.set_defaults(action=_status)
    run = actions.add_parser("run", help="run a program inside, with the testbed's programs on its path")
    run.add_argument("--name", default=plane.DEFAULT_NAME, help="the control plane it is told of")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    run.set_defaults(action=_run)
    around = actions.add_parser("around", help="start it, run a program inside, end everything")
    around.add_argument("--tier", choices=sorted(TIERS), default="all", help="what to start (all)")
    around.add_argument("--product", action="store_true", help="with the product's own image on the node")
    around.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    around.set_defaults(action=_around)
    return parser


def _build(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    programs, archive = _provide()
    print(f"programs: {programs.folder}\nimages:   {archive}\ndefinitions: {definitions.provide(locate().cache)}")
    return 0


def _tidy(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    build.tidy()
    return 0


def _provide() -> tuple[Programs, Path]:
    cache = locate().cache
    cache.mkdir(parents=True, exist_ok=True)
    programs = build.provide(cache)
    return programs, images.provide(cache, programs)


def _up(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    if not bed.is_inside():
        if "node" in TIERS[options.tier]:
            _provide()
        else:
            build.provide(locate().cache)
        definitions.provide(locate().cache)  # for tests, which cannot fetch anything inside
        with step("namespaces"):
            bed.make()
        return _inside(bed, given)
    programs = build.provide(locate().cache)
    with alone(bed.home):
        chosen = plane.provide(bed.planes, programs, options.name, options.domain)
        if "node" in TIERS[options.tier] and chosen.slot != 0:
            raise SetupError("The real node belongs to the first control plane; the others have simulated ones only.")
        control.start(chosen, audited=options.audited)
        if "simulated" in TIERS[options.tier]:
            simulated.start(chosen, options.nodes)
        if "node" in TIERS[options.tier]:
            node.start(bed, chosen, images.provide(locate().cache, programs))
    print(f"kubeconfig: {chosen.kubeconfig}")
    return 0


def _product(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    # Made outside, where packages and wheels can be had; brought in from inside.
    archive = product.provide(locate().cache, build.provide(locate().cache))
    if not bed.is_inside():
        return _inside(bed, given)
    with step("the product's images imported"):
        node.import_images(_named(bed, plane.DEFAULT_NAME), archive)
    return 0


def _down(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    if options.name is None:
        with step(f"ended the testbed in {bed.home}"):
            bed.end()
        return 0
    if not bed.is_inside():
        return _inside(bed, given)
    _named(bed, options.name).remove()
    return 0


def _status(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    if not bed.is_inside():
        if bed.keeper() is None:
            print(f"No testbed runs in {bed.home}.")
            return 1
        return _inside(bed, given)
    for line in status.describe(bed, _planes(bed)):
        print(line)
    return 0


def _run(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise SetupError("Say what to run after `--`.")
    chosen = _named(bed, options.name)
    variables = inside_variables(bed, chosen.programs.folder, chosen.kubeconfig)
    if bed.is_inside():
        os.execvpe(words[0], words, variables)
    return bed.enter_and_run(words, variables)


def _around(bed: Bed, options: argparse.Namespace, given: list[str]) -> int:
    """Start a tier, run a program inside, end everything; a testbed that ran before stays."""
    was_there = bed.keeper() is not None
    home = ["--home", str(bed.home)]
    try:
        # Processes of their own: whoever has entered the testbed cannot end it.
        product_too = [[*home, "product"]] if options.product else []
        for arguments in ([*home, "up", options.tier], *product_too, [*home, "run", *options.command]):
            with subprocess.Popen(ourselves(arguments)) as child, passed_on(child):
                status = child.wait()
            if status != 0:
                return status
        return 0
    finally:
        if not was_there:
            with uninterrupted(), step("ended the testbed"):
                bed.end()


def _inside(bed: Bed, given: list[str]) -> int:
    """Say the same again from inside, where process numbers and addresses are those of the testbed."""
    return bed.enter_and_run(ourselves(given), dict(os.environ))


def _planes(bed: Bed) -> list[Plane]:
    return plane.find_all(bed.planes, build.provide(locate().cache))


def _named(bed: Bed, name: str) -> Plane:
    for one in _planes(bed):
        if one.name == name:
            return one
    raise SetupError(f"No control plane {name!r} in {bed.home}: `python -m testbed up --name {name}` starts it.")


if __name__ == "__main__":
    sys.exit(main())
