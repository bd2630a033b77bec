"""The two walls between organizations: query sets here, row-level security in the database behind them.

The policies (see the first migrations) read three transaction-local settings that say who asks. They are only set
inside a transaction, so they end with it: web requests run in one (`ATOMIC_REQUESTS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from uuid import UUID

from django.db import connection, models

_Model = TypeVar("_Model", bound=models.Model)


class OrganizationQuerySet(models.QuerySet[_Model]):
    """Base of every customer-owned model's query set."""

    def for_organization(self, organization_id: UUID) -> Self:
        """Only what belongs to this organization."""
        return self.filter(organization_id=organization_id)


def scope(*, organization_id: UUID | None = None, user_id: UUID | None = None, presented: str | None = None) -> None:
    """Tell the database who asks, until the transaction ends. One statement; what is not named stays as it was.

    `presented` is the client id or the invitation digest that the caller showed: it opens just that row.
    """
    wanted: dict[str, Any] = {
        "flowplane.organization": organization_id,
        "flowplane.user": user_id,
        "flowplane.presented": presented,
    }
    named = {name: str(value) for name, value in wanted.items() if value is not None}
    if not named:
        return
    calls = ", ".join("set_config(%s, %s, true)" for _ in named)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {calls}", [part for pair in named.items() for part in pair])


@contextmanager
def acting_in(organization_id: UUID) -> Iterator[None]:
    """Act in another organization for a while: one that is being made, or that an invitation leads into.

    An exception leaves the setting to the savepoint or transaction, which takes it back as it rolls back.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('flowplane.organization', true)")
        (before,) = cursor.fetchone() or ("",)
        scope(organization_id=organization_id)
        yield
        cursor.execute("SELECT set_config('flowplane.organization', %s, true)", [before or ""])


def leave_scope() -> None:
    """Forget who asks: from here on the policies show nothing."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('flowplane.organization', '', true), set_config('flowplane.user', '', true),"
            " set_config('flowplane.presented', '', true)"
        )


def as_system() -> None:
    """See every organization until the transaction ends: only for operators, metrics and readiness."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE flowplane_system")
