"""The statements that every turn runs: written by hand, and prepared once for each connection.

From query sets, compiling them costs us 4 ms of CPU a turn, and planning the claim costs the server 2 ms; running it
takes a tenth of that. Whatever runs less often stays a query set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Model

# A turn whose worker died so often in a row is not tried any more before a person has looked.
MAX_DEATHS = 3

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
_SEEN = "SELECT id, organization_id, due_at, lease_epoch FROM provisioning_cluster"

_ONE = f"{_SEEN} WHERE id = %(cluster_id)s AND {_DUE}"

_ANY = f"""
    WITH oldest AS MATERIALIZED ({_SEEN} WHERE {_DUE} ORDER BY due_at LIMIT {WINDOW})
    SELECT * FROM oldest
    UNION
    SELECT edge.* FROM generate_series(0, {LANES - 1}) AS lane CROSS JOIN LATERAL (
        ({_SEEN} WHERE {LANE} = lane AND {_DUE} ORDER BY {LANE}, due_at LIMIT 1)
        UNION ALL
        ({_SEEN} WHERE {LANE} = lane AND {_DUE} ORDER BY {LANE} DESC, due_at DESC LIMIT 1)
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
        deaths = CASE WHEN lease_expires_at IS NULL THEN LEAST(deaths, {max_deaths} - 1) ELSE GREATEST(deaths, 1) END
    FROM picked WHERE cluster.id = picked.id
    RETURNING cluster.*
)
SELECT {columns}, statement_timestamp(), operation.id, operation.kind, ARRAY(
    SELECT kind FROM provisioning_operationstep WHERE operation_id = operation.id AND attempts > 0
), backup.number, backup.reason, backup.created_at
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


def claim_statement(columns: str, *, ttl: timedelta, is_named: bool) -> str:
    """Claim one due row and return all that a turn decides on; see `ClusterQuerySet.claim`.

    The lease's length stands in the text: a statement without parameters has one plan, which is always kept.
    """
    candidates = _ONE if is_named else _ANY
    lease = f"interval '{ttl.total_seconds()} seconds'"
    return _CLAIM.format(candidates=candidates, columns=columns, max_deaths=MAX_DEATHS, claimers=CLAIMERS, ttl=lease)


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


def change(statement: str, parameters: Mapping[str, Any]) -> int:
    """Run a prepared statement and return how many rows it changed."""
    with connection.cursor() as cursor:
        _prepare(cursor, statement, parameters)
        return int(cursor.rowcount)


def _prepare(cursor: Any, statement: str, parameters: Mapping[str, Any]) -> None:
    """Run it through a cursor that prepares, inside Django's own wrapper, which counts it and translates errors."""
    server: psycopg.Connection[Any] = connection.connection
    server.prepare_threshold = 0  # at the first use; Django's own cursors put values into the text and never prepare
    cursor.cursor = psycopg.Cursor(server)
    cursor.execute(statement, parameters)
