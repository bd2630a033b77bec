"""Backup and restore of the installation itself, by the commands that an operator types, on a server of their own."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg import sql
from pyrage import x25519

from bench.crowd import fill
from config import archive
from config.database_server import PROCESSES
from embedded import certificates, keyring
from embedded.setup import CHECKOUT
from embedded.testbench import Testbench
from tests.e2e.canaries import spellings

pytestmark = pytest.mark.timeout(600)

# Enough for a restore to take a second or so, in which it can be killed.
CLUSTERS = 300
EVENT = "INSERT INTO tenants_auditevent (id, actor_kind, actor_id, actor_label, source_address, request_id, action, \
target_kind, target_id, changes) VALUES (gen_random_uuid(), 'system', '', %s, '', '', 'test.noted', 'test', '', '{}')"

# Of a cluster in a restored database, what is not as it was: it is on hold, and turns begun before count no more.
HELD = ["hold", "due_at", "lease_epoch", "lease_expires_at"]
# What a restore writes into: the trail, and that the database is set back.
MARKED = {"tenants_auditevent", "provisioning_cluster", "provisioning_installation"}

CASTS = re.compile(r"::(character varying|text)(\[\])?|[()]")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    said: str


class Installation:
    """A migrated database with people and clusters in it, its secrets, and the commands on both."""

    def __init__(self, bench: Testbench) -> None:
        self.bench = bench
        self.files = bench.home.root
        self.recipient = keyring.ensure_backup_identity(bench.home)
        self.identity = keyring.backup_identity_file(bench.home)

    def environment(self, role: str = "owner", **overrides: str) -> dict[str, str]:
        """A process's environment; `MASTER_KEYS_FILE=...` replaces a setting."""
        return {
            **self.bench.environment(role),
            **{f"FLOWPLANE_{name}": value for name, value in overrides.items()},
        }

    def start(self, *words: str | Path, role: str = "owner", **overrides: str) -> subprocess.Popen[str]:
        """A command, running."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *map(str, words)],
            cwd=CHECKOUT,
            env=self.environment(role, **overrides),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str | Path, role: str = "owner", **overrides: str) -> Done:
        """A command, at its end."""
        with self.start(*words, role=role, **overrides) as running:
            said = running.communicate()[0]
        assert "Traceback" not in said, said
        return Done(running.returncode, said)

    def run_script(self, script: str) -> subprocess.CompletedProcess[str]:
        """Lines of Python in a process of their own, with the settings of a command, at their end."""
        return subprocess.run(
            [sys.executable, "-c", script],
            cwd=CHECKOUT,
            env={**self.environment(), "DJANGO_SETTINGS_MODULE": "config.settings"},
            capture_output=True,
            text=True,
            check=False,
        )

    def new_name(self) -> Path:
        """A file that is not there yet."""
        return self.files / f"{uuid4().hex[:8]}.age"

    def back_up(self, **overrides: str) -> Path:
        """A new archive, and a database that does not tell of it."""
        path = self.new_name()
        done = self.run("installation_backup", "--to", path, "--recipient", self.recipient, **overrides)
        assert done.status == 0, done.said
        self.forget("installation.backed_up")
        return path

    def forget(self, action: str) -> None:
        """Take something out of the trail."""
        with self.connect() as connection:
            connection.execute("DELETE FROM tenants_auditevent WHERE action = %s", [action])

    def restoring(self, path: Path, *flags: str) -> tuple[str | Path, ...]:
        """The words of a restore."""
        return ("installation_restore", "--from", path, "--identity", self.identity, *flags)

    def connect(self, role: str = "postgres", database: str = "flowplane") -> psycopg.Connection[Any]:
        """A connection of the test's own, which commits by itself."""
        address = f"host={self.bench.home.postgres} user={role} dbname={database}"
        return psycopg.connect(address, autocommit=True, application_name="the test")

    def ask(self, question: str, *values: object, role: str = "postgres", database: str = "flowplane") -> list[Any]:
        """The answer's rows."""
        with self.connect(role, database) as connection:
            return connection.execute(question, values or None).fetchall()

    def imprint(self, database: str = "flowplane") -> dict[str, tuple[int, str]]:
        """Every row of every table, as a number and a hash."""
        prints = {}
        with self.connect(database=database) as connection:
            for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                question = sql.SQL("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t")
                row = connection.execute(question.format(sql.Identifier(table))).fetchone()
                assert row is not None
                prints[table] = row
        return prints

    def clusters(self, database: str = "flowplane") -> list[Any]:
        """Each cluster, without what is written on those that are held."""
        question = "SELECT to_jsonb(c) - %s::text[] FROM provisioning_cluster c ORDER BY id"
        return self.ask(question, HELD, database=database)

    def holds(self, database: str = "flowplane") -> list[Any]:
        """Why clusters are held, each reason once, and whether the database knows that it was set back."""
        return self.ask(
            "SELECT array(SELECT DISTINCT hold FROM provisioning_cluster),"
            " EXISTS (SELECT FROM provisioning_installation WHERE set_back_at IS NOT NULL)",
            database=database,
        )

    def schema(self, database: str = "flowplane") -> str:
        """Tables, owners, grants, default privileges, policies, triggers: whatever a schema consists of, as SQL."""
        argv = [str(self.bench.parts.postgres / "bin" / "pg_dump"), "--schema-only", "--username=postgres", database]
        env = {"PGHOST": str(self.bench.home.postgres), "PATH": os.environ["PATH"]}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        # Each dump protects itself with a word of its own, and casts in conditions are written otherwise once restored.
        lines = (line for line in done.stdout.splitlines() if "restrict " not in line)
        return "\n".join(CASTS.sub("", line) for line in lines)

    def databases(self) -> set[str]:
        """All on the server that are not PostgreSQL's own."""
        return {name for (name,) in self.ask("SELECT datname FROM pg_database")} - {
            "postgres",
            "template0",
            "template1",
        }

    def drop(self, *names: str) -> None:
        """Remove databases."""
        with self.connect(database="postgres") as connection:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """One for this file's tests; they leave it as they found it."""
    bench = Testbench()
    try:
        bench.start()
        bench.migrate()
        installation = Installation(bench)
        with installation.connect("flowplane_owner") as connection:
            fill(connection, CLUSTERS)
        yield installation
    finally:
        bench.stop()


