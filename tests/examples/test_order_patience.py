"""Asking again what the engine refused for now."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice

import grpc
import pytest
from pyzeebe import ZeebeClient
from pyzeebe.errors import ZeebeError

from examples.order_fulfilment.orders import ORDER_SHIPPED, publish
from examples.order_fulfilment.patience import MAX_DELAY_SECONDS, delays, is_worth_asking_again, patiently
from tests.examples.gateway import BusyGateway, serving


def make_error(code: grpc.StatusCode, details: str = "not now") -> ZeebeError:
    return ZeebeError(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None))


def make_call(*answers: ZeebeError | str) -> Callable[[], Awaitable[str]]:
    remaining = list(answers)

    async def call() -> str:
        answer = remaining.pop(0)
        if isinstance(answer, ZeebeError):
            raise answer
        return answer

    return call


class Clock:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask(call: Callable[[], Awaitable[str]], clock: Clock, give_up_at: float) -> str:
    return asyncio.run(patiently(call, give_up_at=give_up_at, clock=clock, sleep=clock.sleep))


def test_delays_grow_to_a_limit_and_are_spread() -> None:
    waits = list(islice(delays(), 12))

    assert all(wait <= MAX_DELAY_SECONDS for wait in waits)
    assert waits[0] <= 0.1
    assert all(wait >= MAX_DELAY_SECONDS / 2 for wait in waits[7:])
    assert len(set(waits)) == len(waits)


def test_a_busy_engine_is_asked_until_it_answers() -> None:
    busy = make_error(grpc.StatusCode.RESOURCE_EXHAUSTED)
    away = make_error(grpc.StatusCode.UNAVAILABLE)

    assert ask(make_call(busy, away, busy, "done"), Clock(), give_up_at=60) == "done"


def test_patience_ends_at_the_time_given() -> None:
    clock = Clock()
    busy = make_error(grpc.StatusCode.RESOURCE_EXHAUSTED)

    with pytest.raises(ZeebeError):
        ask(make_call(*[busy] * 1000), clock, give_up_at=20)

    assert 20 - MAX_DELAY_SECONDS <= clock.now <= 20


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "not your cluster"),
        (grpc.StatusCode.INVALID_ARGUMENT, "no such field"),
        (grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: (invalid_client) "),
        (grpc.StatusCode.UNAVAILABLE, "SSL routines: CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_what_waiting_cannot_cure_is_not_asked_again(code: grpc.StatusCode, details: str) -> None:
    error = make_error(code, details)
    clock = Clock()

    assert not is_worth_asking_again(error)
    with pytest.raises(ZeebeError):
        ask(make_call(error, "never asked"), clock, give_up_at=60)
    assert clock.now == 0


def test_an_event_that_the_engine_already_has_counts_as_published() -> None:
    gateway = BusyGateway("none", {})
    gateway.refusals["PublishMessage"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ALREADY_EXISTS]

    async def scenario() -> None:
        async with serving(gateway) as channel:
            await publish(ZeebeClient(channel, max_connection_retries=-1), ORDER_SHIPPED, "o-1", {})

    asyncio.run(scenario())

    assert gateway.asked["PublishMessage"] == 2


def test_an_event_carries_an_id_that_makes_publishing_it_again_harmless() -> None:
    gateway = BusyGateway("none", {})
    gateway.refusals["PublishMessage"] = [grpc.StatusCode.RESOURCE_EXHAUSTED]

    async def scenario() -> None:
        async with serving(gateway) as channel:
            await publish(ZeebeClient(channel, max_connection_retries=-1), ORDER_SHIPPED, "o-1", {"news": "shipped"})

    asyncio.run(scenario())

    (message,) = gateway.told
    assert (message.name, message.correlationKey, message.messageId) == ("order-shipped", "o-1", "order-shipped/o-1")
