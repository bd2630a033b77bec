"""The shop as a whole: one connection, its ledger, its workers and its warehouse."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pyzeebe import ZeebeClient, ZeebeWorker
from pyzeebe.errors import ProcessInvalidError

from examples.order_fulfilment.connection import connect
from examples.order_fulfilment.failures import DeploymentRefused
from examples.order_fulfilment.ledger import Entry, Ledger
from examples.order_fulfilment.orders import COMMAND_PATIENCE_SECONDS, run_warehouse
from examples.order_fulfilment.patience import patiently
from examples.order_fulfilment.workers import JOB_TIMEOUT_MS, build_worker

T = TypeVar("T")

HERE = Path(__file__).parent
PROCESS_FILES = (HERE / "order_fulfilment.bpmn", HERE / "customer_notification.bpmn")

FOLLOW_INTERVAL_SECONDS = 0.2
# A job in hand is either told to the engine by then, or has timed out there.
SHUTDOWN_SECONDS = JOB_TIMEOUT_MS / 1000


@dataclass(frozen=True)
class Shop:
    """Everything one command needs."""

    client: ZeebeClient
    ledger: Ledger
    worker: ZeebeWorker


@asynccontextmanager
async def open_shop(folder: Path) -> AsyncIterator[Shop]:
    """Open the ledger in the folder and a connection that was answered once, within COMMAND_PATIENCE_SECONDS.

    Raises SettingsInvalid, or ZeebeError when the engine does not answer or refuses us.
    """
    with Ledger(folder) as ledger:
        async with connect() as channel:
            # Any limit of connection errors would close the channel one day: pyzeebe never resets its count.
            client = ZeebeClient(channel, max_connection_retries=-1)
            await patiently(client.topology, give_up_at=time.time() + COMMAND_PATIENCE_SECONDS)
            yield Shop(client, ledger, build_worker(channel, ledger))


async def deploy(client: ZeebeClient) -> dict[str, int]:
    """Deploy the process files; return the version of each process. Unchanged files keep their version.

    Raises DeploymentRefused.
    """
    send = partial(client.deploy_resource, *PROCESS_FILES)
    try:
        answer = await patiently(send, give_up_at=time.time() + COMMAND_PATIENCE_SECONDS)
    except ProcessInvalidError as error:
        # pyzeebe's own error is empty; what the engine said is in the gRPC error behind it.
        details = getattr(error.__cause__, "details", lambda: None)()
        raise DeploymentRefused(details or "the engine gave no reason") from error
    return {each.bpmn_process_id: each.version for each in answer.deployments if hasattr(each, "bpmn_process_id")}


async def while_open(shop: Shop, errand: Awaitable[T]) -> T:
    """Run workers and warehouse for as long as the errand takes, and return its result.

    However the errand ends, also by cancellation, the jobs in hand are finished and told to the engine.
    Raises what the errand raises, or an exception group when the workers or the warehouse fail.
    """
    async with asyncio.TaskGroup() as group:
        work = group.create_task(shop.worker.work())
        warehouse = group.create_task(run_warehouse(shop.client, shop.ledger))
        try:
            return await errand
        finally:
            warehouse.cancel()
            await _finish(shop.worker, work)


async def _finish(worker: ZeebeWorker, work: asyncio.Task[None]) -> None:
    if work.done():
        return
    try:
        await asyncio.wait_for(worker.stop(), SHUTDOWN_SECONDS)
    except TimeoutError:
        work.cancel()


async def follow(ledger: Ledger, number: int) -> AsyncIterator[Entry]:
    """Yield every fact written after the given one, as it comes, from whichever process; never ends."""
    while True:
        for entry in ledger.after(number):
            number = entry.number
            yield entry
        await asyncio.sleep(FOLLOW_INTERVAL_SECONDS)
