"""`make backup` and `make restore`: Flowplane's own database and secrets, whether this home is running or not."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from embedded import certificates, database, keyring
from embedded.environment import base_environment
from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.home import prepare
from embedded.machine import database_up, furnish, wait_for_web
from embedded.processes import run
from embedded.setup import CHECKOUT, VENV
from embedded.supervision import PRODUCT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedded.environment import Ports
    from embedded.home import Home
    from embedded.machine import Machine
    from embedded.supervision import Supervisor


def back_up(home: Home, ports: Ports, to: Path) -> str:
    """Back this home up to a new file and say what is in it. Nothing is interrupted.

    Raises:
        SetupError: there is no home, or the backup was refused.
    """
    if not home.is_ours:
        raise SetupError(f"{home.root} is not a Flowplane home yet: run `make demo` first.")
    machine = furnish(home, ports)
    is_new = not keyring.backup_identity_file(home).exists()
    recipient = keyring.ensure_backup_identity(home)
    with database_up(machine):
        said = machine.manage("owner", "installation_backup", "--to", str(to.absolute()), "--recipient", recipient)
    hint = f"\nThe key that opens it was made just now, and `demo-down PURGE=1` removes it: {keyring.KEEP_ELSEWHERE}"
    return said.strip() + (hint if is_new else "")


def restore(home: Home, ports: Ports, source: Path, identity: Path | None) -> str:
    """Restore a backup into this home, a fresh one or one in use, and say what was done.

    The processes of a running product are stopped for it and started again; engines are left alone. Where nothing ran,
    nothing runs afterwards.

    Raises:
        SetupError: it was refused; the home is as it was. Or a process did not start again.
    """
    prepare(home)
    key = identity or keyring.backup_identity_file(home)
    if not key.exists():
        raise SetupError(f"{key} is not there: name the private key that opens the backup with IDENTITY=FILE.")
    words = ["--from", str(source.absolute()), "--identity", str(key.absolute())]
    _bring_secrets(home, words)
    machine = furnish(home, ports)
    with database_up(machine) as supervisor, _product_stopped(machine, supervisor):
        database.provide_roles(home, machine.parts)
        said = machine.manage("owner", "installation_restore", *words)
    return said.strip()


def _bring_secrets(home: Home, words: list[str]) -> None:
    """Give a home that has no database yet the backup's secrets, before others would be made.

    What the backup does not hold is made anew, the backup store's key among it: the store's data lie in the home, so
    where the home was lost there is nothing left that the old key would open.

    Raises:
        SetupError: it has others, or the backup does not open.
    """
    if home.database_folder.exists():
        return
    places = {name: keyring.secret_file(home, name) for name in keyring.SECRETS}
    # The certificate last: while it is missing, the key counts as not made.
    places |= {"ca.key": certificates.authority_key_file(home), "ca.pem": home.certificate}
    with tempfile.TemporaryDirectory(dir=home.secrets) as folder:
        argv: list[str | Path] = [VENV / "bin" / "python", "-m", "config.archive", "secrets", *words, "--to", folder]
        run(argv, purpose="Reading the backup", cwd=CHECKOUT, env=base_environment())
        held = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    brought = {place: held[name] for name, place in places.items() if name in held}
    if others := [str(place) for place, text in brought.items() if place.exists() and place.read_text() != text]:
        raise SetupError(
            f"This home has secrets of its own that the backup does not know: {', '.join(others)}. Choose a fresh "
            "FLOWPLANE_HOME, or give this one up with `make demo-down PURGE=1`."
        )
    for place, text in brought.items():
        write_whole(place, text, mode=0o644 if place == home.certificate else 0o600)


@contextlib.contextmanager
def _product_stopped(machine: Machine, supervisor: Supervisor | None) -> Iterator[None]:
    """Stop our four processes, if they run, for the length of the block. Engines are nobody's children."""
    if supervisor is None:
        yield
        return
    supervisor.stop(tuple(reversed(PRODUCT)))
    try:
        yield
    finally:
        supervisor.start(PRODUCT)
        wait_for_web(machine.ports)
