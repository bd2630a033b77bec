"""Keyset pages: newest first, any depth at the same cost, never a count."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet

from common.errors import InvalidRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 100

_Row = TypeVar("_Row", bound=Model)
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: at most `limit` rows, after `cursor`."""

    limit: int = DEFAULT_LIMIT
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Slice(Generic[_Item]):
    """A part of a list, and where the next part begins ("" at the end)."""

    items: Sequence[_Item]
    next_cursor: str = ""

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def parse_page(limit: str, cursor: str) -> Page:
    """A page from what a caller typed.

    Raises:
        InvalidRequest: the limit is not within 1 to 100, or the cursor is not one of ours.
    """
    try:
        size = int(limit or DEFAULT_LIMIT)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_LIMIT:
        raise InvalidRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}.", field="limit")
    if cursor:
        _decode(cursor)
    return Page(size, cursor)


def slice_newest_first(rows: QuerySet[_Row, _Row], page: Page, *, time_field: str = "created_at") -> Slice[_Row]:
    """One page of `rows`, newest first. One query, served by an index on (…, -time, -id)."""
    ordered = rows.order_by(f"-{time_field}", "-pk")
    if after := position_of(page):
        at, pk = after
        # The first condition is implied by the second; it lets the index skip everything newer.
        ordered = ordered.filter(Q(**{f"{time_field}__lte": at})).filter(
            Q(**{f"{time_field}__lt": at}) | Q(**{time_field: at, "pk__lt": pk})
        )
    return slice_of(list(ordered[: page.limit + 1]), page, time_field=time_field)


def position_of(page: Page) -> tuple[datetime, UUID] | None:
    """Time and id of the row that the page begins after; None for the first one. Raises `InvalidRequest`."""
    return _decode(page.cursor) if page.cursor else None


def slice_of(found: Sequence[_Row], page: Page, *, time_field: str = "created_at") -> Slice[_Row]:
    """The page, from its rows and one more when there is one."""
    items = found[: page.limit]
    return Slice(items, _encode(items[-1], time_field) if len(found) > page.limit else "")


def _encode(row: Any, time_field: str) -> str:
    text = f"{getattr(row, time_field).isoformat()} {row.pk}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, pk = base64.urlsafe_b64decode(padded.encode()).decode().split(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError
        return moment, UUID(pk)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("This cursor is not one we gave out. Start again without it.", field="cursor") from error
