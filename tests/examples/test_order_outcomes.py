"""How an order ended, from its facts."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from examples.order_fulfilment.ledger import Entry, Fact
from examples.order_fulfilment.outcomes import Ending, outcome_of, summarize

FULFILLED = [
    Fact.PLACED,
    Fact.PAYMENT_RETRIEVED,
    Fact.STOCK_RESERVED,
    Fact.SHIPPED,
    Fact.INVOICE_ISSUED,
    Fact.CUSTOMER_NOTIFIED,
]
REFUSED = [Fact.PLACED, Fact.PAYMENT_RETRIEVED, Fact.STOCK_REFUSED, Fact.PAYMENT_REFUNDED, Fact.CUSTOMER_NOTIFIED]


def make_history(facts: Sequence[Fact]) -> list[Entry]:
    began_at = datetime(2026, 1, 1, tzinfo=UTC)
    return [Entry(n, "o-1", fact, {}, began_at + timedelta(seconds=n)) for n, fact in enumerate(facts)]


def test_a_shipped_invoiced_and_announced_order_is_fulfilled() -> None:
    outcome = outcome_of(make_history(FULFILLED))

    assert outcome is not None
    assert (outcome.outcome, outcome.reason, outcome.payment_attempts, outcome.seconds) == (
        Ending.FULFILLED,
        None,
        1,
        5.0,
    )


def test_the_notification_may_come_before_the_invoice() -> None:
    swapped = [*FULFILLED[:-2], Fact.CUSTOMER_NOTIFIED, Fact.INVOICE_ISSUED]

    assert outcome_of(make_history(swapped)) is not None


def test_a_refused_order_has_its_money_back_and_a_reason() -> None:
    outcome = outcome_of(make_history(REFUSED))

    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == (Ending.REFUSED, "out of stock")


@pytest.mark.parametrize("facts", [FULFILLED, REFUSED])
def test_an_order_is_open_until_its_last_fact(facts: list[Fact]) -> None:
    assert all(outcome_of(make_history(facts[:length])) is None for length in range(len(facts)))


def test_a_summary_counts_endings_retries_and_reminders() -> None:
    histories = [
        make_history(FULFILLED),
        make_history([Fact.PLACED, Fact.PAYMENT_FAILED, *FULFILLED[1:]]),
        make_history([*FULFILLED[:3], Fact.WAREHOUSE_REMINDED, *FULFILLED[3:]]),
        make_history(REFUSED),
    ]

    outcomes = [outcome for history in histories if (outcome := outcome_of(history))]

    assert summarize(outcomes) == {
        "orders": 4,
        "fulfilled": 3,
        "refused": 1,
        "payment_retried": 1,
        "warehouse_reminded": 1,
    }
