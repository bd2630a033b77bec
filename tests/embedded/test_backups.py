"""`make backup` and `make restore`: beside a running product, in a stopped home, and into a fresh one."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pyrage import x25519

from config.archive import recipients_from, write
from embedded import keyring
from embedded.environment import Ports, base_environment, chosen_settings
from embedded.home import Home, locate, prepare
from embedded.machine import furnish, held, running, take_down
from embedded.setup import CHECKOUT
from embedded.supervision import PRODUCT
from tests.config.test_archive import exhaust, make_manifest
from tests.embedded.test_demo import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedded.supervision import Supervisor

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

ORGANIZATION = "INSERT INTO tenants_organization (id, name) VALUES (gen_random_uuid(), %s)"


class Laptop:
    """A home, and the two commands."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ports = Ports(*free_ports(3))

    def command(self, *words: str | Path) -> tuple[int, str]:
        """`python -m embedded ...`, as make runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "embedded", *map(str, words)],
            cwd=CHECKOUT,
            env={**base_environment(), **chosen_settings(self.home, self.ports, {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    @contextlib.contextmanager
    def demonstrating(self) -> Iterator[Supervisor]:
        """The product, running as `make demo` runs it."""
        prepare(self.home)
        with held(self.home):
            machine = furnish(self.home, self.ports)
            with running(machine, lambda _title: contextlib.nullcontext()) as supervisor:
                yield supervisor

    def organizations(self) -> list[str]:
        """What the database holds; it must be running."""
        with self.connect() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM tenants_organization ORDER BY 1")]

    def add(self, name: str) -> None:
        """Write something into the running database."""
        with self.connect() as connection:
            connection.execute(ORGANIZATION, [name])

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(f"host={self.home.postgres} user=flowplane_owner dbname=flowplane", autocommit=True)

    def is_quiet(self) -> bool:
        """Whether neither database nor supervisor runs."""
        sockets = (self.home.postgres / ".s.PGSQL.5432", self.home.supervisor_socket)
        return not any(socket.exists() for socket in sockets)


@pytest.fixture
def laptop(folder: Path, home: Home) -> Iterator[Laptop]:
    laptop = Laptop(Home(home.root, locate().cache, home.account))
    yield laptop
    take_down(laptop.home, laptop.ports, with_state=True)


@contextlib.contextmanager
def engine(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Something that runs in the region's folder, as an engine does."""
    with subprocess.Popen(["sleep", "600"], cwd=home.region, start_new_session=True) as process:
        yield process
        process.kill()


def test_back_and_forth_beside_a_running_product_then_stopped_then_in_a_fresh_home(
    laptop: Laptop, folder: Path
) -> None:
    archive, identity = folder / "one.age", folder / "identity"
    with laptop.demonstrating() as supervisor, engine(laptop.home) as neighbour:
        laptop.add("Kept")
        before = {name: supervisor.pid_of(name) for name in (*PRODUCT, "postgres", "redis")}
        status, said = laptop.command("backup", "--to", archive)
        assert status == 0, said
        assert "read back and whole" in said
        assert "a real installation keeps this key on another machine" in said
        assert {name: supervisor.pid_of(name) for name in before} == before, "a backup interrupts nothing"
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600

        laptop.add("Lost")
        status, said = laptop.command("restore", "--from", archive)
        assert status == 0, said
        assert "The former database is kept as flowplane_replaced_" in said
        assert laptop.organizations() == ["Kept"]
        assert set(supervisor.states().values()) == {"RUNNING"}
        after = {name: supervisor.pid_of(name) for name in before}
        assert [name for name in before if after[name] == before[name]] == ["postgres", "redis"]
        assert neighbour.poll() is None, "engines are left alone"

    # Stopped: what is needed runs for as long as it is needed.
    second = folder / "two.age"
    with engine(laptop.home) as neighbour:
        status, said = laptop.command("backup", "--to", second)
        assert status == 0, said
        assert "another machine" not in said, "the key was there"
        status, said = laptop.command("restore", "--from", second)
        assert status == 0, said
        assert neighbour.poll() is None
    assert laptop.is_quiet()

    # The machine is lost, the key was kept elsewhere.
    identity.write_bytes(keyring.backup_identity_file(laptop.home).read_bytes())
    secrets = {name: keyring.secret_file(laptop.home, name).read_text() for name in keyring.SECRETS}
    stores_key = secrets.pop("backup_s3_secret_key")
    authority = laptop.home.certificate.read_text()
    take_down(laptop.home, laptop.ports, with_state=True)

    status, said = laptop.command("restore", "--from", second)
    assert status == 1
    assert "name the private key that opens the backup with IDENTITY=FILE" in said
    status, said = laptop.command("restore", "--from", second, "--identity", identity)
    assert status == 0, said
    assert laptop.is_quiet()
    assert {name: keyring.secret_file(laptop.home, name).read_text() for name in secrets} == secrets
    # Whatever the old one opened was lost with the home.
    assert keyring.secret_file(laptop.home, "backup_s3_secret_key").read_text() != stores_key
    assert laptop.home.certificate.read_text() == authority
    with laptop.demonstrating():  # the store, web, clock and watch start on it
        assert laptop.organizations() == ["Kept"]


def test_a_home_with_other_secrets_is_left_as_it_is(laptop: Laptop, folder: Path) -> None:
    prepare(laptop.home)
    furnish(laptop.home, laptop.ports)
    recipient = keyring.ensure_backup_identity(laptop.home)
    secrets = dict.fromkeys((*keyring.SECRETS, "ca.key", "ca.pem"), b"another")
    manifest = make_manifest(secrets=tuple(secrets))
    write(folder / "one.age", manifest, secrets, [], recipients=recipients_from([recipient]), check=exhaust)
    ours = keyring.secret_file(laptop.home, "master_keys").read_text()
    status, said = laptop.command("restore", "--from", folder / "one.age")
    assert status == 1
    assert "This home has secrets of its own that the backup does not know" in said
    assert keyring.secret_file(laptop.home, "master_keys").read_text() == ours
    assert not laptop.home.database_folder.exists()


def test_an_archive_that_does_not_open_leaves_a_fresh_home_without_secrets(laptop: Laptop, folder: Path) -> None:
    broken, identity = folder / "broken.age", folder / "identity"
    broken.write_bytes(b"age-encryption.org/v1\n" + os.urandom(200))
    identity.write_text(str(x25519.Identity.generate()))
    status, said = laptop.command("restore", "--from", broken, "--identity", identity)
    assert status == 1
    assert "damaged in its head" in said
    assert list(laptop.home.secrets.iterdir()) == []


def test_nothing_to_back_up(laptop: Laptop, folder: Path) -> None:
    status, said = laptop.command("backup", "--to", folder / "one.age")
    assert status == 1
    assert "is not a Flowplane home yet" in said


def test_a_demo_that_is_just_starting_is_waited_for_by_the_person(laptop: Laptop, folder: Path) -> None:
    prepare(laptop.home)
    with held(laptop.home):
        status, said = laptop.command("backup", "--to", folder / "one.age")
    assert status == 1
    assert "is just starting or stopping. Try again in a moment" in said


def test_the_key_pair_is_made_once_and_only_we_may_read_it(home: Home) -> None:
    prepare(home)
    recipient = keyring.ensure_backup_identity(home)
    path = keyring.backup_identity_file(home)
    assert recipient.startswith("age1")
    assert keyring.ensure_backup_identity(home) == recipient
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"# public key: {recipient}\n" in path.read_text()
