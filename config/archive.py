"""One encrypted file that holds an installation: its database, and the secrets the database is worthless without.

It is an age file around a tar file, so `age`, `tar`, `sha256sum` and `pg_restore` open it where no Flowplane runs:

    manifest.json       what it holds, so that a refusal costs no reading
    secrets/<name>      one file each
    database/<number>   a pg_dump in custom format, cut into pieces
    SHA256SUMS          of all of the above

Everything is a stream: nothing is ever in clear on a disk, and memory does not grow with the database. No Django in
here: where all is lost, the secrets have to come out before any setting can be loaded. Hence the second door,
`python -m config.archive`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO

import pyrage
from pyrage import x25519

FORMAT = 1
AGE_HEAD = b"age-encryption.org/v1\n"
MANIFEST, SECRETS, DATABASE, SUMS = "manifest.json", "secrets/", "database/", "SHA256SUMS"
# What is in memory at a time; a dump of 500 MB becomes 125 pieces.
PIECE_BYTES = 4 * 1024 * 1024
TAR_BLOCK = 512
# Each becomes a file of this name. Whoever knows the public key can write an archive, so no name may lead elsewhere.
_SECRET_NAME = re.compile(r"[a-z0-9_][a-z0-9_.]*")

Consumer = Callable[[Iterator[bytes]], None]


class Refusal(Exception):
    """A sentence for the operator: what is wrong, where, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        created_at: by the database's clock; what was committed before it is in the archive.
        commit: of the checkout that wrote it; "" where there is none.
        postgres_major: of the server; a server of an older one cannot take the dump.
        migrations: `app.name`, all that were applied.
        rows: table -> how many, in the dump's own snapshot.
        secrets: names, in the order in which they follow.
    """

    format: int = FORMAT
    archive_id: str
    installation: str
    created_at: datetime
    version: str
    commit: str
    postgres_major: int
    migrations: tuple[str, ...]
    rows: Mapping[str, int]
    secrets: tuple[str, ...]

    def __str__(self) -> str:
        moment = f"{self.created_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.installation} as of {moment}, {sum(self.rows.values())} rows of {len(self.rows)} tables"

    def to_json(self) -> bytes:
        """As it stands in the archive."""
        return json.dumps({**asdict(self), "created_at": self.created_at.isoformat()}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Read it back; a format of a later day is refused before anything else is believed."""
        given: dict[str, Any] = json.loads(text)
        if given["format"] > FORMAT:
            raise Refusal(f"The backup is of format {given['format']}, and this Flowplane reads {FORMAT}: use its own.")
        values = {field.name: given[field.name] for field in fields(cls)}
        values["created_at"] = datetime.fromisoformat(given["created_at"])
        for name in ("migrations", "secrets"):
            values[name] = tuple(given[name])
        if strange := [name for name in values["secrets"] if not _SECRET_NAME.fullmatch(name)]:
            raise Refusal(f"The backup names a secret {strange[0]!r}, which no Flowplane does: do not trust it.")
        return cls(**values)


# --- Keys ------------------------------------------------------------------------------------------------------------


def recipients_from(texts: Iterable[str]) -> list[x25519.Recipient]:
    """Public keys, `age1...`: whoever holds one can write backups, and read none."""
    try:
        return [x25519.Recipient.from_str(text.strip()) for text in texts]
    except pyrage.RecipientError:
        raise Refusal(
            "A recipient is a public key that begins with age1: `age-keygen -y IDENTITY` prints it."
        ) from None


