"""What the shop decides."""

import pytest

from examples.order_fulfilment.decisions import (
    FLAKY_CARD,
    JOB_RETRIES,
    Dispatch,
    Order,
    PaymentUnavailable,
    backoff_ms,
    decide_payment,
    is_due_for_dispatch,
    is_in_stock,
)
from examples.order_fulfilment.orders import MIN_ORDERS, make_order, make_orders


def test_an_order_survives_its_journey_as_process_variables() -> None:
    order = make_order("o-1", dispatch=Dispatch.BY_HAND)

    variables = order.to_variables()

    assert variables["remindAfter"] == "PT1H"
    assert Order.from_variables(variables) == order


def test_an_order_with_a_field_of_a_newer_shop_can_still_be_read() -> None:
    order = make_order("o-1")

    assert Order.from_variables(order.to_variables() | {"giftWrap": True}) == order


def test_a_reliable_card_is_charged_at_the_first_attempt() -> None:
    charge = decide_payment(make_order("o-1", amount_minor=999), failed_before=False)

    assert (charge.payment_id, charge.amount_minor, charge.currency) == ("payment-o-1", 999, "EUR")


def test_a_flaky_card_fails_once_and_is_then_charged() -> None:
    order = make_order("o-1", card=FLAKY_CARD)

    with pytest.raises(PaymentUnavailable):
        decide_payment(order, failed_before=False)

    assert decide_payment(order, failed_before=True).payment_id == "payment-o-1"


def test_charging_twice_is_the_same_charge() -> None:
    order = make_order("o-1")

    assert decide_payment(order, failed_before=False) == decide_payment(order, failed_before=False)


@pytest.mark.parametrize(
    ("sku", "quantity", "expected"),
    [
        ("notebook", 2, True),
        ("signed-first-edition", 3, True),
        ("signed-first-edition", 4, False),
        ("unknown", 1, False),
    ],
)
def test_stock_is_promised_only_while_there_is_enough(sku: str, quantity: int, expected: bool) -> None:
    assert is_in_stock(make_order("o-1", sku=sku, quantity=quantity)) is expected


@pytest.mark.parametrize(
    ("dispatch", "is_reminded", "expected"),
    [
        (Dispatch.AT_ONCE, False, True),
        (Dispatch.WHEN_REMINDED, False, False),
        (Dispatch.WHEN_REMINDED, True, True),
        (Dispatch.BY_HAND, True, False),
    ],
)
def test_the_warehouse_dispatches_by_itself_unless_told_otherwise(
    dispatch: Dispatch, is_reminded: bool, expected: bool
) -> None:
    assert is_due_for_dispatch(make_order("o-1", dispatch=dispatch), is_reminded=is_reminded) is expected


def test_each_failure_of_a_job_waits_twice_as_long_up_to_a_limit() -> None:
    assert [backoff_ms(retries_left) for retries_left in range(JOB_RETRIES, 0, -1)] == [500, 1000, 2000, 4000, 8000]
    assert backoff_ms(-10) == 30_000


def test_a_run_tells_every_story_exactly_once() -> None:
    orders = make_orders(6, "run")

    assert [order.id for order in orders] == [f"run-{number}" for number in range(1, 7)]
    assert [is_in_stock(order) for order in orders].count(False) == 1
    assert [order.card == FLAKY_CARD for order in orders].count(True) == 1
    assert [order.dispatch for order in orders].count(Dispatch.WHEN_REMINDED) == 1


def test_too_few_orders_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        make_orders(MIN_ORDERS - 1, "run")
