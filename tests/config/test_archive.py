"""The archive as a file: what stands in it, who can open it, and what is said of one that is not whole."""

from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyrage
import pytest
from pyrage import x25519

from config import archive
from config.archive import PIECE_BYTES, Manifest, Refusal

ROOT = Path(__file__).parents[2]
SECRETS = {"secret_key": b"canary-5d1f", "ca.pem": b"-----BEGIN CERTIFICATE-----\ncanary-77aa\n"}
# Several pieces, the last one short, of bytes that no compression makes smaller.
DUMP = os.urandom(PIECE_BYTES * 2 + 12_345)
ME, STRANGER = x25519.Identity.generate(), x25519.Identity.generate()


def make_manifest(**overrides: Any) -> Manifest:
    """What an archive of two tables says."""
    fields: dict[str, Any] = {
        "archive_id": str(uuid4()),
        "installation": "https://flowplane.example",
        "created_at": datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC),
        "version": "0.1.0",
        "commit": "",
        "postgres_major": 16,
        "migrations": ("tenants.0001_initial",),
        "rows": {"tenants_user": 3, "django_migrations": 1},
        "secrets": tuple(SECRETS),
        **overrides,
    }
    return Manifest(**fields)


def pieces(content: bytes) -> Iterator[bytes]:
    """As pg_dump's output is read."""
    stream = io.BytesIO(content)
    return iter(lambda: stream.read(PIECE_BYTES), b"")


def exhaust(dump: Iterator[bytes]) -> None:
    """Find everything in order."""
    deque(dump, maxlen=0)


def write(path: Path, dump: Iterator[bytes] | None = None, **overrides: Any) -> Manifest:
    """An archive for ME, unless told otherwise."""
    options = {"recipients": [ME.to_public()], "check": exhaust, **overrides}
    manifest = options.pop("manifest", None) or make_manifest()
    archive.write(path, manifest, SECRETS, pieces(DUMP) if dump is None else dump, **options)
    return manifest