def identities_from(path: Path) -> list[x25519.Identity]:
    """Private keys, as `age-keygen` writes them: one a line, beside comments. A refusal does not repeat them."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        identities = [x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise Refusal(f"The identity {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, pyrage.IdentityError):
        identities = []
    if not identities:
        raise Refusal(f"{path} holds no identity: one is a line that begins with AGE-SECRET-KEY-1.")
    return identities


# --- Writing ---------------------------------------------------------------------------------------------------------


def write(
    path: Path,
    manifest: Manifest,
    secrets: Mapping[str, bytes],
    dump: Iterable[bytes],
    *,
    recipients: Sequence[x25519.Recipient],
    check: Consumer,
) -> int:
    """Write an archive and read it back; it appears under its name when it is whole. Returns its size in bytes.

    The reading uses a key of its own that is made here and forgotten on return: the archive is encrypted for it, too,
    so the content is checked to the last byte and still nobody but the recipients can open it later.

    Args:
        check: is handed the dump as it was read back, and raises when it does not like it.

    Raises:
        Refusal: the name is taken, if only meanwhile, or the folder is not there.
        OSError: the disk is full, its file system has no hard links, or worse. What was written is removed.
    """
    witness = x25519.Identity.generate()
    with _unfinished(path) as file:
        _encrypt(_tar(manifest, secrets, dump), file, [*recipients, witness.to_public()])
        file.flush()
        os.fsync(file.fileno())
        unfinished = _unfinished_name(path)
        with opened(unfinished, [witness]) as archive:
            if (archive.manifest, archive.secrets) != (manifest, dict(secrets)):
                raise Refusal(f"{unfinished} does not hold what was written to it: do not trust this disk.")
            check(archive.dump())
        size = unfinished.stat().st_size
        _give_name(unfinished, path)
    _sync_folder(path.parent)
    return size


def _give_name(unfinished: Path, path: Path) -> None:
    """Rename, but never over a file that came in the minutes since the name was free: a second name, then one less."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise _taken(path) from None
    unfinished.unlink()


def _taken(path: Path) -> Refusal:
    return Refusal(f"{path} is there already, and a backup replaces no other: choose another name.")


def _unfinished_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[BufferedWriter]:
    """A file beside the wanted one, locked; removed unless it was renamed. What a killed run left is taken over."""
    if path.exists():
        raise _taken(path)
    name = _unfinished_name(path)
    with _open_unfinished(path, name) as file:
        try:
            file.truncate(0)
            os.fchmod(file.fileno(), 0o600)
            yield file
        except BaseException:
            name.unlink(missing_ok=True)
            raise


def _open_unfinished(path: Path, name: Path) -> BufferedWriter:
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refusal(f"No backup can be written to {path}: {error.strerror} ({error.filename}).") from None
    file = os.fdopen(handle, "wb")
    if not _is_ours_alone(file, name):
        file.close()
        raise Refusal(f"Another backup to {path} is running.")
    if os.fstat(handle).st_nlink == 1:
        return file
    # A run was killed while its archive had both names, and the archive was moved away since: leave it alone.
    with file:
        name.unlink()
    return _open_unfinished(path, name)


def _is_ours_alone(file: BufferedWriter, name: Path) -> bool:
    """Take the lock. Whoever held it may have given the file its final name in between: then it is not ours."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), name.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _sync_folder(folder: Path) -> None:
    """Make the new name outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tar(manifest: Manifest, secrets: Mapping[str, bytes], dump: Iterable[bytes]) -> Iterator[bytes]:
    """The archive in clear, piece by piece."""
    sums = ""
    for name, content in _members(manifest, secrets, dump):
        sums += _sum_line(name, content)
        yield from _member(name, content, manifest.created_at)
    yield from _member(SUMS, sums.encode(), manifest.created_at)
    yield b"\0" * TAR_BLOCK * 2


