"""The statements that every turn runs: written by hand, and prepared once for each connection.

From query sets, compiling them costs us 4 ms of CPU a turn, and planning the claim costs the server 2 ms; running it
takes a tenth of that. Whatever runs less often stays a query set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connection
from django.db.models import Field, Model
from django.db.models.expressions import DatabaseDefault
from psycopg.errors import IdleInTransactionSessionTimeout, ReadOnlySqlTransaction

# A turn whose worker died so often in a row is not tried any more before a person has looked.
MAX_DEATHS = 3


def is_away(error: BaseException) -> bool:
    """Whether a statement failed because the database is away, takes no changes now, or has ended our session.

    No row is to blame then, and the connection may be gone. The last two are internal errors to Django, as is much that
    does have its cause in a row or in us.
    """
    refusals = (IdleInTransactionSessionTimeout, ReadOnlySqlTransaction)
    return isinstance(error, OperationalError | InterfaceError) or isinstance(error.__cause__, refusals)


# So many due rows, the oldest, are compared whatever happens; up to here "whose turn is it?" is answered exactly.
WINDOW = 32

# Past that, the oldest and the newest row of each lane are compared as well. An organization is always in the same
# lane, so that a backlog of any length hides nobody but those who share its lane, and them only while their rows are
# neither the lane's oldest nor its newest. The index `cluster_lane` has the same expression. Rows are ordered by it as
# well: behind row-level security the planner does not take from the condition that it is the same for all of them.
LANES = 32
LANE = f"(get_byte(uuid_send(organization_id), 15) & {LANES - 1})"

# So many may claim at the same moment from one organization's backlog, each passing over what the others have locked.
CLAIMERS = 8

_DUE = """
    due_at <= statement_timestamp() AND deleted_at IS NULL
    AND (lease_expires_at IS NULL OR lease_expires_at <= statement_timestamp())
"""
# For looking through all rows. Compared with a value that is not known before, the server expects a third of the rows
# to be due and reads them off an index in their order; from statistics of a quiet hour it would expect none, and sort
# the whole backlog for each lane.
_DUE_OF_MANY = _DUE.replace("statement_timestamp()", "(SELECT statement_timestamp())")
_SEEN = "SELECT id, organization_id, due_at, lease_epoch FROM provisioning_cluster"

_ONE = f"{_SEEN} WHERE id = %(cluster_id)s AND {_DUE}"

_ANY = f"""
    WITH oldest AS MATERIALIZED ({_SEEN} WHERE {_DUE_OF_MANY} ORDER BY due_at LIMIT {WINDOW})
    SELECT * FROM oldest
    UNION
    SELECT edge.* FROM generate_series(0, {LANES - 1}) AS lane CROSS JOIN LATERAL (
        ({_SEEN} WHERE {LANE} = lane AND {_DUE_OF_MANY} ORDER BY {LANE}, due_at LIMIT 1)
        UNION ALL
        ({_SEEN} WHERE {LANE} = lane AND {_DUE_OF_MANY} ORDER BY {LANE} DESC, due_at DESC LIMIT 1)
    ) AS edge
    WHERE (SELECT count(*) FROM oldest) = {WINDOW}
