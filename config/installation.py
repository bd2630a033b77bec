"""What an installation consists of that must survive it: the secrets of its settings, and the rows of its database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from django.conf import settings
from django.db import connection
from psycopg import sql

from config.archive import Refusal

# The role that owns everything: no policy hides a row from it.
OWNER = "flowplane_owner"
AUTHORITY_CERTIFICATE, AUTHORITY_KEY = "ca.pem", "ca.key"
# By the settings that hold them. METRICS_TOKEN, BACKUP_S3_SECRET_KEY, passwords of databases and mail servers are not
# here: each of them is half of a pair whose other half is elsewhere, and replacing both loses nothing.
_TEXTS = {"secret_key": "SECRET_KEY", "credential_pepper": "CREDENTIAL_PEPPER", "master_keys": "MASTER_KEYS"}


def secrets_in_force() -> dict[str, bytes]:
    """What this process's settings hold, by the names under which an archive keeps it; an absent file is left out."""
    texts = {name: getattr(settings, setting) for name, setting in _TEXTS.items()}
    found = {name: (text if isinstance(text, str) else ",".join(text)).encode() for name, text in texts.items()}
    files = {name: path.read_bytes() for name, path in authority_files().items() if path.exists()}
    return {**found, **files}


def authority_files() -> Mapping[str, Path]:
    """The certificate authority's two halves, where the settings say they lie."""
    return {AUTHORITY_CERTIFICATE: settings.CA_CERT_FILE, AUTHORITY_KEY: settings.CA_KEY_FILE}


def master_keys_of(secrets: Mapping[str, bytes]) -> set[str]:
    """The keys that open what is sealed in the database."""
    return {key.strip() for key in secrets["master_keys"].decode().split(",")}


def require_owner() -> None:
    """Refuse to go on as a role from which policies hide rows."""
    if connection.settings_dict["USER"] != OWNER:
        raise Refusal(f"Run this as {OWNER}: FLOWPLANE_DATABASE_URL names {connection.settings_dict['USER']}.")


def applied_migrations() -> tuple[str, ...]:
    """`app.name` of each, in alphabetical order. Two statements."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.django_migrations') IS NULL")
        if cursor.fetchone()[0]:
            raise Refusal("The database is empty: it was never migrated.")
        cursor.execute("SELECT app || '.' || name FROM django_migrations ORDER BY 1")
        return tuple(name for (name,) in cursor.fetchall())


def tables() -> list[str]:
    """Every table of ours and of the apps we use. One statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]


def rows_by_table() -> dict[str, int]:
    """How many rows each table has. One statement for each table."""
    counts = {}
    with connection.cursor() as cursor:
        for table in tables():
            cursor.execute(sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table)))
            counts[table] = cursor.fetchone()[0]
    return counts


def server_major() -> int:
    """Of the PostgreSQL that the settings lead to."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        return int(cursor.fetchone()[0]) // 10000