@pytest.fixture(scope="module")
def saved(installation: Installation) -> Path:
    """An archive of the installation as it is between the tests."""
    return installation.back_up()


@pytest.fixture
def before(installation: Installation) -> Iterator[dict[str, tuple[int, str]]]:
    """What the database holds; afterwards it must hold the same, and there must be no other database."""
    state = installation.imprint()
    yield state
    assert installation.imprint() == state
    assert installation.databases() == {"flowplane"}


@pytest.fixture
def tidy(installation: Installation, saved: Path) -> Iterator[None]:
    """Afterwards, bring the saved state back by other means, and remove whatever came beside."""
    with installation.connect(database="postgres") as connection:
        connection.execute("CREATE DATABASE kept TEMPLATE flowplane OWNER flowplane_owner")
    acl = installation.ask("SELECT datacl FROM pg_database WHERE datname = 'flowplane'")
    yield
    installation.drop("flowplane")
    with installation.connect(database="postgres") as connection:
        connection.execute("ALTER DATABASE kept RENAME TO flowplane")
        connection.execute("REVOKE ALL ON DATABASE flowplane FROM PUBLIC")
        connection.execute("GRANT CONNECT ON DATABASE flowplane TO flowplane_app, flowplane_system")
    assert installation.ask("SELECT datacl FROM pg_database WHERE datname = 'flowplane'") == acl
    installation.drop(*installation.databases() - {"flowplane"})


def note(installation: Installation, word: str, role: str = "flowplane_owner") -> None:
    """Write something that is in no backup yet."""
    with installation.connect(role) as connection:
        connection.execute(EVENT, [word])


def opened(installation: Installation, path: Path) -> archive.Archive:
    """An archive, read to its end."""
    with archive.opened(path, archive.identities_from(installation.identity)) as source:
        for _ in source.dump():
            pass
        return source


# --- A backup is whole ---


def test_no_policy_hides_a_row_from_the_backup(installation: Installation, saved: Path) -> None:
    rows = opened(installation, saved).manifest.rows
    for role in ("postgres", "flowplane_system"):
        with installation.connect(role) as connection:
            counted = {}
            for table in rows:
                row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
                assert row is not None
                counted[table] = row[0]
        assert counted == rows, role
    assert rows["provisioning_cluster"] == CLUSTERS
    assert rows["tenants_auditevent"] == CLUSTERS * 20


def test_where_a_policy_would_hide_rows_there_is_no_backup(installation: Installation) -> None:
    with installation.connect() as connection:
        connection.execute("ALTER TABLE tenants_credential FORCE ROW LEVEL SECURITY")
        path = installation.new_name()
        done = installation.run("installation_backup", "--to", path, "--recipient", installation.recipient)
        connection.execute("ALTER TABLE tenants_credential NO FORCE ROW LEVEL SECURITY")
    assert done.status == 1
    assert "pg_dump failed." in done.said
    assert "row-level security policy" in done.said
    assert list(path.parent.glob(f"*{path.name}*")) == []


def test_the_secrets_are_in_it(installation: Installation, saved: Path) -> None:
    home = installation.bench.home
    found = opened(installation, saved).secrets
    kept = ("secret_key", "credential_pepper", "master_keys")
    assert found == {
        **{name: keyring.secret_file(home, name).read_bytes() for name in kept},
        "ca.pem": home.certificate.read_bytes(),
        "ca.key": certificates.authority_key_file(home).read_bytes(),
    }


def test_it_is_on_record(installation: Installation, before: Any) -> None:
    path = installation.new_name()
    done = installation.run("installation_backup", "--to", path, "--recipient", installation.recipient)
    assert done.status == 0, done.said
    manifest = opened(installation, path).manifest
    question = "SELECT target_id, changes FROM tenants_auditevent WHERE action = 'installation.backed_up'"
    ((target, changes),) = installation.ask(question)
    assert target == manifest.archive_id
    assert changes == {
        "created_at": [None, manifest.created_at.isoformat()],
        "size_bytes": [None, path.stat().st_size],
    }
    installation.forget("installation.backed_up")