"""  # noqa: S608 - made of constants

# Each organization's first row before anybody's second; among those, whoever was served longest ago.
#
# A row that changed after the statement's snapshot was taken is passed over, locked or not: the rest of what a turn
# reads (operation, audience) is as old as the snapshot, and half of a wish would be taken for the whole of it.
_CLAIM = """
WITH candidate AS ({candidates}),
placed AS (
    SELECT candidate.*, row_number() OVER (PARTITION BY organization_id ORDER BY due_at) AS place FROM candidate
),
queue AS (
    SELECT placed.*,
        (SELECT max(claimed_at) FROM provisioning_cluster AS other
         WHERE other.organization_id = placed.organization_id) AS served_at
    FROM placed WHERE place <= {claimers}
),
picked AS (
    SELECT cluster.id FROM queue JOIN provisioning_cluster AS cluster USING (id)
    WHERE cluster.due_at = queue.due_at AND cluster.lease_epoch = queue.lease_epoch
    ORDER BY place, served_at NULLS FIRST, queue.due_at
    LIMIT 1 FOR NO KEY UPDATE OF cluster SKIP LOCKED
),
claimed AS (
    UPDATE provisioning_cluster AS cluster SET
        claimed_at = statement_timestamp(),
        lease_epoch = lease_epoch + 1,
        lease_expires_at = statement_timestamp() + {ttl},
        due_at = statement_timestamp() + {ttl},
        deaths = CASE WHEN {is_no_death} THEN LEAST(deaths, {max_deaths} - 1) ELSE GREATEST(deaths, 1) END
    FROM picked WHERE cluster.id = picked.id
    RETURNING cluster.*
)
SELECT {columns}, statement_timestamp(), operation.id, operation.kind, ARRAY(
    SELECT kind FROM provisioning_operationstep WHERE operation_id = operation.id AND attempts > 0
), backup.number, backup.reason
FROM claimed
JOIN tenants_audience AS audience ON audience.id = claimed.audience_id
JOIN provisioning_region AS region ON region.slug = claimed.region_id
JOIN provisioning_plantype AS plan_type ON plan_type.slug = claimed.plan_type_id
JOIN provisioning_release AS release ON release.version = claimed.release_id
LEFT JOIN provisioning_release AS former_release ON former_release.version = claimed.former_release_id
LEFT JOIN provisioning_backup AS data_source ON data_source.id = claimed.data_source_id
LEFT JOIN provisioning_backup AS backup ON backup.cluster_id = claimed.id AND backup.state = 'wanted'
LEFT JOIN provisioning_operation AS operation
    ON operation.cluster_id = claimed.id AND operation.state IN ('pending', 'running')
"""

BEGIN_ALONE = """
UPDATE provisioning_cluster SET
    deaths = deaths + 1,
    lease_expires_at = statement_timestamp() + %(ttl)s,
    due_at = CASE WHEN due_at <= statement_timestamp() THEN due_at ELSE statement_timestamp() + %(ttl)s END
WHERE id = %(id)s AND lease_epoch = %(lease_epoch)s
"""

# What is due by now stays so: it was woken during the turn, or the lease has run out, and then a wake-up left no trace.
_GIVE_BACK = """
UPDATE provisioning_cluster SET
    lease_expires_at = NULL,
    due_at = CASE
        WHEN %(is_closed)s THEN NULL
        WHEN due_at <= statement_timestamp() THEN due_at
        ELSE statement_timestamp() + %(due_in)s::interval
    END
    {assignments}
WHERE id = %(id)s AND lease_epoch = %(lease_epoch)s
"""

_WAKE = """
UPDATE provisioning_cluster SET due_at = LEAST(due_at, statement_timestamp()) {forget}
WHERE id = %(cluster_id)s AND deleted_at IS NULL {unless}
"""
WAKE = _WAKE.format(forget="", unless=f"AND deaths < {MAX_DEATHS}")
WAKE_BY_HAND = _WAKE.format(forget=", deaths = 0", unless="")

# Clusters as people and programs read them: the rows first, then what belongs to them and what is derived from both.
# Compiling this from a query set costs us 5 ms of CPU at each reading, and planning it the server as much again.
_VIEW = """
SELECT {columns}, statement_timestamp(), operation.id, operation.kind,
    ARRAY(
        SELECT following.version FROM provisioning_release AS following
        JOIN provisioning_channel_releases AS member ON member.release_id = following.version
        WHERE member.channel_id = cluster.channel_id AND following.is_offered
            AND following.upgrades_from @> ARRAY[cluster.release_id]
    ),
    (SELECT created_at FROM provisioning_backup WHERE cluster_id = cluster.id AND state = 'completed'
     ORDER BY number DESC LIMIT 1),
    proof.id, proof.verified_at, proof.recovery_seconds, proof.loss_seconds
