"""What a migration would send to PostgreSQL, as single statements that a rule can be written for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlparse
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration, SeparateDatabaseAndState
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

_LITERAL = re.compile(r"(\$\w*\$).*?\1|'(?:[^']|'')*'", re.DOTALL)
_ALTER_TABLE = re.compile(r"(ALTER TABLE (?:IF EXISTS )?(?:ONLY )?\S+) (.*)")
_UNNAMED_COLUMN = re.compile(
    r"^(ADD|DROP|ALTER|RENAME) (?!(?:COLUMN|CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE|TO)\b)"
)
_SUBJECTS = (
    re.compile(r"(?:ALTER|CREATE|DROP) TABLE (?:IF (?:NOT )?EXISTS )?(?:ONLY )?(\S+)"),
    re.compile(r"CREATE (?:UNIQUE )?INDEX .*?ON (?:ONLY )?(\S+)"),
    re.compile(r"(?:DROP INDEX|REINDEX (?:INDEX|TABLE))(?: CONCURRENTLY)?(?: IF EXISTS)? (\S+)"),
    re.compile(r"(?:INSERT INTO|DELETE FROM|UPDATE|MERGE INTO|COPY)(?: ONLY)? (\S+)"),
)
_COLUMN = re.compile(r"ALTER TABLE .*?(?:ADD|DROP|ALTER|RENAME) COLUMN (?:IF (?:NOT )?EXISTS )?(\S+)")


@dataclass(frozen=True)
class Statement:
    """One statement that does one thing: keywords in capitals, on one line, literals emptied, COLUMN always said."""

    text: str

    @property
    def table(self) -> str:
        """What it is about: a table, or the index that it drops; "" for anything else."""
        found = (subject.match(self.text) for subject in _SUBJECTS)
        return next((match[1].replace('"', "").removeprefix("public.") for match in found if match), "")

    @property
    def column(self) -> str:
        """The column that it adds, drops, alters or renames; "" for anything else."""
        match = _COLUMN.match(self.text)
        return match[1].strip('"') if match else ""

    @property
    def where(self) -> str:
        """`table` or `table.column`."""
        return f"{self.table}.{self.column}" if self.column else self.table


@dataclass(frozen=True)
class Part:
    """One operation of a migration, with the model state before it and what it would send."""

    operation: Operation
    before: ProjectState
    statements: tuple[Statement, ...]


def parts_of(migration: Migration, state: ProjectState, connection: BaseDatabaseWrapper) -> list[Part]:
    """Take a migration apart without running anything of it. `state` is the one that it starts from.

    The connection must be outside a transaction, or Django refuses to build an index concurrently.
    """
    state = state.clone()
    return [part for one in migration.operations for part in _parts(one, migration.app_label, state, connection)]


def _parts(operation: Operation, app: str, state: ProjectState, connection: BaseDatabaseWrapper) -> Iterator[Part]:
    """Yield an operation's parts and bring `state` to what is true after it."""
    before = state.clone()
    if isinstance(operation, SeparateDatabaseAndState):
        inner = state.clone()
        for one in operation.database_operations:
            yield from _parts(one, app, inner, connection)
        operation.state_forwards(app, state)
        yield Part(operation, inner, ())
        return
    operation.state_forwards(app, state)
    yield Part(operation, before, tuple(_collected(operation, app, before, state, connection)))


def _collected(
    operation: Operation, app: str, before: ProjectState, after: ProjectState, connection: BaseDatabaseWrapper
) -> list[Statement]:
    if not operation.reduces_to_sql:
        return []
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        operation.database_forwards(app, editor, before, after)
    return statements("\n".join(editor.collected_sql))


def statements(sql: str) -> list[Statement]:
    """Return a script's statements; one that alters a table in several ways becomes several."""
    plain = _LITERAL.sub("''", sqlparse.format(sql, strip_comments=True, keyword_case="upper"))
    # `ON t(x)` and `ON t (x)` are one; so is all white space.
    lines = [" ".join(one.replace("(", " (").split()).rstrip("; ") for one in sqlparse.split(plain)]
    return [Statement(single) for line in lines if line for single in _single_actions(line)]


def _single_actions(line: str) -> Sequence[str]:
    altered = _ALTER_TABLE.match(line)
    if altered is None:
        return (line,)
    actions = (_UNNAMED_COLUMN.sub(r"\1 COLUMN ", action) for action in _top_level(altered[2]))
    return [f"{altered[1]} {action}" for action in actions]


def _top_level(text: str) -> list[str]:
    """Split at the commas that stand outside parentheses."""
    depth, parts = 0, [""]
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
