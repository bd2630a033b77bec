"""Write a backup of this installation: database, secrets and manifest in one encrypted file."""

from __future__ import annotations

import contextlib
import subprocess
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction

from config import archive, installation
from config.archive import Manifest, Refusal
from config.postgres_tools import find_tools
from tenants import audit
from tenants.actor import SYSTEM

CHECKOUT = Path(__file__).resolve().parent.parent


def back_up(path: Path, recipients: Sequence[str]) -> tuple[Manifest, int]:
    """Write a new archive to `path` and read it back; returns what it holds, and its size in bytes.

    One snapshot for everything: the counts in the manifest are of the very rows in the dump. Processes go on working.

    Raises:
        Refusal: the name is taken, a tool, key or right is missing, or pg_dump failed.
        OSError: the file could not be written. Nothing is left of it.
    """
    keys = archive.recipients_from(recipients)
    installation.require_owner()
    secrets = _secrets()
    tools = find_tools(settings.POSTGRES_BIN, server_major=installation.server_major())
    with _snapshot() as (name, taken_at):
        manifest = _manifest(taken_at, tuple(secrets))
        with tools.dumping(connection.settings_dict, name) as dump:
            size = archive.write(path, manifest, secrets, dump, recipients=keys, check=tools.check)
    return manifest, size


def put_on_record(manifest: Manifest, size_bytes: int) -> None:
    """Have the audit trail say that there is such a backup; `/metrics` tells the newest one's age by it."""
    audit.record_about(
        SYSTEM,
        action="installation.backed_up",
        target_kind="backup",
        target_id=manifest.archive_id,
        changes={"created_at": (None, manifest.created_at), "size_bytes": (None, size_bytes)},
    )


def _secrets() -> dict[str, bytes]:
    secrets = installation.secrets_in_force()
    for name, path in installation.authority_files().items():
        if name not in secrets:
            raise Refusal(f"{path} is not there: without it, no backup could bring this installation back.")
    return secrets


@contextlib.contextmanager
def _snapshot() -> Iterator[tuple[str, datetime]]:
    """A view of the database at one moment that pg_dump can share, and the moment by the database's clock."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # A site may end transactions that wait; this one waits for pg_dump.
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_export_snapshot(), statement_timestamp()")
        name, taken_at = cursor.fetchone()
        yield name, taken_at


def _manifest(taken_at: datetime, secrets: tuple[str, ...]) -> Manifest:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Manifest(
        archive_id=str(uuid.uuid4()),
        installation=settings.PUBLIC_URL,
        created_at=taken_at,
        version=project["version"],
        commit=_commit(),
        postgres_major=installation.server_major(),
        migrations=installation.applied_migrations(),
        rows=installation.rows_by_table(),
        secrets=secrets,
    )


def _commit() -> str:
    """Of this checkout; "" when it is none, or git is not there or not willing."""
    with contextlib.suppress(OSError):
        argv = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return ""