def test_a_backup_that_cannot_be_put_on_record_is_whole_and_said(installation: Installation, before: Any) -> None:
    path = installation.new_name()
    with installation.connect() as connection:
        quiet = "CHECK (action <> 'installation.backed_up') NOT VALID"
        connection.execute(f"ALTER TABLE tenants_auditevent ADD CONSTRAINT quiet {quiet}")
        done = installation.run("installation_backup", "--to", path, "--recipient", installation.recipient)
        connection.execute("ALTER TABLE tenants_auditevent DROP CONSTRAINT quiet")
    assert done.status == 1
    assert f"{path} is whole. Only the audit trail, and with it /metrics, does not know of it." in done.said
    opened(installation, path)


def test_nothing_of_it_can_be_read_without_the_identity(installation: Installation, saved: Path) -> None:
    content = saved.read_bytes()
    canaries = [*(secret.decode() for secret in opened(installation, saved).secrets.values())]
    for question in (
        "SELECT digest FROM tenants_credentialsecret LIMIT 3",
        "SELECT encode(private_sealed, 'escape') FROM tenants_signingkey",
        "SELECT password FROM tenants_user LIMIT 3",
        "SELECT email FROM tenants_user LIMIT 3",
        "SELECT name || ' ' FROM tenants_organization LIMIT 3",
    ):
        canaries += [text for (text,) in installation.ask(question)]
    assert len(canaries) > 10
    assert [text for text in canaries if any(spelling in content for spelling in spellings(text))] == []
    assert b"CREATE TABLE" not in content
    assert b"PGDMP" not in content
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_it_is_one_moment_while_others_write(installation: Installation, tidy: None) -> None:
    is_over = threading.Event()

    def write() -> None:
        with installation.connect("flowplane_system") as connection:
            while not is_over.is_set():
                connection.execute(EVENT, ["meanwhile"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        path = installation.back_up()
    finally:
        is_over.set()
        writer.join()
    # The rehearsal counts every table and compares with what the backup counted in its own snapshot.
    done = installation.run(*installation.restoring(path, "--rehearse"))
    assert done.status == 0, done.said


@dataclass(frozen=True)
class Spies:
    """Stand-ins for PostgreSQL's programs that note how they were called before they become the real ones."""

    folder: Path
    notes: Path


@pytest.fixture
def spies(installation: Installation, tmp_path: Path) -> Spies:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        real = installation.bench.parts.postgres / "bin" / name
        (folder / name).write_text(
            f'#!/bin/sh\necho "ARGV $*" >>{tmp_path}/notes\nenv >>{tmp_path}/notes\nexec {real} "$@"\n'
        )
        (folder / name).chmod(0o755)
    return Spies(folder, tmp_path / "notes")


def test_no_secret_is_on_a_command_line_and_only_the_password_in_an_environment(
    installation: Installation, spies: Spies
) -> None:
    url = f"postgresql://flowplane_owner:pass%2Fword-canary@/flowplane?host={installation.bench.home.postgres}"
    key = Fernet.generate_key().decode()
    environment = installation.environment()
    master = f"{Path(environment['FLOWPLANE_MASTER_KEYS_FILE']).read_text()},{key}"
    path = installation.new_name()
    with subprocess.Popen(
        [sys.executable, "manage.py", "installation_backup", "--to", path, "--recipient", installation.recipient],
        cwd=CHECKOUT,
        env={
            **{name: text for name, text in environment.items() if name != "FLOWPLANE_MASTER_KEYS_FILE"},
            "FLOWPLANE_MASTER_KEYS": master,
            "FLOWPLANE_DATABASE_URL": url,
            "FLOWPLANE_POSTGRES_BIN": str(spies.folder),
        },
    ) as running:
        assert running.wait() == 0
    installation.forget("installation.backed_up")
    noted = spies.notes.read_text()
    argv = [line for line in noted.splitlines() if line.startswith("ARGV")]
    assert sum("--snapshot=" in line for line in argv) == 1
    assert not any("canary" in line for line in argv)
    assert "PGPASSWORD=pass/word-canary" in noted
    assert "FLOWPLANE_" not in noted
    assert key not in noted


# --- What a backup needs ---


def test_only_the_owner_may(installation: Installation) -> None:
    words = ("--to", installation.new_name(), "--recipient", installation.recipient)
    done = installation.run("installation_backup", *words, role="system")
    assert done.status == 1
    assert "Run this as flowplane_owner: FLOWPLANE_DATABASE_URL names flowplane_system" in done.said


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (None, "There is no pg_dump in {folder} (FLOWPLANE_POSTGRES_BIN). Install PostgreSQL's client programs, 16"),
        ("pg_dump (PostgreSQL) 13.4 (Debian)", "{folder}/pg_dump is of PostgreSQL 13, and the server of 16"),
        ("no such library", "{folder}/pg_dump does not say of which PostgreSQL it is"),
    ],
)
def test_a_missing_or_older_pg_dump_is_named(
    installation: Installation, tmp_path: Path, version: str | None, sentence: str
) -> None:
    if version:
        (tmp_path / "pg_dump").write_text(f"#!/bin/sh\necho '{version}'\n")
        (tmp_path / "pg_dump").chmod(0o755)
    words = ("installation_backup", "--to", installation.new_name(), "--recipient", installation.recipient)
    done = installation.run(*words, POSTGRES_BIN=str(tmp_path))
    assert done.status == 1
    assert sentence.format(folder=tmp_path) in done.said


