"""What a migration may not do while the previous release runs, and what it does instead.

django-migration-linter judges SQL and data functions; the checks beside its own are for what it cannot see. It judges
statements that `migration_sql` has taken apart, because by itself it reads line by line, knows no table but the one in
the line, and lets a whole migration pass by an operation that production would have to import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import AlterField, Migration, RemoveField, RunPython, RunSQL, SeparateDatabaseAndState
from django.db.migrations.state import ProjectState
from django_migration_linter import MigrationLinter
from django_migration_linter.sql_analyser.base import Check, CheckMode, CheckType, has_not_null_column
from django_migration_linter.sql_analyser.postgresql import PostgresqlAnalyser

from tests.architecture.migration_sql import Part, Statement, parts_of

# They landed before there was anything to upgrade from.
OURS = ("tenants", "billing", "provisioning")
BASELINE = frozenset((app, name) for app in OURS for name in ("0001_initial", "0002_row_level_security"))

# Tables whose rows operators write by hand: a lock on one is over before anybody waits. Every other one may be long.
SHORT_TABLES = frozenset(
    {
        "billing_plan",
        "provisioning_channel",
        "provisioning_channel_releases",
        "provisioning_plantype",
        "provisioning_region",
        "provisioning_release",
    }
)
# What only matters because it takes long.
SLOW = frozenset({"CREATE_INDEX", "DROP_INDEX", "REINDEX", "ADD_UNIQUE", "ADD_CONSTRAINT", "REWRITE", "VALIDATE"})

# The first says the same as CREATE_INDEX; the others are matters of taste.
NOT_ASKED = ("CREATE_INDEX_EXCLUSIVE", "RUNPYTHON_ARGS_NAMING_CONVENTION", "RUNPYTHON_MODEL_VARIABLE_NAME")

# Code -> what is wrong with it, and what to do instead.
RULES = {
    "ADD_CONSTRAINT": (
        "checks every row while nobody can write",
        "Add it with AddConstraintNotValid (a foreign key: RunSQL with NOT VALID); validate it in the next migration.",
    ),
    "ADD_UNIQUE": (
        "builds its index while nobody can read or write",
        "Build a unique index concurrently (atomic = False), then ADD CONSTRAINT ... UNIQUE USING INDEX.",
    ),
    "ALTER_COLUMN": (
        "changes the column's type: the table is rewritten or locked, and the previous release expects the old one",
        "Add a new column, write both, fill it in a migration of its own, and drop the old one a release later.",
    ),
    "BACKFILL": (
        "changes data in the same migration as the schema, so that the schema's locks are held until all is filled",
        "Split it: the schema first, the data in the next migration, in batches if the table is long.",
    ),
    "CREATE_INDEX": (
        "builds an index while nobody can write",
        "Use AddIndexConcurrently in a migration with atomic = False; a foreign key gets db_index=False first.",
    ),
    "DROP_COLUMN": (
        "drops a column that the previous release reads and writes",
        "Take it out of the model first (state_operations only); drop it one release later, by an exception.",
    ),
    "DROP_DEFAULT": (
        "drops a default that the previous release counts on when it inserts",
        "Keep the default until no running release leaves the column out.",
    ),
    "DROP_INDEX": (
        "waits for a lock that stops everybody else",
        "Use RemoveIndexConcurrently in a migration with atomic = False.",
    ),
    "DROP_TABLE": (
        "drops a table that the previous release reads and writes",
        "Take the model out first (state_operations only); drop the table one release later, by an exception.",
    ),
    "FORGOTTEN_COLUMN": (
        "takes a column out of the model that no row can be inserted without",
        "Give it null=True or a db_default in an AlterField among the database_operations.",
    ),
    "HIDDEN": (
        "hides its statements in a DO block, where nobody can judge them",
        "Write them one after the other.",
    ),
    "NOT_NULL": (
        "refuses rows as the previous release inserts them, or reads the whole table under a lock",
        "A new column gets null=True or a db_default. An old one: a CHECK (... IS NOT NULL) added NOT VALID, "
        "validated in the next migration, and SET NOT NULL after it, by an exception.",
    ),
    "REINDEX": ("locks the table", "Use REINDEX ... CONCURRENTLY in a migration with atomic = False."),
    "RENAME_COLUMN": (
        "renames a column under the previous release",
        "Keep the column with db_column, or add a new one, write both, and drop the old one a release later.",
    ),
    "RENAME_TABLE": ("renames a table under the previous release", "Keep the table's name with db_table."),
    "REWRITE": (
        "computes a value for every row while nobody can read or write",
        "Add the column empty, fill it in a migration of its own, and set the default in an AlterField.",
    ),
    "RUNPYTHON_MODEL_IMPORT": (
        "uses a model as it is today, not as it was at this migration",
        "Ask for it: apps.get_model(app, name).",
    ),
    "RUNPYTHON_REVERSIBLE": ("cannot be taken back", "Give reverse_code; RunPython.noop when nothing is to be done."),
    "RUNSQL_REVERSIBLE": ("cannot be taken back", "Give reverse_sql; RunSQL.noop when nothing is to be done."),
    "VALIDATE": (
        "adds a constraint and validates it in one transaction, so that the lock is held while every row is read",
        "Validate it in the next migration.",
    ),
}

_DATA = re.compile(r"(?:WITH .* )?(?:INSERT|UPDATE|DELETE|MERGE|COPY)\b")
_SCHEMA = re.compile(r"(?:ALTER|CREATE|DROP|REINDEX)\b")
# A new column's own CHECK is let through: PostgreSQL 16 reads a million rows for it in 0.2 s. Its UNIQUE builds an
# index meanwhile, and a value that differs by row rewrites the table: 6 s for the same million.
_NEW_COLUMN_UNIQUE = re.compile(r".* ADD COLUMN .*\bUNIQUE\b")
_NEW_COLUMN_COMPUTED = re.compile(
    r".* ADD COLUMN .*(?:\bGENERATED\b|SERIAL\b|(?:gen_random_uuid|uuid\w*|random|clock_timestamp|nextval) \()",
    re.IGNORECASE,
)
_CHECKED_AT_ONCE = re.compile(r".* ADD (?:CONSTRAINT \S+ )?(?:CHECK|FOREIGN KEY)\b(?!.*\bNOT VALID)")
_INDEXED_AT_ONCE = re.compile(r".* ADD (?:CONSTRAINT \S+ )?(?:UNIQUE|PRIMARY KEY|EXCLUDE)\b(?!.*\bUSING INDEX)")


def _line(code: str, holds: Callable[[str], Any]) -> Check:
    return Check(code, lambda sql, **_: holds(sql), code, CheckMode.ONE_LINER, CheckType.ERROR)


def _group(code: str, holds: Callable[[list[str]], Any]) -> Check:
    return Check(code, lambda sql, **_: holds(sql), code, CheckMode.TRANSACTION, CheckType.ERROR)


class Analyser(PostgresqlAnalyser):
    """The library's checks of what one operation does to one column, with ours beside them or in their place."""

    migration_checks = [
        *PostgresqlAnalyser.migration_checks,
        _line("ADD_CONSTRAINT", _CHECKED_AT_ONCE.match),
        _line("ADD_UNIQUE", lambda sql: _INDEXED_AT_ONCE.match(sql) or _NEW_COLUMN_UNIQUE.match(sql)),
        _line("HIDDEN", lambda sql: sql.startswith("DO ")),
        _line("REWRITE", _NEW_COLUMN_COMPUTED.match),
        _group("DROP_DEFAULT", lambda sql: _has(sql, "DROP DEFAULT") and not _has(sql, " ADD COLUMN ")),
        _group("NOT_NULL", lambda sql: has_not_null_column(sql) or _has(sql, " SET NOT NULL")),
    ]