def _members(manifest: Manifest, secrets: Mapping[str, bytes], dump: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    yield MANIFEST, manifest.to_json()
    for name in manifest.secrets:
        yield SECRETS + name, secrets[name]
    for number, piece in enumerate(dump):
        yield _piece_name(number), piece


def _piece_name(number: int) -> str:
    # Six digits, so that a shell's `cat database/*` has them in order.
    return f"{DATABASE}{number:06}"


def _sum_line(name: str, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def _member(name: str, content: bytes, modified_at: datetime) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o600, int(modified_at.timestamp())
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield content
    yield b"\0" * (-len(content) % TAR_BLOCK)


class _Source:
    """What age reads from. It would put our exceptions into words of its own, so the first one is kept as it was."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.fault: BaseException | None = None

    def read(self, size: int) -> bytes:
        """At most so many bytes; none means the end."""
        try:
            while not self._left:
                self._left = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as error:
            self.fault = error
            raise
        part, self._left = self._left[:size], self._left[size:]
        return bytes(part)


class _Sink:
    """What age writes to. It swallows the exception of its last write (tried: pyrage 1.4.0), so the first is kept."""

    def __init__(self, file: BinaryIO | BufferedWriter) -> None:
        self._file = file
        self.fault: BaseException | None = None

    def write(self, data: bytes) -> int:
        """All of it."""
        try:
            return self._file.write(data)
        except BaseException as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """Nothing: whoever owns the file does it, and hears what goes wrong."""


def _encrypt(pieces: Iterator[bytes], file: BufferedWriter, recipients: Sequence[x25519.Recipient]) -> None:
    source, sink = _Source(pieces), _Sink(file)
    try:
        pyrage.encrypt_io(source, sink, recipients)
    except pyrage.EncryptError:
        if fault := source.fault or sink.fault:
            raise fault from None
        raise
    if sink.fault:
        raise sink.fault


# --- Reading ---------------------------------------------------------------------------------------------------------


class Archive:
    """An archive that is being read, from its beginning to its end, once."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        """Read as far as the database begins.

        Raises:
            Refusal: it opens, but is something else.
        """
        self._path = path
        self._members = _read_members(stream, path)
        self._sums = ""
        try:
            self.manifest = Manifest.from_json(self._next(MANIFEST))
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(f"{path} opens, but is no backup of a Flowplane: its manifest is missing.") from error
        self.secrets = {name: self._next(SECRETS + name) for name in self.manifest.secrets}

    def dump(self) -> Iterator[bytes]:
        """The database's dump; ends only when everything has arrived as it was sent.

        Raises:
            Refusal: it did not. Whatever was made of the pieces so far must be thrown away.
        """
        for number, (name, content) in enumerate(self._members):
            if name == SUMS and content.decode() == self._sums:
                return
            if name != _piece_name(number):
                break
            self._sums += _sum_line(name, content)
            yield content
        raise Refusal(f"{self._path} does not hold what its list of contents says: it is damaged.")

    def _next(self, expected: str) -> bytes:
        name, content = next(self._members, ("", b""))
        if name != expected:
            raise KeyError(expected)
        self._sums += _sum_line(name, content)
        return content


def _read_members(stream: BinaryIO, path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                if not info.isfile() or info.size > PIECE_BYTES:
                    break
                content = tar.extractfile(info)
                assert content is not None
                yield info.name, content.read()
    except tarfile.TarError as error:
        raise Refusal(f"{path} opens, but is no backup of a Flowplane: it holds something else.") from error


@contextlib.contextmanager
def opened(path: Path, identities: Sequence[x25519.Identity]) -> Iterator[Archive]:
    """Decrypt an archive while the block reads it.

    Raises:
        Refusal: not an archive, cut off, damaged, or encrypted for somebody else; each has its own sentence.
    """
    with _decrypted(path, identities) as stream:
        yield Archive(stream, path)
        for _ in iter(lambda: stream.read(PIECE_BYTES), b""):
            pass  # an end that was tampered with is noticed only when it is read


@contextlib.contextmanager
def _decrypted(path: Path, identities: Sequence[x25519.Identity]) -> Iterator[BinaryIO]:
    """age pushes, tar pulls: a pipe and a thread between them."""
    with contextlib.ExitStack() as files:
        source = files.enter_context(_open_source(path))
        reading, writing = os.pipe()
        stream = files.enter_context(os.fdopen(reading, "rb"))
        decryption = _Decryption(source, writing, identities)
        decryption.start()
        try:
            yield stream
        except BaseException as error:
            stream.close()
            decryption.join()
            # Whoever reads sees only that it ends too early; here is why.
            if isinstance(error, Exception) and decryption.fault:
                raise Refusal(decryption.sentence(path)) from error
            raise
        decryption.join()
        if decryption.fault:
            raise Refusal(decryption.sentence(path))


def _open_source(path: Path) -> BufferedReader:
    try:
        file = path.open("rb")
    except OSError as error:
        raise Refusal(f"The backup {path} cannot be read: {error.strerror}.") from None
    head = file.peek(len(AGE_HEAD))[: len(AGE_HEAD)]
    if head == AGE_HEAD:
        return file
    file.close()
    if not head:
        raise Refusal(f"{path} is empty.")
    if AGE_HEAD.startswith(head):
        raise Refusal(f"{path} is cut off: it ends inside its head. Take another backup.")
    raise Refusal(f"{path} is no backup of a Flowplane: those are age files.")


class _Decryption(threading.Thread):
    """Decrypts into a pipe until the end, an error, or until nobody reads any more."""

    def __init__(self, source: BufferedReader, writing: int, identities: Sequence[x25519.Identity]) -> None:
        super().__init__(name="decryption", daemon=True)
        self._source, self._writing, self._identities = source, writing, identities
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Decrypt, and keep what went wrong; a reader that left is no fault."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._writing, "wb") as file:
            sink = _Sink(file)
            try:
                pyrage.decrypt_io(self._source, sink, self._identities)
            except (pyrage.DecryptError, OSError) as error:
                self.fault = None if sink.fault else error

    def sentence(self, path: Path) -> str:
        """What went wrong, in words. The words of age are those of pyrage 1.4.0; tests hold them."""
        said = str(self.fault)
        if "No matching keys" in said:
            return f"The identity does not open {path}: it was encrypted for another one."
        if any(words in said for words in ("Incomplete header", "fill whole buffer")):
            return f"{path} is cut off: it ends inside its head. Take another backup."
        if "decryption error" in said and self._source.read(1):
            return f"{path} is damaged: a part of it is not what was written. Take another backup."
        if "decryption error" in said or "truncated" in said:
            return f"{path} is cut off, or damaged at its very end. Take another backup."
        return f"{path} is damaged in its head ({said}). Take another backup."


# --- The second door -------------------------------------------------------------------------------------------------


def keep_secrets(archive: Archive, folder: Path) -> list[Path]:
    """Write each secret into a file of its own that only we may read. A file that is there must hold the same.

    Raises:
        Refusal: one holds something else; nothing was written then.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = {folder / name: content for name, content in archive.secrets.items()}
    if others := [str(path) for path, content in wanted.items() if path.exists() and path.read_bytes() != content]:
        raise Refusal(f"{', '.join(others)}: there already, with another content. Choose an empty folder.")
    for path, content in wanted.items():
        if not path.exists():
            write_file(path, content)
    return sorted(wanted)


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Make a file that a crash leaves whole or not there; nobody but us may read it unless the mode says so."""
    unfinished = _unfinished_name(path)
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    unfinished.rename(path)
    _sync_folder(path.parent)


def main(argv: Sequence[str] | None = None) -> int:
    """Look into an archive without a database and without settings: read it to its end, or take out its secrets."""
    parser = argparse.ArgumentParser(prog="python -m config.archive", description=main.__doc__)
    parser.add_argument("action", choices=("show", "secrets"))
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="the backup")
    parser.add_argument("--identity", type=Path, required=True, metavar="FILE", help="the private key that opens it")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where `secrets` writes them")
    options = parser.parse_args(argv)
    if (options.action == "secrets") != (options.to is not None):
        parser.error("`secrets` needs --to, and only `secrets` does")
    try:
        with opened(options.source, identities_from(options.identity)) as archive:
            dump_bytes = sum(len(piece) for piece in archive.dump())
            if options.to:
                for path in keep_secrets(archive, options.to):
                    sys.stdout.write(f"{path}\n")
            else:
                sys.stdout.write(f"{archive.manifest.to_json().decode()}\nWhole; {dump_bytes} bytes of dump.\n")
    except (Refusal, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
