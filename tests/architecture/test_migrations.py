"""Every migration leaves the previous release working: expand now, contract one release later.

What comes after the baseline is judged by `migration_rules`; each rule is proved here with a migration that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps.registry import Apps
from django.contrib.postgres.functions import RandomUUID
from django.contrib.postgres.operations import (
    AddConstraintNotValid,
    AddIndexConcurrently,
    RemoveIndexConcurrently,
    ValidateConstraint,
)
from django.db import connections, migrations, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.models import Q
from django.db.models.functions import Now

from embedded.setup import CHECKOUT
from provisioning.models import Cluster
from tests.architecture.migration_rules import BASELINE, NOT_ASKED, OURS, RULES, Analyser, refusals
from tests.architecture.migration_sql import statements

pytestmark = pytest.mark.django_db


@pytest.fixture
def line() -> Iterator[BaseDatabaseWrapper]:
    """A connection of its own: the test's is inside a transaction, where no index can be built concurrently."""
    line = connections.create_connection("default")
    yield line
    line.close()


@pytest.fixture(scope="module")
def loader() -> MigrationLoader:
    """All migrations, by their files alone."""
    return MigrationLoader(None)


def newer() -> list[tuple[str, str]]:
    """Our migrations that somebody's installation will meet while the previous release runs."""
    known = MigrationLoader(None).disk_migrations
    return sorted(key for key in known if key[0] in OURS and key not in BASELINE)


def test_the_baseline_is_there(loader: MigrationLoader) -> None:
    assert loader.disk_migrations.keys() >= BASELINE


def test_every_migration_leaves_the_previous_release_working(
    loader: MigrationLoader, line: BaseDatabaseWrapper
) -> None:
    refused = [
        sentence
        for key in newer()
        for sentence in refusals(loader.disk_migrations[key], loader.project_state(key, at_end=False), line)
    ]
    assert not refused, "\n\n".join(["These migrations would break what is running:", *refused])


def judged(line: BaseDatabaseWrapper, *operations: Operation, **attributes: Any) -> list[str]:
    """What the linter says of a migration of the provisioning app with these operations."""
    made = type("Migration", (migrations.Migration,), {"operations": list(operations), **attributes})
    return refusals(made("0099_throwaway", "provisioning"), MigrationLoader(None).project_state(), line)


def codes(sentences: list[str]) -> set[str]:
    """The rules that spoke: each sentence names its own."""
    return {match[1] for sentence in sentences if (match := re.search(r'exceptions = \{"(\w+)', sentence))}


def add(field: models.Field[Any, Any], model: str = "cluster") -> Operation:
    return migrations.AddField(model, "extra", field)


def alter(name: str, field: models.Field[Any, Any], model: str = "cluster") -> Operation:
    return migrations.AlterField(model, name, field)


def sql(text: str, reverse: str | None = migrations.RunSQL.noop) -> Operation:
    return migrations.RunSQL(text, reverse)


