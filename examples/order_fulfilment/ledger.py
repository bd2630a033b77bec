"""The shop's own book: one SQLite file of facts, each written at most once per order.

It is event sourcing in the small: facts are only ever added, and the state of an order is computed from them. It is
also what makes the workers idempotent: the engine hands a job out at least once, the ledger lets it count once.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from examples.order_fulfilment.failures import LedgerUnusable

FILE_NAME = "ledger.sqlite3"
BUSY_TIMEOUT_SECONDS = 10  # several worker processes may share one ledger

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id TEXT NOT NULL,
    fact TEXT NOT NULL,
    detail TEXT NOT NULL,
    happened_at TEXT NOT NULL,
    UNIQUE (order_id, fact)
)
"""


class Fact(StrEnum):
    """Things that happened to an order, in the past tense because nobody can refuse them any more."""

    PLACED = "placed"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_RETRIEVED = "payment_retrieved"
    PAYMENT_REFUNDED = "payment_refunded"
    STOCK_RESERVED = "stock_reserved"
    STOCK_REFUSED = "stock_refused"
    WAREHOUSE_REMINDED = "warehouse_reminded"
    SHIPPED = "shipped"
    INVOICE_ISSUED = "invoice_issued"
    CUSTOMER_NOTIFIED = "customer_notified"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    number: int
    order_id: str
    fact: Fact
    detail: Mapping[str, Any]
    happened_at: datetime


class Ledger:
    """The facts in a folder. Calls take well under a millisecond, so async code may make them directly."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger, or begin one. Raises LedgerUnusable."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / FILE_NAME, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
            # Readers and one writer at the same time, from several processes.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise LedgerUnusable(f"No ledger can be kept in {folder}: {error}. Name another folder.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def record(self, order_id: str, fact: Fact, **detail: Any) -> bool:
        """Add a fact and return True; return False, changing nothing, when the order already has it."""
        added = self._database.execute(
            "INSERT INTO facts (order_id, fact, detail, happened_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (order_id, fact, json.dumps(detail), datetime.now(UTC).isoformat()),
        )
        return added.rowcount == 1

    def has(self, order_id: str, fact: Fact) -> bool:
        """Whether this happened to this order."""
        return any(entry.fact is fact for entry in self.history(order_id))

    def history(self, order_id: str) -> list[Entry]:
        """Return the facts of one order, oldest first."""
        return self._select("WHERE order_id = ?", order_id)

    def after(self, number: int) -> list[Entry]:
        """Return the facts of all orders that were written after the given one, oldest first."""
        return self._select("WHERE number > ?", number)

    def last_number(self) -> int:
        """Return the number of the newest fact; 0 for an empty ledger."""
        (number,) = self._database.execute("SELECT coalesce(max(number), 0) FROM facts").fetchone()
        return int(number)

    def waiting(self) -> list[Entry]:
        """Return the reservations whose parcel has not left yet, oldest first."""
        return self._select(
            "WHERE fact = ? AND order_id NOT IN (SELECT order_id FROM facts WHERE fact = ?)",
            Fact.STOCK_RESERVED,
            Fact.SHIPPED,
        )

    def _select(self, condition: str, *parameters: object) -> list[Entry]:
        columns = "number, order_id, fact, detail, happened_at"
        rows = self._database.execute(f"SELECT {columns} FROM facts {condition} ORDER BY number", parameters)
        return [
            Entry(number, order_id, Fact(fact), json.loads(detail), datetime.fromisoformat(happened_at))
            for number, order_id, fact, detail, happened_at in rows
        ]
