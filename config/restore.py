"""Bring an installation back from a backup: into a database beside the present one, which then takes its place.

Everything that can fail is done beside: filling, counting, migrating, what `after_restore` does. What is left is one
transaction that renames two databases. Whatever kills us, processes find the old database or the new one, and never
one that is half of each.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader

from config import archive, installation
from config.archive import Manifest, Refusal
from config.database_server import DatabaseServer, database_server
from config.postgres_tools import find_tools
from provisioning.services import installation as installation_services
from tenants import audit
from tenants.actor import SYSTEM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a restore did.

    Attributes:
        replaced: the name under which the former database is kept; "" when there was none, or nothing in it.
        notes: sentences about secrets of the backup that are not in force.
    """

    manifest: Manifest
    seconds: float
    replaced: str = ""
    notes: tuple[str, ...] = ()


def after_restore(connection: BaseDatabaseWrapper, manifest: Manifest) -> None:
    """Do what must be done before any process of ours sees a restored database. The place for more of the kind.

    Called once for each restore, in a transaction in the restored database, as its owner; Django's default connection
    leads there. It is migrated, and does not have its name yet. Raise `Refusal` to give the restore up. What is outside
    of this database may be looked at but not changed: a rehearsal comes by here, too.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM statement_timestamp() - %s)::bigint", [manifest.created_at])
        (age_seconds,) = cursor.fetchone()
    audit.record_about(
        SYSTEM,
        action="installation.restored",
        target_kind="backup",
        target_id=manifest.archive_id,
        changes={"created_at": (None, manifest.created_at), "age_seconds": (None, age_seconds)},
    )
    # Also when no region can be asked what it remembers of a newer database.
    installation_services.set_back()


def restore(path: Path, identity: Path, *, force: bool = False) -> Outcome:
    """Put a backup in the place of the database that the settings lead to. The former one is kept, under another name.

    Args:
        force: end the connections of processes that still run; they find the restored database by themselves.

    Raises:
        Refusal: the archive, the settings, the server or running processes do not allow it. Nothing was changed.
        OSError: about a file of the authority, the restored database is in its place by then. Run it again.
    """
    started = time.monotonic()
    with database_server() as server:
        is_replacing = _holds_data(server)
        if not force:
            server.require_nobody_connected()
        with _restored_beside(server, path, identity, is_replacing=is_replacing) as (manifest, secrets):
            replaced = server.swap(end_connections=force, keep=is_replacing)
    # Not before: until it has changed places it may be refused, and then nothing of it stays.
    notes = _put_secrets_in_place(secrets)
    return Outcome(manifest, time.monotonic() - started, replaced, notes)


def rehearse(path: Path, identity: Path) -> Outcome:
    """Do all of it but the last step, and remove what came of it. Processes may run meanwhile.

    The audit trail of the present database says that it was done. Raises as `restore` does.
    """
    started = time.monotonic()
    with database_server() as server:
        is_used = _holds_data(server)
        with _restored_beside(server, path, identity, is_replacing=is_used) as (manifest, _secrets):
            seconds = time.monotonic() - started
    if is_used:
        audit.record_about(
            SYSTEM,
            action="installation.restore_rehearsed",
            target_kind="backup",
            target_id=manifest.archive_id,
            changes={"created_at": (None, manifest.created_at), "seconds": (None, round(seconds))},
        )
    logger.info("a restore was rehearsed", extra={"seconds": round(seconds, 1)})
    return Outcome(manifest, seconds)


def _holds_data(server: DatabaseServer) -> bool:
    """Whether anybody has used the present database. Leaves no connection to it."""
    if not server.has_present_database():
        return False
    with _django_in(server.present), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.tenants_user') IS NOT NULL")
        if cursor.fetchone() == (False,):
            return False
        cursor.execute("SELECT EXISTS (SELECT FROM tenants_user) OR EXISTS (SELECT FROM tenants_organization)")
        return bool(cursor.fetchone()[0])


@contextlib.contextmanager
def _restored_beside(
    server: DatabaseServer, path: Path, identity: Path, *, is_replacing: bool
) -> Iterator[tuple[Manifest, Mapping[str, bytes]]]:
    """The backup as a finished database with the name `server.beside`; dropped afterwards, if it still has that."""
    tools = find_tools(settings.POSTGRES_BIN, server_major=server.major)
    with contextlib.ExitStack() as stack:
        with archive.opened(path, archive.identities_from(identity)) as source:
            manifest, secrets = source.manifest, source.secrets
            _require_fitting(manifest, server)
            _require_same_keys(manifest, secrets, is_replacing=is_replacing)
            stack.enter_context(server.database_beside())
            tools.fill({**connection.settings_dict, "NAME": server.beside}, source.dump())
        # Only here is it sure that the archive was whole.
        with _django_in(server.beside):
            _finish(manifest)
        yield manifest, secrets


@contextlib.contextmanager
def _django_in(database: str) -> Iterator[None]:
    """Let Django's connection lead elsewhere for the length of the block; it is closed before and after."""
    connection.close()
    present = connection.settings_dict["NAME"]
    connection.settings_dict["NAME"] = database
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = present