def test_a_database_without_tables_or_a_server_is_said(installation: Installation) -> None:
    path = installation.new_name()
    words = ("installation_backup", "--to", path, "--recipient", installation.recipient)
    for url, sentence in (
        (f"?host={installation.bench.home.postgres}", "never migrated"),
        ("?host=/nonexistent", "The database said: connection is bad"),
    ):
        done = installation.run(*words, DATABASE_URL=f"postgresql://flowplane_owner@/postgres{url}")
        assert done.status == 1
        assert sentence in done.said
    assert list(path.parent.glob(f"*{path.name}*")) == []


def test_an_authority_that_is_not_there_is_named(installation: Installation) -> None:
    words = ("installation_backup", "--to", installation.new_name(), "--recipient", installation.recipient)
    done = installation.run(*words, CA_KEY_FILE="/nonexistent/ca.key")
    assert done.status == 1
    assert "/nonexistent/ca.key is not there" in done.said


def test_a_full_disk_is_said_and_nothing_is_left(installation: Installation) -> None:
    path = installation.new_name()
    words = (sys.executable, "manage.py", "installation_backup", "--to", str(path))
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *words, "--recipient", installation.recipient],
        cwd=CHECKOUT,
        env=installation.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing is left of what was begun. The system said: [Errno 27] File too large" in done.stderr
    assert list(path.parent.glob(f"*{path.name}*")) == []


# --- A restore brings everything back ---


def test_everything_comes_back_as_it_was(installation: Installation, saved: Path, tidy: None) -> None:
    state, schema, clusters = installation.imprint(), installation.schema(), installation.clusters()
    rights = installation.ask("SELECT datdba::regrole::text, datacl::text FROM pg_database WHERE datname = 'flowplane'")
    with installation.connect() as connection:
        connection.execute("TRUNCATE tenants_credential, provisioning_cluster CASCADE")
        connection.execute("UPDATE tenants_organization SET name = 'Spoilt'")
        connection.execute("DROP POLICY tenants_credential_seen ON tenants_credential")
        connection.execute("GRANT DELETE ON tenants_auditevent TO flowplane_app")
    spoilt = installation.imprint()

    done = installation.run(*installation.restoring(saved))
    assert done.status == 0, done.said

    now = installation.imprint()
    assert {table for table in state if now[table] != state[table]} == MARKED
    assert installation.clusters() == clusters
    assert installation.schema() == schema
    assert rights == installation.ask(
        "SELECT datdba::regrole::text, datacl::text FROM pg_database WHERE datname = 'flowplane'"
    )
    (former,) = [name for name in installation.databases() if "_replaced_" in name]
    assert f"The former database is kept as {former}" in done.said
    assert installation.imprint(former) == spoilt
    manifest = opened(installation, saved).manifest
    ((target, changes),) = installation.ask(
        "SELECT target_id, changes FROM tenants_auditevent WHERE action = 'installation.restored'"
    )
    assert target == manifest.archive_id
    assert changes["created_at"] == [None, manifest.created_at.isoformat()]
    assert 0 <= changes["age_seconds"][1] < 3600


def test_a_restored_database_is_set_back_and_a_rehearsal_leaves_the_present_one_as_it_is(
    installation: Installation, saved: Path, tidy: None
) -> None:
    assert installation.holds() == [([""], False)]
    done = installation.run(*installation.restoring(saved, "--rehearse"))
    assert done.status == 0, done.said
    assert "“Installations” at /operator/" not in done.said
    assert installation.holds() == [([""], False)]

    done = installation.run(*installation.restoring(saved))
    assert done.status == 0, done.said
    assert "nothing is removed in any region" in done.said
    assert "“Installations” at /operator/" in done.said
    assert installation.holds() == [(["set_back"], True)]
    (former,) = [name for name in installation.databases() if "_replaced_" in name]
    assert installation.holds(former) == [([""], False)]


def test_the_walls_stand_in_a_restored_database(installation: Installation, saved: Path, tidy: None) -> None:
    assert installation.run(*installation.restoring(saved)).status == 0
    owned = [
        table
        for (table,) in installation.ask(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND column_name = 'organization_id'"
        )
    ]
    assert "provisioning_cluster" in owned
    ((organization,),) = installation.ask("SELECT id FROM tenants_organization ORDER BY id LIMIT 1")
    with installation.connect("flowplane_app") as connection, connection.transaction():
        for table in owned:
            assert connection.execute(f"SELECT 1 FROM {table}").fetchall() == [], table
        connection.execute("SELECT set_config('flowplane.organization', %s, true)", [str(organization)])
        for table in owned:
            seen = connection.execute(f"SELECT DISTINCT organization_id FROM {table}").fetchall()
            assert seen in ([], [(organization,)]), table
        assert connection.execute("SELECT count(*) FROM provisioning_cluster").fetchone() == (1,)
    with installation.connect("flowplane_app") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM tenants_auditevent")
    assert installation.ask("SELECT count(*) FROM provisioning_cluster", role="flowplane_system") == [(CLUSTERS,)]