def read(path: Path, identity: Any = ME) -> bytes:
    """The dump in an archive, read to its end."""
    with archive.opened(path, [identity]) as opened:
        return b"".join(opened.dump())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good archive."""
    path = tmp_path_factory.mktemp("archive") / "whole.age"
    write(path)
    return path.read_bytes()


@pytest.fixture
def spoilt(tmp_path: Path) -> Any:
    """`spoilt(content)`: a file with this content."""

    def make(content: bytes) -> Path:
        path = tmp_path / "spoilt.age"
        path.write_bytes(content)
        return path

    return make


# --- What goes in comes out ---


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, len(DUMP)])
def test_what_went_in_comes_out(tmp_path: Path, size: int) -> None:
    manifest = write(tmp_path / "backup.age", pieces(DUMP[:size]))
    with archive.opened(tmp_path / "backup.age", [STRANGER, ME]) as opened:
        assert opened.manifest == manifest
        assert opened.secrets == SECRETS
        assert b"".join(opened.dump()) == DUMP[:size]


def test_each_recipient_opens_it(tmp_path: Path) -> None:
    write(tmp_path / "backup.age", recipients=[ME.to_public(), STRANGER.to_public()])
    assert read(tmp_path / "backup.age", ME) == read(tmp_path / "backup.age", STRANGER) == DUMP


def test_it_is_for_its_owner_only_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "backup.age")
    assert stat.S_IMODE((tmp_path / "backup.age").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["backup.age"]


def test_no_secret_stands_in_it_in_clear(whole: bytes) -> None:
    for secret in (*SECRETS.values(), b"canary", DUMP[:64], b"tenants_user", b"flowplane.example"):
        assert secret not in whole


def test_stock_tools_open_it(tmp_path: Path, whole: bytes) -> None:
    """What `age --decrypt | tar x` leaves; `age` itself stands behind pyrage."""
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(whole, [ME]))) as tar:
        tar.extractall(tmp_path, filter="data")
    script = "sha256sum --quiet --check SHA256SUMS && cat database/*"
    unpacked = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert unpacked.stdout == DUMP
    assert (tmp_path / "secrets/secret_key").read_bytes() == SECRETS["secret_key"]


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    script = (
        "import resource\n"
        "from pathlib import Path\n"
        "from tests.config.test_archive import write, read, exhaust, ME, archive\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "block = bytes(archive.PIECE_BYTES)\n"
        f"write(Path({str(tmp_path / 'large.age')!r}), (block for _ in range(75)))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60, "MiB more, for 300 MiB written and read back"


# --- What is refused, each in its own words ---


def head_length(content: bytes) -> int:
    return content.index(b"\n", content.index(b"\n---") + 1) + 1


@pytest.mark.parametrize("kept", [1, 10, 22, 60, 200])
def test_cut_off_in_its_head(whole: bytes, spoilt: Any, kept: int) -> None:
    with pytest.raises(Refusal, match="is cut off: it ends inside its head"):
        read(spoilt(whole[:kept]))


@pytest.mark.parametrize("more", [0, 8])
def test_cut_off_right_behind_its_head(whole: bytes, spoilt: Any, more: int) -> None:
    with pytest.raises(Refusal, match="is cut off: it ends inside its head"):
        read(spoilt(whole[: head_length(whole) + more]))


@pytest.mark.parametrize("missing", [1, 17, 600, 65_552, 70_000, PIECE_BYTES, PIECE_BYTES * 2])
def test_cut_off_later(whole: bytes, spoilt: Any, missing: int) -> None:
    with pytest.raises(Refusal, match="is cut off, or damaged at its very end"):
        read(spoilt(whole[:-missing]))


@pytest.mark.parametrize("chunk", [1, 20, 100])
def test_cut_off_exactly_between_two_chunks_of_age(whole: bytes, spoilt: Any, chunk: int) -> None:
    with pytest.raises(Refusal, match="is cut off, or damaged at its very end"):
        read(spoilt(whole[: head_length(whole) + 16 + chunk * 65_552]))


def test_something_was_added(whole: bytes, spoilt: Any) -> None:
    with pytest.raises(Refusal, match="is cut off, or damaged at its very end"):
        read(spoilt(whole + b"x"))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(whole: bytes, spoilt: Any, place: float) -> None:
    content = bytearray(whole)
    content[int(len(content) * place)] ^= 1
    with pytest.raises(Refusal, match="is damaged: a part of it is not what was written"):
        read(spoilt(bytes(content)))


def test_a_flipped_bit_in_the_head_is_noticed(whole: bytes, spoilt: Any) -> None:
    content = bytearray(whole)
    content[head_length(whole) - 5] ^= 1
    with pytest.raises(Refusal, match="is damaged in its head"):
        read(spoilt(bytes(content)))


def test_another_identity_does_not_open_it(whole: bytes, spoilt: Any) -> None:
    with pytest.raises(Refusal, match=r"The identity does not open .*: it was encrypted for another one"):
        read(spoilt(whole), STRANGER)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"PGDMP\x01\x0f\x00 a dump in clear", "is no backup of a Flowplane: those are age files"),
        (os.urandom(500), "is no backup of a Flowplane: those are age files"),
    ],
)
def test_not_an_archive(spoilt: Any, content: bytes, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        read(spoilt(content))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"absent\.age cannot be read: No such file"):
        read(tmp_path / "absent.age")


@pytest.mark.parametrize("inside", [b"", b"Dear diary,\n" * 200, bytes(10_240)])
def test_somebody_elses_age_file(spoilt: Any, inside: bytes) -> None:
    with pytest.raises(Refusal, match="opens, but is no backup of a Flowplane"):
        read(spoilt(pyrage.encrypt(inside, [ME.to_public()])))


def tar_of(*members: tuple[str, bytes]) -> bytes:
    """An archive in clear that we did not write."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("database/000000", b"x"), ("SHA256SUMS", b"")],  # sums that are not these
        [("database/000001", b"x")],  # not the first
        [("../../etc/passwd", b"x")],
        [],
    ],
)
def test_a_list_of_contents_that_is_not_true(spoilt: Any, members: list[tuple[str, bytes]]) -> None:
    manifest = ("manifest.json", make_manifest(secrets=()).to_json())
    with pytest.raises(Refusal, match="does not hold what its list of contents says"):
        read(spoilt(pyrage.encrypt(tar_of(manifest, *members), [ME.to_public()])))