def _finish(manifest: Manifest) -> None:
    """See that every row has come, and bring the schema to what this code expects."""
    rows = installation.rows_by_table()
    if rows != dict(manifest.rows):
        differing = sorted(table for table in {*rows, *manifest.rows} if rows.get(table) != manifest.rows.get(table))
        raise Refusal(f"The restored tables {', '.join(differing)} do not have the rows that the backup counted.")
    call_command("migrate", interactive=False, verbosity=0)
    with transaction.atomic():
        after_restore(connection, manifest)
    # A dump brings no statistics, and the first queries after an outage should not be the slowest.
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE " + ", ".join(f'public."{table}"' for table in installation.tables()))


# --- What a backup must fit ------------------------------------------------------------------------------------------


def _require_fitting(manifest: Manifest, server: DatabaseServer) -> None:
    """The schema may be older than this code, not newer; the same for the server."""
    loader = MigrationLoader(None)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations}
    known |= {f"{app}.{name}" for squashed in loader.disk_migrations.values() for app, name in squashed.replaces}
    if unknown := sorted(set(manifest.migrations) - known):
        raise Refusal(
            f"The backup is of a newer Flowplane ({manifest.version}, commit {manifest.commit or 'unknown'}): this one "
            f"does not know {', '.join(unknown)}. Restore it with that version or a later one."
        )
    if manifest.postgres_major > server.major:
        raise Refusal(
            f"The backup is of PostgreSQL {manifest.postgres_major}, and this server of {server.major}: "
            "it needs one at least as new."
        )


def _require_same_keys(manifest: Manifest, secrets: Mapping[str, bytes], *, is_replacing: bool) -> None:
    """What is sealed or hashed in the backup must open with the settings, or the database would be worthless."""
    present = installation.secrets_in_force()
    missing = []
    if not installation.master_keys_of(secrets) <= installation.master_keys_of(present):
        missing.append("MASTER_KEYS")
    if secrets["credential_pepper"] != present["credential_pepper"]:
        missing.append("CREDENTIAL_PEPPER")
    if not missing:
        return
    how = (
        "`python -m config.archive secrets --from FILE --identity FILE --to FOLDER` writes the backup's own; let "
        + " and ".join(f"FLOWPLANE_{name}_FILE" for name in missing)
        + " name them, and repeat"
    )
    if is_replacing:
        raise Refusal(
            f"The backup is of another installation ({manifest.installation}), or of a time before the keys were "
            f"changed: the settings do not hold its {' and '.join(missing)}, and the present database holds data. "
            f"If it is the right backup: {how} (old master keys may stand behind the present ones)."
        )
    raise Refusal(f"The settings do not hold the backup's {' and '.join(missing)} yet: {how}.")


def _put_secrets_in_place(secrets: Mapping[str, bytes]) -> tuple[str, ...]:
    """Write the authority's files where there are none; return a sentence for each secret that stays another one."""
    notes = []
    if secrets["secret_key"] != installation.secrets_in_force()["secret_key"]:
        notes.append("The settings' SECRET_KEY is not the backup's: everybody has to sign in again.")
    if not _put_authority_in_place(secrets):
        notes.append(
            f"{settings.CA_CERT_FILE} holds another authority than the backup, and was kept. Clients and engines from "
            "before trust the backup's, which `python -m config.archive secrets` writes."
        )
    return tuple(notes)


def _put_authority_in_place(secrets: Mapping[str, bytes]) -> bool:
    """Write what is missing of the backup's authority; False when there is another one, which must not be mixed."""
    files = installation.authority_files()
    present = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    if any(present[name] != secrets[name] for name in present):
        return False
    for name in files.keys() - present.keys():
        mode = 0o644 if name == installation.AUTHORITY_CERTIFICATE else 0o600
        archive.write_file(files[name], secrets[name], mode=mode)
    return True