def test_the_product_works_on_a_restored_database(installation: Installation, saved: Path, tidy: None) -> None:
    """The token-signing keys open, sequences go on, and the catalogue is complete: nothing is left to be made."""
    assert installation.run(*installation.restoring(saved)).status == 0
    script = (
        "from tenants import tokens; from tenants.models import SigningKey;"
        "from django.contrib.auth.models import Group;"
        "tokens._private_key(SigningKey.objects.get().kid); Group.objects.create(name='next'); print('opened')"
    )
    done = installation.run("shell", "--no-imports", "--command", script, role="owner")
    assert "opened" in done.said
    assert installation.run("migrate", "--check").status == 0
    assert installation.run("bootstrap", role="system").status == 0


@pytest.mark.parametrize("name", ["fresh", "absent"])
def test_a_database_without_data_is_replaced_and_not_kept(
    installation: Installation, saved: Path, name: str, tidy: None
) -> None:
    if name == "fresh":
        with installation.connect(database="postgres") as connection:
            connection.execute("CREATE DATABASE fresh OWNER flowplane_owner")
    url = f"postgresql://flowplane_owner@/{name}?host={installation.bench.home.postgres}"
    done = installation.run(*installation.restoring(saved), DATABASE_URL=url)
    assert done.status == 0, done.said
    assert installation.databases() == {"flowplane", "kept", name}
    theirs, ours = installation.imprint(name), installation.imprint()
    assert {table for table in ours if theirs[table] != ours[table]} == MARKED
    assert installation.clusters(name) == installation.clusters()


def test_an_older_schema_is_migrated_forward(installation: Installation, tidy: None) -> None:
    with installation.connect(database="postgres") as connection:
        connection.execute("CREATE DATABASE older TEMPLATE flowplane OWNER flowplane_owner")
    url = f"postgresql://flowplane_owner@/older?host={installation.bench.home.postgres}"
    assert installation.run("migrate", "mfa", "0001", DATABASE_URL=url).status == 0
    path = installation.back_up(DATABASE_URL=url)
    assert "mfa.0003_authenticator_type_uniq" not in opened(installation, path).manifest.migrations

    done = installation.run(*installation.restoring(path))
    assert done.status == 0, done.said
    assert installation.schema() == installation.schema("kept")
    assert installation.run("migrate", "--check").status == 0


# --- A restore that is refused changes nothing ---


def test_a_newer_schema_is_refused(installation: Installation, before: Any) -> None:
    with installation.connect("flowplane_owner") as connection:
        connection.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('tenants', '0999_later', now())")
        path = installation.back_up()
        connection.execute("DELETE FROM django_migrations WHERE name = '0999_later'")
    done = installation.run(*installation.restoring(path))
    assert done.status == 1
    assert "of a newer Flowplane" in done.said
    assert "does not know tenants.0999_later" in done.said


def test_a_stranger_to_the_archive_gets_nothing(
    installation: Installation, saved: Path, before: Any, tmp_path: Path
) -> None:
    other = tmp_path / "identity"
    other.write_text(str(x25519.Identity.generate()))
    done = installation.run("installation_restore", "--from", saved, "--identity", other)
    assert done.status == 1
    assert "it was encrypted for another one" in done.said


@pytest.mark.parametrize("share", [0.0005, 0.5, 0.999])
def test_an_archive_that_is_cut_off_changes_nothing(
    installation: Installation, saved: Path, before: Any, tmp_path: Path, share: float
) -> None:
    content = saved.read_bytes()
    cut = tmp_path / "cut.age"
    cut.write_bytes(content[: int(len(content) * share)])
    done = installation.run(*installation.restoring(cut))
    assert done.status == 1
    assert "is cut off" in done.said


def test_an_archive_that_is_damaged_changes_nothing(
    installation: Installation, saved: Path, before: Any, tmp_path: Path
) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    damaged = tmp_path / "damaged.age"
    damaged.write_bytes(content)
    done = installation.run(*installation.restoring(damaged))
    assert done.status == 1
    assert "is damaged" in done.said


def test_a_server_that_lacks_the_right_says_who_can_give_it(
    installation: Installation, saved: Path, before: Any
) -> None:
    with installation.connect(database="postgres") as connection:
        connection.execute("ALTER ROLE flowplane_owner NOCREATEDB")
        done = installation.run(*installation.restoring(saved))
        connection.execute("ALTER ROLE flowplane_owner CREATEDB")
    assert done.status == 1
    assert (
        "flowplane_owner may not make a database (permission denied to create database). Let the administrator"
        in done.said
    )


# --- Secrets of another installation ---


@pytest.fixture
def strange_keys(tmp_path: Path) -> Path:
    path = tmp_path / "master_keys"
    path.write_text(Fernet.generate_key().decode())
    return path


def with_keys(installation: Installation, path: Path, *words: str | Path, **overrides: str) -> Done:
    """A command under other master keys."""
    return installation.run(*words, MASTER_KEYS_FILE=str(path), **overrides)