def test_a_format_of_a_later_day(tmp_path: Path) -> None:
    later = tmp_path / "later.age"
    later.write_bytes(
        pyrage.encrypt(tar_of(("manifest.json", make_manifest(format=2).to_json())), [ME.to_public()]),
    )
    with pytest.raises(Refusal, match="is of format 2, and this Flowplane reads 1"):
        read(later)


# --- Keys ---


def test_an_identity_file_is_read_as_age_keygen_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text(f"# created: 2026-11-25\n# public key: {ME.to_public()}\n{ME}\n\n{STRANGER}\n")
    assert [str(found) for found in archive.identities_from(path)] == [str(ME), str(STRANGER)]


@pytest.mark.parametrize("content", ["", "# only a comment\n", "AGE-SECRET-KEY-1QQQQ", str(ME.to_public()), "\x00"])
def test_a_file_without_an_identity_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    path = tmp_path / "identity"
    path.write_text(content)
    with pytest.raises(Refusal, match="holds no identity") as refusal:
        archive.identities_from(path)
    assert "QQQQ" not in str(refusal.value)


def test_an_absent_identity_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"identity cannot be read: No such file"):
        archive.identities_from(tmp_path / "identity")


@pytest.mark.parametrize("text", ["", "age1", "bob", str(ME)])
def test_a_recipient_is_a_public_key(text: str) -> None:
    with pytest.raises(Refusal, match="begins with age1"):
        archive.recipients_from([text])


# --- Writing that does not come to its end ---


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "backup.age").write_bytes(b"yesterday's")
    with pytest.raises(Refusal, match="a backup replaces no other"):
        write(tmp_path / "backup.age")
    assert (tmp_path / "backup.age").read_bytes() == b"yesterday's"


def test_a_name_that_is_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[bytes]:
        yield from pieces(DUMP)
        (tmp_path / "backup.age").write_bytes(b"somebody else's")

    with pytest.raises(Refusal, match="a backup replaces no other"):
        write(tmp_path / "backup.age", meanwhile())
    assert (tmp_path / "backup.age").read_bytes() == b"somebody else's"
    assert [path.name for path in tmp_path.iterdir()] == ["backup.age"]


def test_an_archive_that_a_killed_run_left_with_two_names_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "backup.age")
    (tmp_path / ".backup.age.unfinished").hardlink_to(tmp_path / "backup.age")
    (tmp_path / "backup.age").rename(tmp_path / "yesterday.age")
    write(tmp_path / "backup.age", pieces(b"today"))
    assert read(tmp_path / "yesterday.age") == DUMP
    assert read(tmp_path / "backup.age") == b"today"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.age", "yesterday.age"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"No backup can be written to .*: No such file"):
        write(tmp_path / "absent" / "backup.age")


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_dump_that_breaks_off_leaves_nothing_and_its_own_words(tmp_path: Path, after: int) -> None:
    def breaking() -> Iterator[bytes]:
        yield from [bytes(PIECE_BYTES)] * after
        raise Refusal("pg_dump failed.")

    with pytest.raises(Refusal, match=r"^pg_dump failed\.$"):
        write(tmp_path / "backup.age", breaking())
    assert list(tmp_path.iterdir()) == []


def test_a_dump_that_does_not_read_well_leaves_nothing(tmp_path: Path) -> None:
    def displeased(dump: Iterator[bytes]) -> None:
        exhaust(dump)
        raise Refusal("pg_restore failed.")

    with pytest.raises(Refusal, match="pg_restore failed"):
        write(tmp_path / "backup.age", check=displeased)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".backup.age.unfinished").write_bytes(b"x" * 100_000_00)
    write(tmp_path / "backup.age")
    assert read(tmp_path / "backup.age") == DUMP
    assert [path.name for path in tmp_path.iterdir()] == ["backup.age"]


