"""What each command does, step by step, printing as it goes."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pyzeebe.errors import ZeebeError

from examples.order_fulfilment.connection import is_refusal
from examples.order_fulfilment.decisions import Dispatch, Order
from examples.order_fulfilment.failures import TookTooLong, UnknownOrder, root_of
from examples.order_fulfilment.ledger import Entry, Fact, Ledger
from examples.order_fulfilment.orders import place, ship
from examples.order_fulfilment.outcomes import Outcome, outcome_of, summarize
from examples.order_fulfilment.output import Emit, progress_of
from examples.order_fulfilment.shop import Shop, deploy, follow, open_shop, while_open

RECONNECT_SECONDS = 1.0


async def deploy_processes(folder: Path, emit: Emit) -> None:
    """Deploy the processes."""
    async with open_shop(folder) as shop:
        await _deploy(shop, emit)


async def work_until_stopped(folder: Path, emit: Emit) -> None:
    """Serve jobs until cancelled, across restarts of the engine and changes of its access.

    A fresh connection fetches a fresh token. One that is refused at once ends the command; one that was good and is
    refused later, because access to the engine was changed, is replaced.
    """
    while True:
        async with open_shop(folder) as shop:
            await _work_until_refused(shop, emit)
        await asyncio.sleep(RECONNECT_SECONDS)


async def place_orders(folder: Path, orders: Sequence[Order], emit: Emit) -> None:
    """Place orders and leave their fulfilment to whoever works."""
    async with open_shop(folder) as shop:
        for order in orders:
            await place(shop.client, shop.ledger, order)
            emit("progress", **progress_of(shop.ledger.history(order.id)[0]))


async def run_orders(folder: Path, orders: Sequence[Order], timeout_seconds: float, emit: Emit) -> None:
    """Deploy, place the orders, work, and end when every order has ended. Raises TookTooLong."""
    started = time.monotonic()
    async with open_shop(folder) as shop:
        await _deploy(shop, emit)
        outcomes = await while_open(shop, _place_and_watch(shop, orders, timeout_seconds, emit))
    _emit_summary(outcomes, started, emit)


async def leave_waiting(folder: Path, order: Order, timeout_seconds: float, emit: Emit) -> None:
    """Deploy, place the order, and leave when it waits in the engine for its shipment. Raises TookTooLong."""
    async with open_shop(folder) as shop:
        await _deploy(shop, emit)
        await while_open(shop, _place_and_reserve(shop, order, timeout_seconds, emit))
    emit("waiting", order_id=order.id)


async def ship_orders(folder: Path, order_ids: Sequence[str], timeout_seconds: float, emit: Emit) -> None:
    """Ship the given orders, or all that wait for a hand, and work until they have ended.

    Raises UnknownOrder and TookTooLong.
    """
    started = time.monotonic()
    async with open_shop(folder) as shop:
        reservations = _reservations_of(shop.ledger, order_ids)
        outcomes = await while_open(shop, _ship_and_watch(shop, reservations, timeout_seconds, emit))
    _emit_summary(outcomes, started, emit)


async def _deploy(shop: Shop, emit: Emit) -> None:
    for process, version in (await deploy(shop.client)).items():
        emit("deployed", process=process, version=version)


async def _work_until_refused(shop: Shop, emit: Emit) -> None:
    emit("working")
    try:
        await while_open(shop, _print_progress(shop.ledger, emit))
    except ExceptionGroup as group:
        error = root_of(group)
        if not isinstance(error, ZeebeError) or not is_refusal(error):
            raise
        emit("reconnecting", message="The engine no longer accepts our token; fetching another.")


async def _print_progress(ledger: Ledger, emit: Emit) -> None:
    async for entry in follow(ledger, ledger.last_number()):
        emit("progress", **progress_of(entry))


async def _place_and_watch(shop: Shop, orders: Sequence[Order], timeout_seconds: float, emit: Emit) -> list[Outcome]:
    for order in orders:
        await place(shop.client, shop.ledger, order)
    # From their first facts on, not from now: orders that were placed before end here just as well.
    start = min(shop.ledger.history(order.id)[0].number for order in orders) - 1
    return await _watch(shop.ledger, start, {order.id for order in orders}, timeout_seconds, emit)


async def _ship_and_watch(
    shop: Shop, reservations: Sequence[Entry], timeout_seconds: float, emit: Emit
) -> list[Outcome]:
    for reservation in reservations:
        if not shop.ledger.has(reservation.order_id, Fact.SHIPPED):
            await ship(shop.client, shop.ledger, reservation)
    # From the reservation on, not from now: an order that was shipped before ends here just as well.
    start = min((each.number for each in reservations), default=0)
    return await _watch(shop.ledger, start, {each.order_id for each in reservations}, timeout_seconds, emit)


async def _place_and_reserve(shop: Shop, order: Order, timeout_seconds: float, emit: Emit) -> None:
    start = shop.ledger.last_number()
    await place(shop.client, shop.ledger, order)
    async with _time_limit(timeout_seconds, "get its goods reserved", {order.id}):
        async for entry in follow(shop.ledger, start):
            if entry.order_id == order.id:
                emit("progress", **progress_of(entry))
                if entry.fact is Fact.STOCK_RESERVED:
                    return


async def _watch(
    ledger: Ledger, start: int, order_ids: Collection[str], timeout_seconds: float, emit: Emit
) -> list[Outcome]:
    """Print the facts of these orders as they come, and return the outcomes when all orders have ended."""
    outcomes: list[Outcome] = []
    still_open = set(order_ids)
    if not still_open:
        return outcomes
    async with _time_limit(timeout_seconds, "end", still_open):
        async for entry in follow(ledger, start):
            if entry.order_id not in order_ids:
                continue
            emit("progress", **progress_of(entry))
            outcome = outcome_of([each for each in ledger.history(entry.order_id) if each.number <= entry.number])
            if outcome and entry.order_id in still_open:
                still_open.remove(entry.order_id)
                outcomes.append(outcome)
                emit("outcome", **outcome.to_json())
            if not still_open:
                break
    return outcomes


@asynccontextmanager
async def _time_limit(seconds: float, what: str, still_open: Collection[str]) -> AsyncIterator[None]:
    """Raise TookTooLong, naming the orders that are still open by then."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        names = ", ".join(sorted(still_open))
        raise TookTooLong(f"Did not {what} within {seconds:g} s: {names}. See what the engine says of them.") from None


def _reservations_of(ledger: Ledger, order_ids: Sequence[str]) -> list[Entry]:
    if not order_ids:
        return [each for each in ledger.waiting() if each.detail["order"]["dispatch"] == Dispatch.BY_HAND]
    return [_reservation_of(ledger, order_id) for order_id in order_ids]


def _reservation_of(ledger: Ledger, order_id: str) -> Entry:
    for entry in ledger.history(order_id):
        if entry.fact is Fact.STOCK_RESERVED:
            return entry
    raise UnknownOrder(f"The ledger knows no order {order_id} with reserved goods. Is it the ledger of that order?")


def _emit_summary(outcomes: Sequence[Outcome], started: float, emit: Emit) -> None:
    emit("summary", **summarize(outcomes), seconds=round(time.monotonic() - started, 3))
