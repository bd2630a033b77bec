"""The installation's secrets: each made once, in a file of its own that only we may read."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet
from pyrage import x25519

from embedded.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedded.home import Home

SECRETS: dict[str, Callable[[], str]] = {
    "secret_key": lambda: secrets.token_urlsafe(50),
    "master_keys": lambda: Fernet.generate_key().decode(),
    "credential_pepper": lambda: secrets.token_hex(32),
    "backup_s3_secret_key": lambda: secrets.token_hex(24),
}


def ensure_secrets(home: Home) -> None:
    """Make the secrets that are missing; those that exist are never touched, for they protect stored data."""
    for name, make in SECRETS.items():
        path = secret_file(home, name)
        if not path.exists():
            write_whole(path, make(), mode=0o600)


def secret_file(home: Home, name: str) -> Path:
    """Return where a secret lies. Processes are given this path, so that no secret is in anybody's environment."""
    return home.secrets / name


KEEP_ELSEWHERE = (
    "a real installation keeps this key on another machine and gives this one the public half only, so that whoever "
    "breaks in here cannot read old backups, and whoever loses this machine can still restore."
)


def backup_identity_file(home: Home) -> Path:
    """Return where the key that opens this home's backups lies, once it is made."""
    return home.secrets / "backup.identity"


def ensure_backup_identity(home: Home) -> str:
    """Make the key pair of this home's backups once, in the form of `age-keygen`; return the public half."""
    path = backup_identity_file(home)
    if not path.exists():
        pair = x25519.Identity.generate()
        text = f"# Opens the backups of {home.root}. On a laptop it lies here;\n# {KEEP_ELSEWHERE}\n"
        write_whole(path, f"{text}# public key: {pair.to_public()}\n{pair}\n", mode=0o600)
    secret = path.read_text(encoding="utf-8").split()[-1]
    return str(x25519.Identity.from_str(secret).to_public())


@dataclass(frozen=True)
class Login:
    """The demo's own user, and what it made: enough to sign in again and go on with the same cluster."""

    email: str
    password: str
    cluster_id: str = ""


def load_login(home: Home) -> Login | None:
    """Return the login of an earlier demo in this home, or None."""
    path = home.secrets / "demo.json"
    return Login(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def save_login(home: Home, login: Login) -> None:
    write_whole(home.secrets / "demo.json", json.dumps(asdict(login), indent=2) + "\n", mode=0o600)


def make_login() -> Login:
    """Return a fresh login. The address is of a domain that can never receive mail."""
    return Login(email="ada@demo.example", password=secrets.token_urlsafe(15))
