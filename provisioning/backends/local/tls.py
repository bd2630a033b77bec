"""Where an engine's certificate lies on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.backends.engine.tls import Authority, KeyPair, provide_certificate
from provisioning.backends.local.files import write_whole


@dataclass(frozen=True, slots=True)
class KeyPairFiles:
    """Where an engine's certificate chain and private key lie."""

    folder: Path

    @property
    def chain(self) -> Path:
        return self.folder / "chain.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def read(self) -> KeyPair:
        """Return what is there, empty where it is not or cannot be read."""
        return KeyPair(_read(self.chain), _read(self.key))


def ensure_certificate(
    files: KeyPairFiles, authority: Authority, names: list[str], *, owner: tuple[int, int] | None = None
) -> None:
    """Write chain and key unless good ones are there; takes effect when the engine starts.

    `owner` (uid, gid) gets the key, which nobody else may read.
    """
    found = files.read()
    pair = provide_certificate(found, authority, names)
    if pair != found:
        write_whole(files.key, pair.key, mode=0o400, owner=owner)
        write_whole(files.chain, pair.chain, mode=0o444)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