FROM (
    SELECT * FROM provisioning_cluster
    WHERE organization_id = %(organization_id)s AND deleted_at IS NULL AND {which}
) AS cluster
JOIN provisioning_region AS region ON region.slug = cluster.region_id
JOIN provisioning_plantype AS plan_type ON plan_type.slug = cluster.plan_type_id
LEFT JOIN provisioning_backup AS data_source ON data_source.id = cluster.data_source_id
LEFT JOIN LATERAL (
    SELECT id, kind FROM provisioning_operation WHERE cluster_id = cluster.id AND state IN ('pending', 'running')
    LIMIT 1
) AS operation ON true
LEFT JOIN LATERAL (
    SELECT id, verified_at, recovery_seconds, loss_seconds FROM provisioning_backup
    WHERE cluster_id = cluster.id AND state = 'completed' AND verified_at IS NOT NULL
    ORDER BY verified_at DESC LIMIT 1
) AS proof ON true
ORDER BY cluster.created_at DESC, cluster.id DESC
"""
_NEWEST_FIRST = "drill_of_id IS NULL {after} ORDER BY created_at DESC, id DESC LIMIT {limit}"
_AFTER = "AND (created_at, id) < (%(created_at)s, %(id)s)"


def view_statement(columns: str) -> str:
    """Read one cluster of an organization; see `selectors.cluster`."""
    return _VIEW.format(columns=columns, which="id = %(cluster_id)s")


def list_statement(columns: str, *, limit: int, is_first: bool) -> str:
    """Read so many clusters of an organization, newest first; see `selectors.clusters_of`.

    The limit stands in the text: not knowing it, the server would take it for a tenth of all rows.
    """
    which = _NEWEST_FIRST.format(after="" if is_first else _AFTER, limit=limit)
    return _VIEW.format(columns=columns, which=which)


# One operation as it is read; its steps and the organization's history of steps come beside it.
_OPERATION = """
SELECT {columns}, statement_timestamp(), EXISTS (
    SELECT FROM provisioning_cluster AS other
    WHERE other.organization_id = operation.organization_id AND other.region_id = cluster.region_id
        AND other.deleted_at IS NULL AND other.lifecycle = 'running' AND other.id <> cluster.id
)
FROM provisioning_operation AS operation
JOIN provisioning_cluster AS cluster ON cluster.id = operation.cluster_id
LEFT JOIN provisioning_backup AS drill_of ON drill_of.id = cluster.drill_of_id
LEFT JOIN provisioning_cluster AS proven ON proven.id = drill_of.cluster_id
WHERE operation.id = %(operation_id)s AND operation.organization_id = %(organization_id)s
"""
_STEPS = (
    "SELECT {columns} FROM provisioning_operationstep AS step WHERE operation_id = %(operation_id)s ORDER BY position"
)


def operation_statement(columns: str) -> str:
    """Read one operation of an organization; see `selectors.operation`."""
    return _OPERATION.format(columns=columns)


def steps_statement(columns: str) -> str:
    """Read an operation's steps in their order."""
    return _STEPS.format(columns=columns)


def history_statement(limit: int) -> str:
    """Read which steps the organization's clusters finished lately and how long each took; see `selectors`."""
    return f"""
        SELECT kind, finished_at - started_at FROM provisioning_operationstep
        WHERE organization_id = %(organization_id)s AND state = 'done' AND started_at IS NOT NULL
            AND finished_at > statement_timestamp() - interval '90 days'
        ORDER BY finished_at DESC LIMIT {limit}
    """  # noqa: S608 - a number of ours


# What a new cluster is made of, of which any may be missing. Whoever waits for the region's row reads it as it is then,
# with every cluster that was put there meanwhile.
_OFFER = """
WITH region AS (SELECT * FROM provisioning_region WHERE slug = %(region)s::text FOR NO KEY UPDATE)
SELECT {columns}
FROM (SELECT) AS asked
LEFT JOIN region ON true
LEFT JOIN provisioning_plantype AS plan_type ON plan_type.slug = %(plan_type)s::text AND plan_type.is_offered
LEFT JOIN provisioning_channel AS channel ON channel.slug = %(channel)s::text
LEFT JOIN provisioning_release AS release ON CASE %(release)s::text
    WHEN '' THEN release.version = channel.default_release_id
    ELSE release.version = %(release)s::text AND release.is_offered AND EXISTS (
        SELECT FROM provisioning_channel_releases AS member
        WHERE member.channel_id = channel.slug AND member.release_id = release.version
    )
END
"""


def offer_statement(columns: str) -> str:
    """Read what a new cluster is made of by its names, and lock its region; see `placing.offered`."""
    return _OFFER.format(columns=columns)