def test_two_at_a_time_do_not_write_into_one_file(tmp_path: Path) -> None:
    def meeting_another() -> Iterator[bytes]:
        with pytest.raises(Refusal, match=r"Another backup to .* is running"):
            write(tmp_path / "backup.age")
        yield from pieces(DUMP)

    write(tmp_path / "backup.age", meeting_another())
    assert read(tmp_path / "backup.age") == DUMP


@pytest.fixture(params=["limit", "tmpfs"] if os.geteuid() == 0 else ["limit"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which a file of more than 1 MiB finds no room: a small disk, or a limit that fails the same way."""
    if request.param == "limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "flowplane-test", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


# age swallows what its last write of at most 64 KiB raises: the file would look whole.
@pytest.mark.parametrize("size", [len(DUMP), (1 << 20) - 4_000, (1 << 20) - 2_000])
def test_a_full_disk_is_said_and_nothing_is_left(small_disk: Path, size: int) -> None:
    with pytest.raises(OSError, match=r"No space left on device|File too large"):
        write(small_disk / "backup.age", pieces(DUMP[:size]))
    assert list(small_disk.iterdir()) == []


# --- The second door ---


def second_door(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Without any setting, as where all is lost."""
    argv = [sys.executable, "-m", "config.archive", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLOWPLANE_", "DJANGO_"))}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity"
    path.write_text(f"{ME}\n")
    return path


def test_the_secrets_come_out_without_any_setting(spoilt: Any, whole: bytes, identity: Path, tmp_path: Path) -> None:
    words = ("secrets", "--from", spoilt(whole), "--identity", identity, "--to", tmp_path / "deep" / "secrets")
    for _ in range(2):  # the same once more is fine
        done = second_door(*words)
        assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "deep" / "secrets"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == SECRETS
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert "canary" not in done.stdout

    (folder / "secret_key").write_text("another")
    (folder / "ca.pem").unlink()
    done = second_door(*words)
    assert done.returncode == 1
    assert f"{folder / 'secret_key'}: there already, with another content" in done.stderr
    assert not (folder / "ca.pem").exists()


@pytest.mark.parametrize("name", ["../outside", "{folder}/outside", "a/../../outside", "..", ".hidden", "", "Upper"])
def test_a_secret_of_a_name_that_leads_elsewhere_is_refused(
    spoilt: Any, identity: Path, tmp_path: Path, name: str
) -> None:
    """Whoever knows the public key can write an archive: it must not choose the files that we write."""
    name = name.format(folder=tmp_path)
    members = (("manifest.json", make_manifest(secrets=(name,)).to_json()), (f"secrets/{name}", b"chosen"))
    sums = "".join(f"{sha256(content).hexdigest()}  {member}\n" for member, content in members)
    path = spoilt(pyrage.encrypt(tar_of(*members, ("SHA256SUMS", sums.encode())), [ME.to_public()]))
    done = second_door("secrets", "--from", path, "--identity", identity, "--to", tmp_path / "deep" / "secrets")
    assert done.returncode == 1
    assert f"The backup names a secret {name!r}, which no Flowplane does" in done.stderr
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["identity", "spoilt.age"]


def test_a_look_inside_reads_it_to_the_end(spoilt: Any, whole: bytes, identity: Path) -> None:
    done = second_door("show", "--from", spoilt(whole), "--identity", identity)
    assert done.returncode == 0
    assert f"Whole; {len(DUMP)} bytes of dump." in done.stdout
    assert "canary" not in done.stdout
    done = second_door("show", "--from", spoilt(whole[:-1]), "--identity", identity)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def test_secrets_are_written_only_when_the_archive_is_whole(
    spoilt: Any, whole: bytes, identity: Path, tmp_path: Path
) -> None:
    done = second_door("secrets", "--from", spoilt(whole[:-1]), "--identity", identity, "--to", tmp_path / "secrets")
    assert done.returncode == 1
    assert not (tmp_path / "secrets").exists()