def _has(statements: Iterable[str], words: str) -> bool:
    return any(words in statement for statement in statements)


@dataclass(frozen=True, order=True)
class Finding:
    """Something that a migration does, and to what."""

    code: str
    where: str

    @property
    def key(self) -> str:
        """How an exception names it."""
        return f"{self.code} {self.where}".strip()

    @property
    def sentence(self) -> str:
        """What is wrong, what to do instead, and how to do it all the same."""
        wrong, instead = RULES[self.code]
        return (
            f"{self.where or 'it'} {wrong}. {instead} When it is safe all the same, the migration says why: "
            f'exceptions = {{"{self.key}": "..."}}; see docs/upgrading.md.'
        )


def refusals(migration: Migration, state: ProjectState, connection: BaseDatabaseWrapper) -> list[str]:
    """Return a sentence for each thing that this migration may not do, seen from the model state before it."""
    found = set(_findings(migration, parts_of(migration, state, connection)))
    exceptions: Mapping[str, str] = getattr(migration, "exceptions", {})
    sentences = [finding.sentence for finding in sorted(found) if finding.key not in exceptions]
    sentences += [
        f"the exception “{key}” is for nothing that this migration does. Remove it."
        for key in exceptions.keys() - {finding.key for finding in found}
    ]
    sentences += [
        f"the exception “{key}” has no reason. Say which release stopped needing it, or why nobody has to wait."
        for key, reason in exceptions.items()
        if len(reason.split()) < 4
    ]
    return [f"{migration.app_label}.{migration.name}: {sentence}" for sentence in sentences]