def test_another_installations_archive_is_refused_where_there_is_data(
    installation: Installation, saved: Path, before: Any, strange_keys: Path
) -> None:
    done = with_keys(installation, strange_keys, *installation.restoring(saved))
    assert done.status == 1
    assert "The backup is of another installation (http://localhost:8080)" in done.said
    assert "do not hold its MASTER_KEYS, and the present database holds data" in done.said
    assert "python -m config.archive secrets" in done.said


def test_on_a_fresh_machine_the_secrets_come_first(installation: Installation, saved: Path, strange_keys: Path) -> None:
    with installation.connect(database="postgres") as connection:
        connection.execute("CREATE DATABASE fresh OWNER flowplane_owner")
    url = f"postgresql://flowplane_owner@/fresh?host={installation.bench.home.postgres}"
    done = with_keys(installation, strange_keys, *installation.restoring(saved), DATABASE_URL=url)
    assert done.status == 1
    assert "do not hold the backup's MASTER_KEYS yet" in done.said

    secrets = strange_keys.parent / "secrets"
    words = ("secrets", "--from", saved, "--identity", installation.identity, "--to", secrets)
    subprocess.run(
        [sys.executable, "-m", "config.archive", *map(str, words)], cwd=CHECKOUT, check=True, capture_output=True
    )
    # The authority lies where the settings say already.
    brought = [path for path in secrets.iterdir() if not path.name.startswith("ca.")]
    overrides = {f"{path.name.upper()}_FILE": str(path) for path in brought}
    done = installation.run(*installation.restoring(saved), **overrides, DATABASE_URL=url)
    assert done.status == 0, done.said
    installation.drop("fresh")


def test_keys_that_were_changed_since_may_stand_in_front(
    installation: Installation, saved: Path, before: Any, strange_keys: Path
) -> None:
    old = keyring.secret_file(installation.bench.home, "master_keys").read_text()
    strange_keys.write_text(f"{strange_keys.read_text()},{old}")
    done = with_keys(installation, strange_keys, *installation.restoring(saved, "--rehearse"))
    assert done.status == 0, done.said
    installation.forget("installation.restore_rehearsed")


def test_the_authority_comes_back_where_there_is_none(
    installation: Installation, saved: Path, tidy: None, tmp_path: Path
) -> None:
    files = {"CA_CERT_FILE": str(tmp_path / "ca.pem"), "CA_KEY_FILE": str(tmp_path / "ca.key")}
    done = installation.run(*installation.restoring(saved), **files)
    assert done.status == 0, done.said
    home = installation.bench.home
    assert (tmp_path / "ca.pem").read_bytes() == home.certificate.read_bytes()
    assert (tmp_path / "ca.key").read_bytes() == certificates.authority_key_file(home).read_bytes()
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca.pem").stat().st_mode) == 0o644


def test_an_authority_that_cannot_be_written_is_said_and_another_restore_brings_it(
    installation: Installation, saved: Path, tidy: None, tmp_path: Path
) -> None:
    files = {"CA_CERT_FILE": str(tmp_path / "absent" / "ca.pem"), "CA_KEY_FILE": str(tmp_path / "absent" / "ca.key")}
    done = installation.run(*installation.restoring(saved), **files)
    assert done.status == 1
    assert "see in its audit trail whether it is the restored one. The system said: [Errno 2]" in done.said
    restored = "SELECT count(*) FROM tenants_auditevent WHERE action = 'installation.restored'"
    assert installation.ask(restored) == [(1,)]
    (tmp_path / "absent").mkdir()
    done = installation.run(*installation.restoring(saved), **files)
    assert done.status == 0, done.said
    assert sorted(path.name for path in (tmp_path / "absent").iterdir()) == ["ca.key", "ca.pem"]


