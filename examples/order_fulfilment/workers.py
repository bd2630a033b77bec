"""The services of the shop, one method per job type.

A job is a command from the process: do this. The engine hands it out at least once: a worker may die between its work
and the sentence "done", or that sentence may get lost. So each method writes a fact that the ledger takes only once,
and the ids of what it creates follow from the order: doing it again is doing the same.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import grpc
from pyzeebe import Job, JobController, ZeebeWorker
from pyzeebe.errors import BusinessError

from examples.order_fulfilment.decisions import (
    Order,
    PaymentUnavailable,
    backoff_ms,
    decide_payment,
    is_in_stock,
)
from examples.order_fulfilment.ledger import Fact, Ledger
from examples.order_fulfilment.patience import make_patient

OUT_OF_STOCK = "OUT_OF_STOCK"  # the error code that the boundary event in the process catches

# How long the engine waits for a worker that fell silent. A poll that is cut off by a shutdown may have taken jobs
# with it; they come back after this time.
JOB_TIMEOUT_MS = 10_000

Handler = Callable[..., Awaitable[dict[str, Any]]]


class Services:
    """What the shop can do. Each method may run twice for one order and counts once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handlers(self) -> Mapping[str, Handler]:
        """Return what serves each job type. pyzeebe reads the wanted variables from the parameters' names."""
        return {
            "retrieve-payment": self.retrieve_payment,
            "refund-payment": self.refund_payment,
            "reserve-stock": self.reserve_stock,
            "remind-warehouse": self.remind_warehouse,
            "issue-invoice": self.issue_invoice,
            "notify-customer": self.notify_customer,
        }

    async def retrieve_payment(self, order: dict[str, Any]) -> dict[str, Any]:
        """Charge the customer. Raises PaymentUnavailable, which the engine answers with another attempt."""
        placed = Order.from_variables(order)
        try:
            charge = decide_payment(placed, failed_before=self._ledger.has(placed.id, Fact.PAYMENT_FAILED))
        except PaymentUnavailable as failure:
            self._ledger.record(placed.id, Fact.PAYMENT_FAILED, reason=str(failure))
            raise
        self._ledger.record(placed.id, Fact.PAYMENT_RETRIEVED, **asdict(charge))
        return {"paymentId": charge.payment_id}

    async def refund_payment(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give the money back: the compensation of `retrieve_payment`."""
        placed = Order.from_variables(order)
        self._ledger.record(placed.id, Fact.PAYMENT_REFUNDED, refund_id=f"refund-{placed.id}")
        return {}

    async def reserve_stock(self, order: dict[str, Any]) -> dict[str, Any]:
        """Promise the goods. Raises BusinessError: being out of stock is an answer, not a failure to retry."""
        placed = Order.from_variables(order)
        if not is_in_stock(placed):
            self._ledger.record(placed.id, Fact.STOCK_REFUSED, sku=placed.sku, quantity=placed.quantity)
            raise BusinessError(OUT_OF_STOCK, f"not enough of {placed.sku} for {placed.quantity}")
        # The whole order goes along: the warehouse dispatches from here and never asks the engine.
        self._ledger.record(placed.id, Fact.STOCK_RESERVED, order=order)
        return {"reservationId": f"reservation-{placed.id}"}

    async def remind_warehouse(self, order: dict[str, Any]) -> dict[str, Any]:
        """Tell the warehouse that a parcel is late."""
        placed = Order.from_variables(order)
        self._ledger.record(placed.id, Fact.WAREHOUSE_REMINDED, after=placed.remind_after)
        return {}

    async def issue_invoice(self, order: dict[str, Any]) -> dict[str, Any]:
        """Write the invoice for what was shipped."""
        placed = Order.from_variables(order)
        self._ledger.record(placed.id, Fact.INVOICE_ISSUED, amount_minor=placed.amount_minor, currency=placed.currency)
        return {"invoiceId": f"invoice-{placed.id}"}

    async def notify_customer(self, order: dict[str, Any], news: str) -> dict[str, Any]:
        """Tell the customer what happened."""
        placed = Order.from_variables(order)
        self._ledger.record(placed.id, Fact.CUSTOMER_NOTIFIED, to=placed.customer, news=news)
        return {}


async def report_failure(error: Exception, job: Job, controller: JobController) -> None:
    """Tell the engine why a job failed: a business error goes to the process, anything else is tried again."""
    if isinstance(error, BusinessError):
        await controller.set_error_status(str(error), error_code=error.error_code)
    else:
        message = f"{type(error).__name__}: {error}"
        await controller.set_failure_status(message, retry_back_off_ms=backoff_ms(job.retries))


def build_worker(channel: grpc.aio.Channel, ledger: Ledger) -> ZeebeWorker:
    """Return a worker for all job types; `work()` runs it and `stop()` lets it finish the jobs it holds."""
    worker = ZeebeWorker(
        channel,
        name="order-fulfilment",
        exception_handler=report_failure,
        poll_retry_delay=1,
        # pyzeebe counts connection errors and never forgets one: any limit would close the channel one day.
        max_connection_retries=-1,
    )
    for job_type, handler in Services(ledger).handlers().items():
        # pyzeebe's annotation is a union of sync and async that no type checker can solve for either.
        worker.task(job_type, timeout_ms=JOB_TIMEOUT_MS)(handler)  # type: ignore[arg-type]
    make_patient(worker)
    return worker