def fill(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    raise AssertionError("a migration that is judged is never run")


def fill_todays_model(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    Cluster.objects.update(failures=0)


def data(function: Any = fill, reverse: Any = migrations.RunPython.noop) -> Operation:
    return migrations.RunPython(function, reverse)


INDEX = models.Index(fields=["name"], name="cluster_by_name")
UNIQUE = models.UniqueConstraint(fields=["name"], name="cluster_name_unique")
CHECK = models.CheckConstraint(condition=Q(failures__gte=0), name="cluster_failures")
FOREIGN_KEY = "FOREIGN KEY (id) REFERENCES provisioning_cluster"

# What is refused, and by which rule.
BAD: list[tuple[str, set[str], list[Operation]]] = [
    ("a column that old code does not fill", {"NOT_NULL"}, [add(models.IntegerField(default=0))]),
    ("the same by hand", {"NOT_NULL"}, [sql("alter table provisioning_cluster add extra int\nnot null")]),
    (
        "the same beside one that is fine",
        {"NOT_NULL"},
        [sql("ALTER TABLE provisioning_cluster ADD a int NOT NULL, ADD b int DEFAULT 0 NOT NULL")],
    ),
    (
        "a column that may no longer be empty",
        {"NOT_NULL"},
        [sql("alter table tenants_user alter last_login set not null")],
    ),
    (
        "the same with a default, which also fills it",
        {"NOT_NULL", "BACKFILL"},
        [alter("start_after", models.DateTimeField(db_default=Now()))],
    ),
    ("a dropped default", {"DROP_DEFAULT"}, [alter("due_at", models.DateTimeField(null=True))]),
    ("a dropped column", {"DROP_COLUMN"}, [migrations.RemoveField("cluster", "was_healthy")]),
    ("the same by hand", {"DROP_COLUMN"}, [sql("alter table provisioning_cluster drop was_healthy")]),
    ("a dropped column of a short table", {"DROP_COLUMN"}, [migrations.RemoveField("release", "serves_rest")]),
    ("a dropped table", {"DROP_TABLE"}, [migrations.DeleteModel("OperationStep")]),
    ("a renamed column", {"RENAME_COLUMN"}, [migrations.RenameField("cluster", "name", "title")]),
    ("the same by hand", {"RENAME_COLUMN"}, [sql("alter table provisioning_cluster rename name to title")]),
    ("a renamed table", {"RENAME_TABLE"}, [migrations.AlterModelTable("cluster", "engines")]),
    ("another type", {"ALTER_COLUMN"}, [alter("failures", models.BigIntegerField(default=0))]),
    ("less room", {"ALTER_COLUMN"}, [alter("endpoint_grpc", models.CharField(max_length=20, blank=True))]),
    ("the same by hand", {"ALTER_COLUMN"}, [sql("alter table provisioning_cluster alter failures type bigint")]),
    ("an index", {"CREATE_INDEX"}, [migrations.AddIndex("cluster", INDEX)]),
    ("an index by hand", {"CREATE_INDEX"}, [sql("create index extra\n  on tenants_auditevent(action)")]),
    ("a key with its index", {"CREATE_INDEX"}, [add(models.ForeignKey("region", models.PROTECT, null=True))]),
    ("a unique column", {"ADD_UNIQUE", "CREATE_INDEX"}, [add(models.CharField(max_length=9, null=True, unique=True))]),
    ("a dropped index", {"DROP_INDEX"}, [migrations.RemoveIndex("cluster", "cluster_newest_first")]),
    ("a rebuilt index", {"REINDEX"}, [sql("reindex table provisioning_cluster")]),
    ("a unique constraint", {"ADD_UNIQUE"}, [migrations.AddConstraint("cluster", UNIQUE)]),
    ("a checked constraint", {"ADD_CONSTRAINT"}, [migrations.AddConstraint("cluster", CHECK)]),
    ("a key by hand", {"ADD_CONSTRAINT"}, [sql(f"ALTER TABLE provisioning_operationstep ADD {FOREIGN_KEY}")]),
    ("a value for every row", {"REWRITE"}, [add(models.UUIDField(db_default=RandomUUID()))]),
    (
        "a lock held for validation",
        {"VALIDATE"},
        [AddConstraintNotValid("cluster", CHECK), ValidateConstraint("cluster", "cluster_failures")],
    ),
    ("a function without reverse", {"RUNPYTHON_REVERSIBLE"}, [data(reverse=None)]),
    ("a function with today's model", {"RUNPYTHON_MODEL_IMPORT"}, [data(fill_todays_model)]),
    ("a script without reverse", {"RUNSQL_REVERSIBLE"}, [sql("UPDATE provisioning_cluster SET failures = 0", None)]),
    ("a function beside a change", {"BACKFILL"}, [add(models.IntegerField(null=True)), data()]),
    (
        "a script beside a change",
        {"BACKFILL"},
        [add(models.IntegerField(null=True)), sql("update provisioning_cluster set extra = 1")],
    ),
    (
        "a function hidden in a pair",
        {"RUNPYTHON_REVERSIBLE"},
        [migrations.SeparateDatabaseAndState([data(reverse=None)], [])],
    ),
    ("a hidden statement", {"HIDDEN"}, [sql("do $$ begin drop table provisioning_cluster; end $$")]),
    (
        "a column that is forgotten while it must be filled",
        {"FORGOTTEN_COLUMN"},
        [migrations.SeparateDatabaseAndState([], [migrations.RemoveField("cluster", "was_healthy")])],
    ),
]


@pytest.mark.parametrize(("expected", "operations"), [pytest.param(*one[1:], id=one[0]) for one in BAD])
def test_what_would_break_the_previous_release_is_refused(
    line: BaseDatabaseWrapper, expected: set[str], operations: list[Operation]
) -> None:
    sentences = judged(line, *operations)
    assert codes(sentences) == expected, sentences
    assert all(sentence.startswith("provisioning.0099_throwaway: ") for sentence in sentences)


GOOD: list[tuple[str, list[Operation]]] = [
    ("a column that may be empty", [add(models.IntegerField(null=True))]),
    ("a column that fills itself", [add(models.PositiveIntegerField(db_default=0))]),
    ("a key without index", [add(models.ForeignKey("region", models.PROTECT, null=True, db_index=False))]),
    ("more room", [alter("endpoint_grpc", models.CharField(max_length=400, blank=True))]),
    ("any room", [alter("endpoint_grpc", models.TextField(blank=True))]),
    ("a column that may be empty from now on", [alter("failures", models.PositiveIntegerField(null=True))]),
    ("another choice", [alter("stage", models.CharField(max_length=8, choices=[("dev", "dev")]))]),
    (
        "an index of a short table",
        [migrations.AddIndex("region", models.Index(fields=["name"], name="region_by_name"))],
    ),
    ("a constraint for later", [AddConstraintNotValid("cluster", CHECK)]),
    ("a key for later", [sql(f"ALTER TABLE provisioning_operationstep ADD CONSTRAINT x {FOREIGN_KEY} NOT VALID")]),
    ("a constraint over an index", [sql("ALTER TABLE tenants_user ADD CONSTRAINT x UNIQUE USING INDEX y")]),
    ("data alone", [data(), sql("UPDATE provisioning_cluster SET failures = 0 WHERE failures > 9")]),
    ("grants", [sql("GRANT SELECT ON provisioning_cluster TO flowplane_app")]),
    (
        "a new table, with all that belongs to it",
        [
            migrations.CreateModel(
                "Extra",
                [
                    ("id", models.BigAutoField(primary_key=True)),
                    ("number", models.PositiveIntegerField()),
                    ("cluster", models.ForeignKey("provisioning.cluster", models.PROTECT, related_name="+")),
                ],
            ),
            migrations.AddConstraint("extra", models.UniqueConstraint(fields=["number"], name="extra_number_once")),
            migrations.AddIndex("extra", models.Index(fields=["number"], name="extra_number")),
            sql("INSERT INTO provisioning_extra (number) SELECT 1 WHERE false"),
        ],
    ),
    (
        "a column that leaves the model when nobody needs to fill it",
        [
            migrations.SeparateDatabaseAndState(
                [alter("was_healthy", models.BooleanField(default=False, db_default=False))],
                [migrations.RemoveField("cluster", "was_healthy")],
            )
        ],
    ),
]


@pytest.mark.parametrize("operations", [pytest.param(one[1], id=one[0]) for one in GOOD])
def test_what_the_previous_release_can_live_with_is_let_through(
    line: BaseDatabaseWrapper, operations: list[Operation]
) -> None:
    assert judged(line, *operations) == []


def test_what_works_beside_writers_is_let_through_outside_a_transaction(line: BaseDatabaseWrapper) -> None:
    for operation in (
        AddIndexConcurrently("cluster", INDEX),
        RemoveIndexConcurrently("cluster", "cluster_newest_first"),
    ):
        assert judged(line, operation, atomic=False) == []
    validated = [AddConstraintNotValid("cluster", CHECK), ValidateConstraint("cluster", CHECK.name)]
    assert judged(line, *validated, atomic=False) == []


REMOVAL = migrations.RemoveField("cluster", "was_healthy")
KEY = "DROP_COLUMN provisioning_cluster.was_healthy"


def test_an_exception_with_its_reason_lets_one_thing_through(line: BaseDatabaseWrapper) -> None:
    reasoned = {KEY: "Release 0.3 was the last one to read it."}
    assert judged(line, REMOVAL, exceptions=reasoned) == []
    others = judged(line, REMOVAL, migrations.RemoveField("cluster", "seen_at"), exceptions=reasoned)
    assert ['"DROP_COLUMN provisioning_cluster.seen_at"' in sentence for sentence in others] == [True]


def test_an_exception_without_reason_or_without_use_is_refused(line: BaseDatabaseWrapper) -> None:
    (sentence,) = judged(line, REMOVAL, exceptions={KEY: "it is fine"})
    assert "has no reason" in sentence
    (sentence,) = judged(line, data(), exceptions={KEY: "Release 0.3 was the last one to read it."})
    assert "is for nothing that this migration does" in sentence


def test_every_rule_says_what_to_do_instead_and_is_proved_here() -> None:
    asked = {check.code for check in Analyser(NOT_ASKED).migration_checks} - set(NOT_ASKED)
    assert asked <= RULES.keys()
    assert {code for _, expected, _ in BAD for code in expected} == RULES.keys()
    assert all(instead.endswith(".") for _, instead in RULES.values())
    page = (CHECKOUT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    assert [code for code in RULES if f"`{code}`" not in page] == []


def test_a_script_is_taken_apart_into_what_it_does() -> None:
    script = """
        -- it's a comment; with a semicolon
        ALTER TABLE ONLY public.one ADD a text DEFAULT 'x;, NOT NULL', ADD CHECK (b IN (1, 2)), DROP IF EXISTS c;
        create unique index concurrently two_x on "two"(x, y);
        DO $body$ BEGIN DROP TABLE three; END $body$;
    """
    assert [(one.text, one.where) for one in statements(script)] == [
        ("ALTER TABLE ONLY public.one ADD COLUMN a text DEFAULT ''", "one.a"),
        ("ALTER TABLE ONLY public.one ADD CHECK (b IN (1, 2))", "one"),
        ("ALTER TABLE ONLY public.one DROP COLUMN IF EXISTS c", "one.c"),
        ('CREATE UNIQUE INDEX CONCURRENTLY two_x ON "two" (x, y)', "two"),
        ("DO ''", ""),
    ]
