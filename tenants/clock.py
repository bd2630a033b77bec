"""The one clock: the database's. A host's own may be an hour off, and two hosts' are never alike."""

from __future__ import annotations

from datetime import datetime

from django.db import connection


def database_now() -> datetime:
    """Return what `Now()` stands for, when a value is needed and not an expression. One statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now
