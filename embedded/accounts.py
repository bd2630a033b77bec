"""The service user that runs database and engines when the invoking user is root. Standard library only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.processes import identity, run

if TYPE_CHECKING:
    from pathlib import Path

SERVICE_USER = "flowplane"


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def find(name: str) -> Account | None:
    """Return the user of that name, or None."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def invoking_user() -> str:
    """Return our own name, as PostgreSQL's peer authentication will see it."""
    return pwd.getpwuid(os.geteuid()).pw_name


def service_account() -> Account | None:
    """Return the user that services run as, made when missing; None when we are not root and run them ourselves.

    Raises:
        SetupError: the user cannot be created.
    """
    if os.geteuid() != 0:
        return None
    account = find(SERVICE_USER)
    if account is None:
        _create(SERVICE_USER)
        account = find(SERVICE_USER)
    assert account is not None
    return account


def _create(name: str) -> None:
    """Add a system user without a home, a shell or a password."""
    useradd = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if useradd is None:
        raise SetupError(f"Database and engines must not run as root, and useradd is missing: create a user {name}.")
    argv = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    run([*argv, "--shell", "/usr/sbin/nologin", name], purpose=f"Creating the system user {name}")


def require_passage(folder: Path, account: Account | None, *, variable: str) -> None:
    """Refuse a folder that `account` cannot reach. Changes nothing: other people's folders keep their modes.

    Raises:
        SetupError: names the first closed folder on the way and the two ways out.
    """
    if account is None:
        return
    for step in (*reversed(folder.parents), folder):
        if step.exists() and not _may_enter(step, account):
            raise SetupError(
                f"{variable} is {folder}, but the user {account.name}, who runs database and engines, may not enter "
                f"{step}. Choose another folder with {variable}=..., or open {step} yourself (chmod o+x {step})."
            )


def _may_enter(folder: Path, account: Account) -> bool:
    """Ask the kernel as that user, so that groups, access lists and mounts all count."""
    test = shutil.which("test") or "/usr/bin/test"
    finished = subprocess.run([test, "-x", str(folder)], check=False, cwd="/", **identity(account))
    return finished.returncode == 0
