"""How an order ended, computed from its facts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from examples.order_fulfilment.ledger import Entry, Fact


class Ending(StrEnum):
    """The two ends of the process."""

    FULFILLED = "fulfilled"
    REFUSED = "refused"


FULFILLED_BY = {Fact.PAYMENT_RETRIEVED, Fact.SHIPPED, Fact.INVOICE_ISSUED, Fact.CUSTOMER_NOTIFIED}
REFUSED_BY = {Fact.STOCK_REFUSED, Fact.PAYMENT_REFUNDED, Fact.CUSTOMER_NOTIFIED}


@dataclass(frozen=True)
class Outcome:
    """What became of one order."""

    order_id: str
    outcome: Ending
    reason: str | None
    payment_attempts: int
    warehouse_reminded: bool
    seconds: float
    """From the first fact to the last one."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, seconds rounded to milliseconds."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def outcome_of(history: Sequence[Entry]) -> Outcome | None:
    """Return how the order of this history ended, or None while something is still to come.

    The order's own process and the notification's process do not know each other, so their facts come in any order.
    """
    facts = {entry.fact for entry in history}
    if facts >= FULFILLED_BY:
        ending, reason = Ending.FULFILLED, None
    elif facts >= REFUSED_BY:
        ending, reason = Ending.REFUSED, "out of stock"
    else:
        return None
    return Outcome(
        order_id=history[0].order_id,
        outcome=ending,
        reason=reason,
        payment_attempts=2 if Fact.PAYMENT_FAILED in facts else 1,
        warehouse_reminded=Fact.WAREHOUSE_REMINDED in facts,
        seconds=(history[-1].happened_at - history[0].happened_at).total_seconds(),
    )


def summarize(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count the endings, for the last line of a run."""
    found = list(outcomes)
    return {
        "orders": len(found),
        "fulfilled": sum(each.outcome is Ending.FULFILLED for each in found),
        "refused": sum(each.outcome is Ending.REFUSED for each in found),
        "payment_retried": sum(each.payment_attempts > 1 for each in found),
        "warehouse_reminded": sum(each.warehouse_reminded for each in found),
    }
