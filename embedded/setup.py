"""Set up what the machine lacks: Debian packages, the virtual environment, front-end files.

Runs on a bare Python before anything is installed, so it uses the standard library only. A second run finds
everything in place and returns at once; a run that was killed half-way is simply repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.files import alone, digest, write_whole
from embedded.processes import INTERRUPTED, interruptible, run

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
# The versions that the tests run on; newest first, because that is what a fresh virtual environment gets.
SUPPORTED = ((3, 12), (3, 11))


@dataclass(frozen=True)
class Tool:
    """A program that no wheel carries, and the Debian packages that bring it."""

    program: str
    packages: tuple[str, ...]
    why: str


MAVEN = Tool("mvn", ("maven",), "fetches the engine")
NPM = Tool("npm", ("nodejs", "npm"), "fetches the console's front-end files")
CHROMIUM = Tool("chromium", ("chromium", "fonts-liberation"), "walks the console in the tests")
FAKETIME = Tool("faketime", ("faketime",), "moves a database's clock in the tests")
DEVELOPMENT = (MAVEN, NPM, CHROMIUM, FAKETIME)
TOOLS = {"embedded": (MAVEN, NPM), "development": DEVELOPMENT, "bench": DEVELOPMENT}


def main(argv: Sequence[str] | None = None) -> int:
    """Set up for running (`embedded`), for tests and checks too (`development`), or for every bench (`bench`)."""
    parser = argparse.ArgumentParser(prog="embedded.setup", description=main.__doc__)
    parser.add_argument("purpose", choices=sorted(TOOLS), nargs="?", default="embedded")
    purpose = parser.parse_args(argv).purpose
    interruptible()
    try:
        set_up(purpose)
    except SetupError as error:
        print(f"Set-up stopped. {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Set-up stopped by an error of the system: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Set-up interrupted; run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    return 0


def set_up(purpose: str) -> None:
    """Bring the machine to what `purpose` needs. One at a time for each checkout."""
    if sys.platform != "linux":
        raise SetupError(f"Flowplane runs on Linux; this is {sys.platform}.")
    with alone(CHECKOUT / "requirements"):
        python = find_python()
        provide_tools(TOOLS[purpose], python)
        provide_virtual_environment(python)
        install_requirements(purpose)
        install_front_end()


def find_python() -> Path:
    """Return an interpreter of a supported version: this one, or another on the PATH.

    Raises:
        SetupError: there is none.
    """
    named = [shutil.which(f"python{major}.{minor}") for major, minor in SUPPORTED]
    for candidate in (sys.executable, *named, "/usr/bin/python3"):
        if candidate and version_of(Path(candidate)) in SUPPORTED:
            return Path(candidate)
    wanted = " or ".join(f"{major}.{minor}" for major, minor in sorted(SUPPORTED))
    raise SetupError(f"Python {wanted} is needed, and none was found on the PATH: install python3 and python3-venv.")


def version_of(python: Path) -> tuple[int, int] | None:
    """Ask an interpreter for its version; None when it does not run (a version manager's stub, a broken link)."""
    question = "import sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def provide_tools(tools: Sequence[Tool], python: Path) -> None:
    """See that every tool is there, from Debian's packages when we are root.

    Raises:
        SetupError: says what to install when we may not, or what apt-get said.
    """
    missing = [tool for tool in tools if shutil.which(tool.program) is None]
    packages = [package for tool in missing for package in tool.packages]
    if not VENV.exists() and not can_make_virtual_environments(python):
        packages.append("python3-venv")
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        reasons = "; ".join(f"{tool.program} {tool.why}" for tool in missing)
        raise SetupError(f"Please install {' '.join(packages)} and try again ({reasons or 'to install wheels'}).")
    print(f"Installing from Debian: {' '.join(packages)}", flush=True)
    install_packages(packages)
    still = [tool.program for tool in tools if shutil.which(tool.program) is None]
    if still:
        raise SetupError(f"After installing {' '.join(packages)}, {' '.join(still)} is still not on the PATH.")


def can_make_virtual_environments(python: Path) -> bool:
    """Tell whether this interpreter brings pip along; Debian's leaves that to python3-venv."""
    return subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages without questions. Needs root."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update"], purpose="Reading Debian's package lists", env=env)
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    run(argv, purpose=f"Installing {' '.join(packages)}", env=env)


def provide_virtual_environment(python: Path) -> None:
    """Make .venv, or make it anew when it is half-made or of another Python."""
    interpreter = VENV / "bin" / "python"
    if (VENV / "bin" / "pip").exists() and version_of(interpreter) in SUPPORTED:
        return
    print(f"Making {VENV}", flush=True)
    run([python, "-m", "venv", "--clear", VENV], purpose="Making the virtual environment", cwd=CHECKOUT)


def install_requirements(purpose: str) -> None:
    """Install exactly the locked wheels, each checked against its hash."""
    lock = CHECKOUT / "requirements" / f"{purpose}.txt"
    stamp = VENV / f".installed-{purpose}"
    if is_current(stamp, lock):
        return
    print(f"Installing {lock.relative_to(CHECKOUT)} (a few minutes the first time)", flush=True)
    argv: list[str | Path] = [
        VENV / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--requirement",
        lock,
    ]
    # A personal "always --user" would be refused inside a virtual environment.
    run(argv, purpose="Installing the locked wheels", cwd=CHECKOUT, env={**os.environ, "PIP_USER": "0"})
    write_whole(stamp, digest(lock.read_bytes()))


def install_front_end() -> None:
    """Install exactly the locked front-end files; their install scripts are not run."""
    lock = CHECKOUT / "package-lock.json"
    modules = CHECKOUT / "node_modules"
    stamp = modules / ".installed"
    if is_current(stamp, lock):
        return
    print("Installing the console's front-end files", flush=True)
    argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    run(argv, purpose="Installing the front-end files", cwd=CHECKOUT)
    write_whole(stamp, digest(lock.read_bytes()))


def is_current(stamp: Path, lock: Path) -> bool:
    """Tell whether this very lock file was installed to its end."""
    return stamp.exists() and stamp.read_text(encoding="utf-8") == digest(lock.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