def test_another_authority_and_session_key_are_kept_and_said(
    installation: Installation, saved: Path, tidy: None, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("another")
    (tmp_path / "secret_key").write_text("another-" * 10)
    files = {"CA_CERT_FILE": str(tmp_path / "ca.pem"), "CA_KEY_FILE": str(tmp_path / "ca.key")}
    files["SECRET_KEY_FILE"] = str(tmp_path / "secret_key")
    done = installation.run(*installation.restoring(saved), **files)
    assert done.status == 0, done.said
    assert f"{tmp_path / 'ca.pem'} holds another authority than the backup, and was kept" in done.said
    assert "everybody has to sign in again" in done.said
    assert (tmp_path / "ca.pem").read_text() == "another"
    assert not (tmp_path / "ca.key").exists()


# --- Processes that run ---


def test_running_processes_are_named_and_keep_their_database(
    installation: Installation, saved: Path, before: Any
) -> None:
    with installation.connect("flowplane_app") as web, installation.connect("flowplane_system") as worker:
        done = installation.run(*installation.restoring(saved))
        assert done.status == 1
        for role in ("flowplane_app", "flowplane_system"):
            assert f"{role} ({PROCESSES[role]}; the test, pid " in done.said
        assert web.execute("SELECT 1").fetchone() == worker.execute("SELECT 1").fetchone() == (1,)


def test_force_ends_their_connections(installation: Installation, saved: Path, tidy: None) -> None:
    note(installation, "lost")
    with installation.connect("flowplane_app") as web, installation.connect("flowplane_system") as worker:
        worker.autocommit = False
        worker.execute("SELECT pg_advisory_xact_lock(1)")  # in the middle of something
        done = installation.run(*installation.restoring(saved, "--force"))
        assert done.status == 0, done.said
        for connection in (web, worker):
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
    assert installation.ask("SELECT count(*) FROM tenants_auditevent WHERE actor_label = 'lost'") == [(0,)]


def test_even_force_spares_the_administrator(installation: Installation, saved: Path, before: Any) -> None:
    with installation.connect("postgres") as administrator:
        done = installation.run(*installation.restoring(saved, "--force"))
        assert done.status == 1
        assert "Connected to flowplane: postgres (no process of ours; " in done.said
        assert administrator.execute("SELECT 1").fetchone() == (1,)


def test_one_restore_at_a_time(installation: Installation, saved: Path, before: Any) -> None:
    with installation.connect("flowplane_owner", "postgres") as other:
        other.execute("SELECT pg_advisory_lock(hashtext('flowplane.restore.flowplane'))")
        done = installation.run(*installation.restoring(saved))
    assert done.status == 1
    assert "Another restore of flowplane is running" in done.said


def test_a_rehearsal_runs_beside_the_product_and_is_on_record(installation: Installation, saved: Path) -> None:
    state = installation.imprint()
    with installation.connect("flowplane_system") as worker:
        done = installation.run(*installation.restoring(saved, "--rehearse"))
        assert done.status == 0, done.said
        assert "Rehearsed, and removed again" in done.said
        assert worker.execute("SELECT 1").fetchone() == (1,)
    assert installation.databases() == {"flowplane"}
    ((target, seconds),) = installation.ask(
        "SELECT target_id, changes->'seconds'->1 FROM tenants_auditevent"
        " WHERE action = 'installation.restore_rehearsed'"
    )
    assert target == opened(installation, saved).manifest.archive_id
    assert seconds >= 0
    installation.forget("installation.restore_rehearsed")
    assert installation.imprint() == state


BUSY_CLEANER = {
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_insert_threshold": "0",
    "autovacuum_analyze_threshold": "0",
    # So slow that it is still there when the restore goes.
    "autovacuum_vacuum_cost_delay": "100ms",
    "autovacuum_vacuum_cost_limit": "1",
}
CLEANED_BESIDE = """
import django; django.setup()
import time
from django.db import connection
from config import restore
from config.database_server import database_server
with database_server() as server, server.database_beside():
    with restore._django_in(server.beside), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE much AS SELECT generate_series(1, 300000) AS n")
    cleaning = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND usename IS NULL"
    while not server.connection.execute(cleaning, [server.beside]).fetchone():
        time.sleep(0.02)
print("gone")
"""


def test_an_autovacuum_that_came_by_does_not_keep_the_database_beside(installation: Installation, before: Any) -> None:
    with installation.connect(database="postgres") as connection:
        for name, value in BUSY_CLEANER.items():
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
        done = installation.run_script(CLEANED_BESIDE)
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")
    assert done.stdout == "gone\n", done.stderr


INTERRUPTED = """
import django; django.setup()
from contextlib import suppress
from config.database_server import database_server
with suppress(KeyboardInterrupt), database_server() as server, server.database_beside():
    server.connection.pgconn.{left}
    raise KeyboardInterrupt
print("gone")
"""


@pytest.mark.parametrize("left", ["finish()", "send_query(b'SELECT 1')"], ids=["closed", "asking"])
def test_an_interrupt_that_spoils_the_connection_leaves_no_database_beside(
    installation: Installation, before: Any, left: str
) -> None:
    """As the driver leaves it, when the interrupt comes while an answer does."""
    done = installation.run_script(INTERRUPTED.format(left=left))
    with installation.connect(database="postgres") as watch:
        until_it_has_left(watch)
    assert done.stdout == "gone\n", done.stderr


def test_what_after_restore_refuses_is_not_restored(installation: Installation, saved: Path, before: Any) -> None:
    script = (
        "import django; django.setup()\n"
        "from pathlib import Path\n"
        "from config import restore\n"
        "from config.archive import Refusal\n"
        "def displeased(connection, manifest): raise Refusal('Not like this.')\n"
        "restore.after_restore = displeased\n"
        f"restore.restore(Path({str(saved)!r}), Path({str(installation.identity)!r}))\n"
    )
    done = installation.run_script(script)
    assert "config.archive.Refusal: Not like this." in done.stderr


# --- Killed in the middle ---


def until(holds: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Wait for a moment of a command's life; it may be over before we see it."""
    while not holds() and running.poll() is None:
        time.sleep(0.001)


def kill(running: subprocess.Popen[str]) -> None:
    """As the kernel does when memory runs out."""
    running.send_signal(signal.SIGKILL)
    running.communicate()


def until_it_has_left(watch: psycopg.Connection[Any]) -> None:
    """Wait for the end of a killed restore's sessions: each ends its last statement first, be it a commit."""
    while watch.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'flowplane restore'").fetchone():
        time.sleep(0.05)


@pytest.mark.parametrize("later_seconds", [0, 0.2])
def test_a_killed_backup_leaves_no_archive_and_the_next_one_works(
    installation: Installation, later_seconds: float
) -> None:
    path = installation.new_name()
    unfinished = path.with_name(f".{path.name}.unfinished")
    words = ("installation_backup", "--to", path, "--recipient", installation.recipient)
    with installation.start(*words) as running:
        until(unfinished.exists, running)
        time.sleep(later_seconds)
        kill(running)
    if path.exists():  # it was quicker than we: then it is whole
        installation.forget("installation.backed_up")
        opened(installation, path)
        return
    assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
    assert installation.run(*words).status == 0
    installation.forget("installation.backed_up")
    assert not unfinished.exists()
    opened(installation, path)


def moments(installation: Installation, watch: psycopg.Connection[Any]) -> Mapping[str, Callable[[], bool]]:
    """Moments of a restore, in their order, as seen from outside."""

    def is_there(question: str) -> bool:
        return bool(watch.execute(question).fetchone())

    def beside_has(question: str) -> bool:
        try:
            return bool(installation.ask(question, database="flowplane_restoring"))
        except psycopg.OperationalError:
            return False

    return {
        "made": lambda: is_there("SELECT 1 FROM pg_database WHERE datname = 'flowplane_restoring'"),
        "being filled": lambda: is_there("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY public.tenants_%'"),
        "filled": lambda: beside_has("SELECT 1 FROM pg_class WHERE relname = 'tenants_auditevent'"),
        "finished": lambda: beside_has(
            "SELECT 1 FROM pg_class WHERE relname = 'tenants_auditevent' AND reltuples > 0 AND EXISTS"
            " (SELECT 1 FROM pg_stat_user_tables WHERE relname = 'tenants_auditevent' AND last_analyze IS NOT NULL)"
        ),
        "in place": lambda: is_there("SELECT 1 FROM pg_database WHERE datname LIKE 'flowplane_replaced_%'"),
    }


@pytest.mark.parametrize("moment", ["made", "being filled", "filled", "finished", "in place"])
def test_a_killed_restore_leaves_the_old_database_or_the_new_one(
    installation: Installation, saved: Path, tidy: None, moment: str
) -> None:
    new = installation.imprint()
    note(installation, "only in the old one")
    old = installation.imprint()
    with installation.connect(database="postgres") as watch:
        with installation.start(*installation.restoring(saved)) as running:
            until(moments(installation, watch)[moment], running)
            kill(running)
        until_it_has_left(watch)
        is_new = moments(installation, watch)["in place"]()
    now = installation.imprint()
    if is_new:
        assert {table for table in new if now[table] != new[table]} == MARKED
        assert installation.holds() == [(["set_back"], True)]
        assert installation.ask("SELECT count(*) FROM tenants_auditevent WHERE action = 'installation.restored'") == [
            (1,)
        ]
    else:
        assert now == old
    assert installation.run("migrate", "--check").status == 0

    # Whatever was left beside is in nobody's way.
    done = installation.run(*installation.restoring(saved))
    assert done.status == 0, done.said
    assert "flowplane_restoring" not in installation.databases()


def test_killed_while_it_waits_for_its_place(installation: Installation, saved: Path, tidy: None) -> None:
    """In the very transaction that renames: somebody came in, and PostgreSQL waits for 5 s for them to go."""
    note(installation, "only in the old one")
    old = installation.imprint()
    with installation.connect(database="postgres") as watch:
        with installation.start(*installation.restoring(saved)) as running:
            until(moments(installation, watch)["made"], running)
            with installation.connect("flowplane_app"):
                waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE%' AND state = 'active'"
                until(lambda: bool(watch.execute(waiting).fetchone()), running)
                assert running.poll() is None
                kill(running)
        until_it_has_left(watch)
    assert installation.imprint() == old


def test_somebody_who_comes_in_meanwhile_keeps_the_old_database(
    installation: Installation, saved: Path, before: Any, tmp_path: Path
) -> None:
    files = {"CA_CERT_FILE": str(tmp_path / "ca.pem"), "CA_KEY_FILE": str(tmp_path / "ca.key")}
    with (
        installation.connect(database="postgres") as watch,
        installation.start(*installation.restoring(saved), **files) as running,
    ):
        until(moments(installation, watch)["made"], running)
        with installation.connect("flowplane_app"):
            said = running.communicate()[0]
    assert running.returncode == 1
    assert "Connected to flowplane: flowplane_app (web; the test" in said
    assert list(tmp_path.iterdir()) == [], "nor is the backup's authority put in its place"


def test_an_interrupted_restore_cleans_up(installation: Installation, saved: Path, before: Any) -> None:
    with installation.connect(database="postgres") as watch:
        # Whoever runs the tests in the background has them ignore SIGINT, and they would pass that on.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        with installation.start(*installation.restoring(saved)) as running:
            signal.signal(signal.SIGINT, ours)
            until(moments(installation, watch)["made"], running)
            running.send_signal(signal.SIGINT)
            running.communicate()
        assert running.returncode != 0
