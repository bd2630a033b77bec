"""The image of the product, and servers for a trial of it: Debian's Python, PostgreSQL and Redis, our lock's wheels.

An archive of its own, because it changes with every line of ours, and the engines' images do not.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from embedded.errors import SetupError
from embedded.files import digest
from embedded.processes import run
from embedded.setup import CHECKOUT, VENV
from testbed import images, oci
from testbed.build import Programs
from testbed.oci import Image
from testbed.shelf import keep
from testbed.steps import step

FLOWPLANE = "localhost/flowplane:dev"
SERVERS = "localhost/trial-servers:testbed"
# The Debian whose Python is the one we develop on; trixie's is newer than pyproject.toml allows.
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = "bash,ca-certificates,curl,postgresql-15,procps,python3,redis-server"
CODE = ("billing", "charts", "common", "config", "console", "provisioning", "tenants", "manage.py")
FRONTEND = ("node_modules/@tabler/core/dist", "node_modules/htmx.org/dist")
HOME, WHEELS = "/srv/flowplane", "/srv/wheels"
USER, SERVERS_USER = 1001, 999
ACCOUNTS = (
    f'chroot "$1" useradd --uid {USER} --user-group --no-create-home flowplane && '
    f'chroot "$1" usermod --uid {SERVERS_USER} postgres && ln -s python3 "$1/usr/bin/python"'
)
LOCK = CHECKOUT / "requirements" / "runtime.txt"


def provide(cache: Path, programs: Programs) -> Path:
    """Return the archive with both images, made when our code has changed (half a minute; the first time three).

    Raises:
        SetupError: a package, a wheel or the front-end's files cannot be had.
    """
    if missing := [name for name in FRONTEND if not (CHECKOUT / name).is_dir()]:
        raise SetupError(f"{missing[0]} is missing: `make setup` fetches it.")
    rootfs = keep(cache, "product-rootfs", [part.encode() for part in (SUITE, PACKAGES, ACCOUNTS)], _make_rootfs)
    wheels = keep(cache, "product-wheels", [LOCK.read_bytes(), PYTHON.encode()], _make_wheels)
    inputs = [rootfs.name.encode(), wheels.name.encode(), programs.folder.name.encode(), _digest_of_code()]

    def make(folder: Path) -> None:
        _write_images(folder, rootfs, wheels, programs)

    return keep(cache, "product-images", inputs, make) / "images.oci.tar"


def _sources() -> list[Path]:
    """Return our files, those that Python makes of them left out."""
    found = [path for name in CODE for path in (CHECKOUT / name, *sorted((CHECKOUT / name).rglob("*")))]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _digest_of_code() -> bytes:
    frontend = (CHECKOUT / "package-lock.json").read_bytes()
    parts = [part for path in _sources() for part in (str(path.relative_to(CHECKOUT)).encode(), path.read_bytes())]
    return digest(frontend, *parts).encode()


def _make_rootfs(folder: Path) -> None:
    images.make_rootfs(folder / "rootfs.tar", SUITE, PACKAGES, ACCOUNTS)


def _make_wheels(folder: Path) -> None:
    """Install the lock file's wheels, for the image's Python, into a folder."""
    argv = [
        str(VENV / "bin" / "uv"),
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    argv += ["--python-version", PYTHON, "--python-platform", "x86_64-unknown-linux-gnu"]
    argv += ["--target", str(folder / "wheels"), "--requirement", str(LOCK)]
    with step("fetched the product's wheels"):
        run(argv, purpose="Fetching the product's wheels", cwd=folder)
    _compile(folder / "wheels")


def _compile(folder: Path) -> None:
    """Compile beforehand, without a date that the layer would change: nothing can be written in the image."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        print(f"    Not compiled, because this is not Python {PYTHON}: processes start more slowly.")
        return
    argv = ["nice", sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)]
    run(argv, purpose="Compiling the product's code", cwd=folder)


def _write_images(folder: Path, rootfs: Path, wheels: Path, programs: Programs) -> None:
    code = folder / "code"
    for path in _sources():
        target = code / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _compile(code)
    frontend = [(CHECKOUT / name, f"{HOME}/{name}") for name in FRONTEND]
    below = oci.write_layer(folder / "wheels.tar", [(wheels / "wheels", WHEELS)])
    helm = oci.write_layer(folder / "helm.tar", [(programs.folder / "helm", "/usr/local/bin/helm")])
    ours = oci.write_layer(folder / "code.tar", [(code, HOME), *frontend])
    flowplane = Image(
        FLOWPLANE,
        [rootfs / "rootfs.tar", below, helm, ours],
        command=["python", "manage.py", "help"],
        user=f"{USER}:{USER}",
        folder=HOME,
        variables={"PYTHONPATH": WHEELS, "LC_ALL": "C.UTF-8"},
    )
    servers = Image(SERVERS, [rootfs / "rootfs.tar"], command=["bash"], user=f"{SERVERS_USER}:{SERVERS_USER}")
    oci.write_archive(folder / "images.oci.tar", [flowplane, servers])
    for layer in (below, helm, ours):
        layer.unlink()
    shutil.rmtree(code)
