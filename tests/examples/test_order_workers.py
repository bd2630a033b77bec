"""The workers over a real connection to a gateway that is busy, forgetful or late."""

import asyncio
from pathlib import Path

import grpc
import pytest

from examples.order_fulfilment.decisions import FLAKY_CARD, Order
from examples.order_fulfilment.ledger import Fact, Ledger
from examples.order_fulfilment.orders import make_order
from examples.order_fulfilment.workers import OUT_OF_STOCK, Services, build_worker
from tests.examples.gateway import BusyGateway, serving

BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED
AWAY = grpc.StatusCode.UNAVAILABLE


def make_gateway(job_type: str, order: Order, *, deadline_in_seconds: float = 30.0) -> BusyGateway:
    return BusyGateway(job_type, {"order": order.to_variables()}, deadline_in_seconds=deadline_in_seconds)


def work_one_job(gateway: BusyGateway, folder: Path) -> None:
    """Run the workers until the gateway is content, then stop them gracefully."""

    async def scenario() -> None:
        with Ledger(folder) as ledger:
            async with serving(gateway) as channel:
                worker = build_worker(channel, ledger)
                work = asyncio.create_task(worker.work())
                await asyncio.wait_for(gateway.settled.wait(), 20)
                await asyncio.wait_for(worker.stop(), 10)
                await work

    asyncio.run(scenario())


def facts_of(order: Order, folder: Path) -> list[Fact]:
    with Ledger(folder) as ledger:
        return [entry.fact for entry in ledger.history(order.id)]


def test_a_completion_is_told_until_a_busy_engine_takes_it(tmp_path: Path) -> None:
    order = make_order("o-1")
    gateway = make_gateway("retrieve-payment", order)
    gateway.refusals["CompleteJob"] = [BUSY, AWAY, BUSY]

    work_one_job(gateway, tmp_path)

    assert gateway.asked["CompleteJob"] == 4
    (told,) = gateway.told
    assert (told.jobKey, told.variables) == (7, '{"paymentId": "payment-o-1"}')
    assert facts_of(order, tmp_path) == [Fact.PAYMENT_RETRIEVED]


def test_a_completion_whose_answer_was_lost_is_taken_as_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = make_gateway("retrieve-payment", make_order("o-1"))
    gateway.refusals["CompleteJob"] = [AWAY, grpc.StatusCode.NOT_FOUND]

    work_one_job(gateway, tmp_path)

    assert gateway.asked["CompleteJob"] == 2
    # The gateway is of this process as well, and gRPC's server calls it an error when a poll is cut before it began.
    ours = [record for record in caplog.records if not record.name.startswith("grpc.")]
    assert [record for record in ours if record.levelname == "ERROR"] == []


def test_a_failed_payment_asks_for_another_attempt_after_a_while(tmp_path: Path) -> None:
    order = make_order("o-1", card=FLAKY_CARD)
    gateway = make_gateway("retrieve-payment", order)
    gateway.refusals["FailJob"] = [BUSY]

    work_one_job(gateway, tmp_path)

    (told,) = gateway.told
    assert (told.retries, told.retryBackOff) == (4, 500)
    assert "did not answer in time" in told.errorMessage
    assert facts_of(order, tmp_path) == [Fact.PAYMENT_FAILED]


def test_missing_stock_is_an_error_for_the_process_and_no_failure(tmp_path: Path) -> None:
    order = make_order("o-1", sku="signed-first-edition", quantity=5)
    gateway = make_gateway("reserve-stock", order)
    gateway.refusals["ThrowError"] = [BUSY]

    work_one_job(gateway, tmp_path)

    (told,) = gateway.told
    assert told.errorCode == OUT_OF_STOCK
    assert gateway.asked["FailJob"] == 0
    assert facts_of(order, tmp_path) == [Fact.STOCK_REFUSED]


def test_a_job_that_times_out_meanwhile_is_left_to_the_next_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = make_gateway("retrieve-payment", make_order("o-1"), deadline_in_seconds=0.5)
    gateway.refusals["CompleteJob"] = [BUSY] * 1000

    async def scenario() -> None:
        with Ledger(tmp_path) as ledger:
            async with serving(gateway) as channel:
                worker = build_worker(channel, ledger)
                work = asyncio.create_task(worker.work())
                while "did not hear about job 7" not in caplog.text:
                    await asyncio.sleep(0.05)
                await worker.stop()
                await work

    asyncio.run(asyncio.wait_for(scenario(), 20))

    assert gateway.told == []


def test_every_service_may_run_twice_and_counts_once(tmp_path: Path) -> None:
    variables = make_order("o-1").to_variables()

    async def scenario(services: Services) -> None:
        for _ in range(2):
            await services.retrieve_payment(variables)
            await services.reserve_stock(variables)
            await services.refund_payment(variables)
            await services.remind_warehouse(variables)
            await services.issue_invoice(variables)
            await services.notify_customer(variables, "shipped")

    with Ledger(tmp_path) as ledger:
        asyncio.run(scenario(Services(ledger)))

        facts = [entry.fact for entry in ledger.history("o-1")]
        assert len(facts) == len(set(facts)) == 6


def test_a_flaky_payment_is_charged_at_the_second_attempt(tmp_path: Path) -> None:
    variables = make_order("o-1", card=FLAKY_CARD).to_variables()

    with Ledger(tmp_path) as ledger:
        services = Services(ledger)
        with pytest.raises(Exception, match="did not answer"):
            asyncio.run(services.retrieve_payment(variables))

        assert asyncio.run(services.retrieve_payment(variables)) == {"paymentId": "payment-o-1"}