def _findings(migration: Migration, parts: list[Part]) -> Iterator[Finding]:
    new = {one.table for part in parts for one in part.statements if one.text.startswith("CREATE TABLE ")}
    kept = [(part, [one for one in part.statements if one.table not in new]) for part in parts]
    for part, statements in kept:
        yield from _of_data_functions(part)
        yield from _of_the_model(part, migration.app_label)
        for finding in _of_sql(statements):
            is_short = finding.code in SLOW and finding.where.split(".")[0] in SHORT_TABLES
            if not is_short and not (finding.code == "ALTER_COLUMN" and _widens(part, migration.app_label)):
                yield finding
    yield from _of_the_whole(migration, kept)


def _of_sql(statements: list[Statement]) -> Iterator[Finding]:
    for where, group in groupby(sorted(statements, key=lambda one: one.where), key=lambda one: one.where):
        # Stable: what is about the same column stays in its order.
        analyser = Analyser(NOT_ASKED)
        analyser.analyse([one.text for one in group])
        yield from (Finding(issue.code, where) for issue in (*analyser.errors, *analyser.warnings))


def _of_data_functions(part: Part) -> Iterator[Finding]:
    operation = part.operation
    if isinstance(operation, RunSQL) and not operation.reversible:
        yield Finding("RUNSQL_REVERSIBLE", "RunSQL")
    if isinstance(operation, RunPython):
        linter = MigrationLinter(no_cache=True, no_output=True, exclude_migration_tests=NOT_ASKED)
        errors, _, warnings = linter.lint_runpython(operation)
        name = getattr(operation.code, "__name__", "RunPython")  # a `partial` has none
        yield from (Finding(issue.code, name) for issue in (*errors, *warnings))


def _of_the_model(part: Part, app: str) -> Iterator[Finding]:
    """A field that goes from the model and stays in the table: what is inserted from now on has no value for it."""
    if not isinstance(part.operation, SeparateDatabaseAndState):
        return
    for operation in part.operation.state_operations:
        if isinstance(operation, RemoveField):
            model = part.before.models[app, operation.model_name_lower]
            field = model.fields.get(operation.name_lower)
            if field is not None and not field.null and not field.has_db_default():
                yield Finding("FORGOTTEN_COLUMN", f"{app}_{operation.model_name_lower}.{operation.name_lower}")


def _widens(part: Part, app: str) -> bool:
    """Whether a column gets room for longer text, which changes nothing in its table."""
    operation = part.operation
    if not isinstance(operation, AlterField):
        return False
    before = part.before.models[app, operation.model_name_lower].fields[operation.name_lower]
    return _room(before) <= _room(operation.field) and _room(before) > 0


def _room(field: models.Field[Any, Any]) -> float:
    """How many characters fit; 0 for what is no text."""
    if isinstance(field, models.TextField):
        return float("inf")
    return float(field.max_length or 0) if isinstance(field, models.CharField) else 0.0


def _of_the_whole(migration: Migration, kept: list[tuple[Part, list[Statement]]]) -> Iterator[Finding]:
    statements = [one.text for _, several in kept for one in several]
    changes_data = any(isinstance(part.operation, RunPython) for part, _ in kept) or any(map(_DATA.match, statements))
    if changes_data and any(map(_SCHEMA.match, statements)):
        yield Finding("BACKFILL", "")
    if migration.atomic and _has(statements, " NOT VALID") and _has(statements, " VALIDATE CONSTRAINT "):
        yield Finding("VALIDATE", "")
