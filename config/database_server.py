"""The server around our database: making one beside it, seeing who is connected, and changing places."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from django.db import connection as our_connection
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from config.archive import Refusal

# Every server has it, and nobody works in it.
MAINTENANCE_DATABASE = "postgres"
# Before 15 the schema `public` of a new database belongs to the server's administrator: we could not restore it.
OLDEST_MAJOR = 15
# PostgreSQL's limit is 63 bytes; the longest of our endings takes 25.
MAX_NAME_LENGTH = 38
# A process that has just ended stays visible for a moment, on a busy server for longer. PostgreSQL waits as long when
# it renames a database.
GOODBYE_SECONDS = 5.0

# What runs under a role, for the people who have to stop it.
PROCESSES = {
    "flowplane_app": "web",
    "flowplane_system": "worker, clock or watch",
    "flowplane_owner": "a command such as migrate",
}


@dataclass(frozen=True)
class DatabaseServer:
    """A connection to the maintenance database, as the owner of ours, alone in restoring it.

    Attributes:
        present: our database's name.
        beside: the name under which another one is prepared to take its place.
    """

    connection: psycopg.Connection[Any]
    present: str

    @property
    def beside(self) -> str:
        return f"{self.present}_restoring"

    @property
    def major(self) -> int:
        """Of the server's version."""
        return self.connection.info.server_version // 10000

    def has_present_database(self) -> bool:
        """Whether there is anything to replace."""
        return bool(self._query("SELECT FROM pg_database WHERE datname = %s", self.present))

    def require_nobody_connected(self) -> None:
        """Refuse while anybody but us is connected to our database, and name them. Takes 5 s to be sure."""
        deadline = time.monotonic() + GOODBYE_SECONDS
        while found := self._connected():
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise Refusal(
                f"Connected to {self.present}: {', '.join(found)}. Stop these processes, or let --force end their "
                "connections: they would go on with the restored database."
            )

    def _connected(self) -> list[str]:
        """Who is connected, in words: role, what runs under it, and process numbers on the server."""
        rows = self._query(
            "SELECT usename, coalesce(nullif(application_name, ''), host(client_addr), 'local'),"
            " string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity"
            " WHERE datname = %s AND usename IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
            self.present,
        )
        return [
            f"{role} ({PROCESSES.get(role, 'no process of ours')}; {what}, pid {pids})" for role, what, pids in rows
        ]

    @contextlib.contextmanager
    def database_beside(self) -> Iterator[None]:
        """An empty database that nobody but us may enter; dropped afterwards, if it is not in its place by then.

        What a killed restore left under that name is removed first.
        """
        self._drop(self.beside)
        try:
            self._make_beside()
            yield
        finally:
            with self._ready() as server:
                server._drop(server.beside)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[DatabaseServer]:
        """This one; on another connection when an interrupt has closed ours, or left it in the middle of an answer."""
        if self.connection.info.transaction_status is TransactionStatus.IDLE:
            yield self
            return
        with _connect(our_connection.settings_dict) as fresh:
            yield replace(self, connection=fresh)

    def _make_beside(self) -> None:
        """As config/sql/roles.sql makes the first one, but for nobody yet."""
        try:
            self._do("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", self.beside)
        except errors.InsufficientPrivilege as error:
            raise Refusal(
                f"flowplane_owner may not make a database ({error.diag.message_primary}). Let the administrator run "
                "config/sql/roles.sql once more."
            ) from error
        self._do("REVOKE ALL ON DATABASE {} FROM PUBLIC", self.beside)

    def swap(self, *, end_connections: bool, keep: bool) -> str:
        """Give the database beside the name of ours, in one transaction.

        Returns the name under which the former one is kept, or "" with `keep=False`: then it is dropped.

        Raises:
            Refusal: somebody is connected. Nothing was changed.
        """
        former = f"{self.present}_replaced_{datetime.now(UTC):%Y%m%d%H%M%S}" if self.has_present_database() else ""
        self._do("GRANT CONNECT ON DATABASE {} TO flowplane_app, flowplane_system", self.beside)
        try:
            with self.connection.transaction():
                if end_connections:
                    # Not awaited: renaming lets nobody in, and waits 5 s for those inside to leave.
                    self._query(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = %s AND usename IS NOT NULL",
                        self.present,
                    )
                if former:
                    self._do("ALTER DATABASE {} RENAME TO {}", self.present, former)
                self._do("ALTER DATABASE {} RENAME TO {}", self.beside, self.present)
        except (errors.ObjectInUse, errors.InsufficientPrivilege) as error:
            self.require_nobody_connected()
            raise Refusal(f"The restored database could not take its place: {error.diag.message_primary}.") from error
        if former and not keep:
            self._drop(former)
        return former if keep else ""

    def _drop(self, database: str) -> None:
        """Remove a database, and what a killed restore still has in it.

        Not WITH (FORCE): to end an autovacuum it asks for a right that we lack. A plain DROP does not (PostgreSQL 16).
        """
        self._query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = current_user",
            database,
        )
        self._do("DROP DATABASE IF EXISTS {}", database)

    def _do(self, statement: str, *names: str) -> None:
        self.connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, values).fetchall()


@contextlib.contextmanager
def database_server() -> Iterator[DatabaseServer]:
    """Connect to the server that the settings lead to, in its maintenance database; one restore at a time.

    Raises:
        Refusal: no connection, another restore is running, or a server or name that cannot do it.
    """
    address = our_connection.settings_dict
    name = address["NAME"]
    if len(name) > MAX_NAME_LENGTH:
        raise Refusal(
            f"The database's name {name} is too long to restore beside: {MAX_NAME_LENGTH} characters at most."
        )
    with _connect(address) as connection:
        server = DatabaseServer(connection, name)
        if server.major < OLDEST_MAJOR:
            raise Refusal(f"The server is PostgreSQL {server.major}; restoring needs {OLDEST_MAJOR} or newer.")
        lock = "SELECT pg_try_advisory_lock(hashtext(%s))"
        if connection.execute(lock, [f"flowplane.restore.{name}"]).fetchone() != (True,):
            raise Refusal(f"Another restore of {name} is running.")
        yield server


def _connect(address: dict[str, Any]) -> psycopg.Connection[Any]:
    keywords = {"USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    given = {keyword: address[name] for name, keyword in keywords.items() if address[name]}
    try:
        return psycopg.connect(
            dbname=MAINTENANCE_DATABASE,
            autocommit=True,
            application_name="flowplane restore",
            connect_timeout=5,
            **given,
        )
    except psycopg.OperationalError as error:
        raise Refusal(
            f"{address['USER']} cannot enter the server's database {MAINTENANCE_DATABASE}, which restoring needs "
            f"({str(error).strip()})."
        ) from error
