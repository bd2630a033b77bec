"""The one folder that holds all state, and the one that holds the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.accounts import Account, require_passage, service_account
from embedded.errors import SetupError
from embedded.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKER = ".flowplane-home"
MARKER_TEXT = "All state of one Flowplane. `make demo-down PURGE=1` removes this folder.\n"
# Linux keeps a unix socket's path in 108 bytes, the last of them zero.
MAX_SOCKET_PATH_BYTES = 107
# Supervisor binds its socket under this name first and moves it then.
MAX_PID = "4194304"


@dataclass(frozen=True)
class Home:
    """Where everything lies. `account` runs database, broker and engines; None means the invoking user does."""

    root: Path
    cache: Path
    account: Account | None = None

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def authority(self) -> Path:
        return self.root / "ca"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def database_folder(self) -> Path:
        return self.postgres / "data"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def broker_socket(self) -> Path:
        return self.redis / "redis.sock"

    @property
    def store(self) -> Path:
        """What the backup store keeps: its key, and `data` with a folder for each bucket."""
        return self.root / "store"

    @property
    def region(self) -> Path:
        return self.root / "region"

    @property
    def mailbox(self) -> Path:
        return self.root / "mailbox"

    @property
    def demo(self) -> Path:
        """What the demo's own customer keeps: its env file and its ledger."""
        return self.root / "demo"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def certificate(self) -> Path:
        return self.authority / "ca.pem"

    @property
    def is_ours(self) -> bool:
        """Only a folder that carries our marker is ever emptied."""
        return (self.root / MARKER).is_file()


def locate(environ: Mapping[str, str] | None = None) -> Home:
    """Return the home that the environment names, or this user's own. Touches nothing on disk."""
    environ = os.environ if environ is None else environ
    root = _folder(environ, "FLOWPLANE_HOME", "XDG_STATE_HOME", system="/var/lib", personal="~/.local/state")
    cache = _folder(environ, "FLOWPLANE_CACHE", "XDG_CACHE_HOME", system="/var/cache", personal="~/.cache")
    if root == cache or root in cache.parents or cache in root.parents:
        raise SetupError(f"FLOWPLANE_HOME ({root}) and FLOWPLANE_CACHE ({cache}) must be folders side by side.")
    return Home(root, cache, service_account())


def _folder(environ: Mapping[str, str], variable: str, xdg: str, *, system: str, personal: str) -> Path:
    if given := environ.get(variable):
        folder = Path(given).expanduser()
        if not folder.is_absolute():
            raise SetupError(f"{variable} is {given}: give it as an absolute path.")
        # Symbolic links are followed once, here: sockets, working directories and modes are those of the real folder.
        return folder.resolve()
    base = Path(system) if os.geteuid() == 0 else Path(environ.get(xdg) or personal).expanduser()
    return (base / "flowplane").resolve()


def prepare(home: Home) -> None:
    """Make the folders with their owners and modes. Nothing outside the home and the cache is changed.

    Raises:
        SetupError: the folder belongs to something else, is out of the service user's reach, or its name is too long.
    """
    _require_short_names(home)
    _require_ours_or_empty(home)
    for folder, variable in ((home.root, "FLOWPLANE_HOME"), (home.cache, "FLOWPLANE_CACHE")):
        _make_with_parents(folder, variable)
        require_passage(folder.parent, home.account, variable=variable)
        folder.chmod(0o755)
    write_whole(home.root / MARKER, MARKER_TEXT)
    for folder in (home.authority, home.region):
        _make(folder, 0o755)
    for folder in (home.secrets, home.mailbox, home.logs, home.run):
        _make(folder, 0o700)
    for folder in (home.postgres, home.redis, home.store):
        _make(folder, 0o700, home.account)


def purge(home: Home) -> None:
    """Remove the state, for good; a folder without our marker is refused. The cache stays."""
    if not home.root.exists():
        return
    if not home.is_ours:
        raise SetupError(f"{home.root} does not carry {MARKER}, so it is not ours to remove.")
    # The marker goes last, so that a removal that was cut short can be repeated.
    for entry in sorted(home.root.iterdir(), key=lambda path: path.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    # A mounted folder stays, empty.
    with contextlib.suppress(OSError):
        home.root.rmdir()


def _require_short_names(home: Home) -> None:
    longest = max(
        (home.postgres / ".s.PGSQL.5432", home.broker_socket, Path(f"{home.supervisor_socket}.{MAX_PID}")),
        key=lambda path: len(os.fsencode(path)),
    )
    excess = len(os.fsencode(longest)) - MAX_SOCKET_PATH_BYTES
    if excess > 0:
        raise SetupError(
            f"FLOWPLANE_HOME is too long by {excess} bytes: the socket {longest} must fit into "
            f"{MAX_SOCKET_PATH_BYTES} bytes. Choose a shorter folder."
        )


def _require_ours_or_empty(home: Home) -> None:
    if home.root.exists() and not home.is_ours and any(home.root.iterdir()):
        raise SetupError(
            f"FLOWPLANE_HOME is {home.root}, which holds files that are not Flowplane's. Choose a folder of its own."
        )


def _make_with_parents(folder: Path, variable: str) -> None:
    """Make a folder with the parents it lacks, open to all whatever the umask; the parents that exist stay as is."""
    try:
        for step in (*reversed(folder.parents), folder):
            if not step.exists():
                step.mkdir()
                step.chmod(0o755)
    except OSError as error:
        raise SetupError(
            f"{variable} is {folder}, which cannot be made: {error.strerror} ({error.filename})."
        ) from error


def _make(folder: Path, mode: int, owner: Account | None = None) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    if owner is not None:
        os.chown(folder, owner.uid, owner.gid)
