"""The shop window and the warehouse: both publish events, and neither knows who listens."""

import asyncio
import logging
import time
from functools import partial
from typing import Any

from pyzeebe import ZeebeClient
from pyzeebe.errors import MessageAlreadyExistsError, ZeebeError

from examples.order_fulfilment.decisions import FLAKY_CARD, Dispatch, Order, is_due_for_dispatch
from examples.order_fulfilment.ledger import Entry, Fact, Ledger
from examples.order_fulfilment.patience import is_worth_asking_again, patiently

ORDER_PLACED = "order-placed"
ORDER_SHIPPED = "order-shipped"

# How long the engine keeps a message for a receiver that is not there yet, and refuses a second one with its id.
MESSAGE_TTL_MS = 60 * 60 * 1000

MIN_ORDERS = 3  # one is fulfilled, one is refused, one has its payment retried

COMMAND_PATIENCE_SECONDS = 60
DISPATCH_INTERVAL_SECONDS = 0.25

logger = logging.getLogger(__name__)


def make_orders(count: int, prefix: str) -> list[Order]:
    """Return orders of which the second is short of stock, the third pays at the second attempt, the fourth is late.

    Raises ValueError below MIN_ORDERS.
    """
    if count < MIN_ORDERS:
        raise ValueError(f"{count} orders are too few to show every ending: at least {MIN_ORDERS}")
    orders = [make_order(f"{prefix}-{number}") for number in range(1, count + 1)]
    orders[1] = make_order(orders[1].id, sku="signed-first-edition", quantity=5)
    orders[2] = make_order(orders[2].id, card=FLAKY_CARD)
    if count > MIN_ORDERS:
        orders[3] = make_order(orders[3].id, remind_after="PT1S", dispatch=Dispatch.WHEN_REMINDED)
    return orders


def make_order(order_id: str, **overrides: Any) -> Order:
    """Return an order that the shop can fulfil at once, but for the overrides."""
    usual: dict[str, Any] = {
        "customer": "ada@example.com",
        "sku": "notebook",
        "quantity": 2,
        "amount_minor": 2480,
        "currency": "EUR",
        "card": "card-reliable",
        "remind_after": "PT1H",
        "dispatch": Dispatch.AT_ONCE,
    }
    return Order(id=order_id, **usual | overrides)


async def place(client: ZeebeClient, ledger: Ledger, order: Order) -> None:
    """Publish that an order was placed, which starts its process. May run twice: the message id is the order's."""
    variables = order.to_variables()
    ledger.record(order.id, Fact.PLACED, order=variables)
    await publish(client, ORDER_PLACED, order.id, {"order": variables})


async def ship(client: ZeebeClient, ledger: Ledger, reservation: Entry) -> None:
    """Publish that a parcel left. May run twice.

    The event is published before it is written down: after a crash in between it is published again, and refused.
    """
    variables = {"order": reservation.detail["order"], "news": "shipped"}
    await publish(client, ORDER_SHIPPED, reservation.order_id, variables)
    ledger.record(reservation.order_id, Fact.SHIPPED)


async def publish(client: ZeebeClient, name: str, order_id: str, variables: dict[str, Any]) -> None:
    """Publish an event of one order exactly once within MESSAGE_TTL_MS, however often it is called."""
    send = partial(
        client.publish_message,
        name,
        correlation_key=order_id,
        variables=variables,
        time_to_live_in_milliseconds=MESSAGE_TTL_MS,
        message_id=f"{name}/{order_id}",
    )
    try:
        await patiently(send, give_up_at=time.time() + COMMAND_PATIENCE_SECONDS)
    except MessageAlreadyExistsError:
        return  # the engine has it: this is the answer a retry hopes for


async def run_warehouse(client: ZeebeClient, ledger: Ledger) -> None:
    """Hand over every reserved parcel when its time has come, until cancelled.

    An engine that is away is waited for. Raises ZeebeError when waiting will not help.
    """
    while True:
        try:
            for reservation in ledger.waiting():
                order = Order.from_variables(reservation.detail["order"])
                if is_due_for_dispatch(order, is_reminded=ledger.has(order.id, Fact.WAREHOUSE_REMINDED)):
                    await ship(client, ledger, reservation)
        except ZeebeError as error:
            if not is_worth_asking_again(error):
                raise
            logger.warning("No parcel leaves: the engine said %s.", error.grpc_error.code().name)
        await asyncio.sleep(DISPATCH_INTERVAL_SECONDS)