def claim_statement(columns: str, *, ttl: timedelta, is_named: bool, is_forgiven: bool = False) -> str:
    """Claim one due row and return all that a turn decides on; see `ClusterQuerySet.claim`.

    The lease's length stands in the text: a statement without parameters has one plan, which is always kept.
    """
    candidates = _ONE if is_named else _ANY
    lease = f"interval '{ttl.total_seconds()} seconds'"
    return _CLAIM.format(
        candidates=candidates,
        columns=columns,
        max_deaths=MAX_DEATHS,
        claimers=CLAIMERS,
        ttl=lease,
        is_no_death="true" if is_forgiven else "lease_expires_at IS NULL",
    )


def give_back_statement(columns: tuple[str, ...]) -> str:
    """Write these columns and end the lease, if it is still the newest; see `ClusterQuerySet.give_back`."""
    return _GIVE_BACK.format(assignments="".join(f", {column} = %({column})s" for column in columns))


def columns_of(sources: Iterable[tuple[str, type[Model]]]) -> str:
    """All columns of these tables, each under its alias, in the order in which `instance` reads them."""
    return ", ".join(f"{alias}.{field.column}" for alias, model in sources for field in model._meta.concrete_fields)


def instance(model: type[Model], values: Iterator[Any]) -> Model | None:
    """Take one row's columns from the values; None when there was no row to join."""
    names, converters = _reading(model)
    columns = list(islice(values, len(names)))
    if all(column is None for column in columns):
        return None
    for place, convert in converters:
        columns[place] = convert(columns[place], None, connection)
    return model.from_db(DEFAULT_DB_ALIAS, names, columns)


@cache
def _reading(model: type[Model]) -> tuple[list[str], list[tuple[int, Callable[..., Any]]]]:
    """A model's attributes, and which of their columns Django reads in a way of its own."""
    fields = model._meta.concrete_fields
    converters = [
        (place, convert) for place, field in enumerate(fields) for convert in field.get_db_converters(connection)
    ]
    return [field.attname for field in fields], converters


def fetch(statement: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Run a prepared statement and return its first row, None when there is none."""
    with connection.cursor() as cursor:
        _prepare(cursor, statement, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


def fetch_all(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run a prepared statement and return its rows."""
    with connection.cursor() as cursor:
        _prepare(cursor, statement, parameters)
        return list(cursor.fetchall())


def change(statement: str, parameters: Mapping[str, Any]) -> int:
    """Run a prepared statement and return how many rows it changed."""
    with connection.cursor() as cursor:
        _prepare(cursor, statement, parameters)
        return int(cursor.rowcount)


def insert(*rows: Model) -> None:
    """Write new rows of one model by one prepared statement, as saving each of them would; no signals are sent.

    What they leave to the database they are told of, if there is one row. Values must be values, not expressions.
    """
    model = type(rows[0])
    values: list[Any] = []
    left = [field for field in model._meta.concrete_fields if isinstance(_value(field, rows[0]), DatabaseDefault)]
    given = [field for field in model._meta.concrete_fields if field not in left]
    for row in rows:
        values += [field.get_db_prep_save(_value(field, row), connection) for field in given]
    statement = _insertion(
        model._meta.db_table, tuple(f.column for f in given), len(rows), tuple(f.column for f in left)
    )
    with connection.cursor() as cursor:
        _prepare(cursor, statement, values)
        told = cursor.fetchone() if left else ()
    for field, value in zip(left, told, strict=True):
        setattr(rows[0], field.attname, value)
    for row in rows:
        row._state.adding, row._state.db = False, DEFAULT_DB_ALIAS


def _value(field: Field[Any, Any], row: Model) -> Any:
    return field.pre_save(row, add=True)


@cache
def _insertion(table: str, columns: tuple[str, ...], rows: int, told: tuple[str, ...]) -> str:
    places = ", ".join(["(" + ", ".join(["%s"] * len(columns)) + ")"] * rows)
    returning = f" RETURNING {', '.join(told)}" if told else ""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places}{returning}"  # noqa: S608 - our own names


def _prepare(cursor: Any, statement: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
    """Run it through a cursor that prepares, inside Django's own wrapper, which counts it and translates errors."""
    server: psycopg.Connection[Any] = connection.connection
    server.prepare_threshold = 0  # at the first use; Django's own cursors put values into the text and never prepare
    cursor.cursor = psycopg.Cursor(server)
    cursor.execute(statement, parameters)
