"""Ask again when the engine says "not now".

An engine under load refuses commands (backpressure) and an engine that restarts answers nobody. pyzeebe keeps polling
through both, but it says only once that a job is done: when that one sentence is refused, the job lies idle until its
timeout. So everything this example tells the engine is told patiently. That is safe because everything it tells is
idempotent: jobs have keys, messages have ids, and a deployment that changes nothing creates nothing.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import grpc
from pyzeebe import Job, JobController, ZeebeWorker
from pyzeebe.errors import JobAlreadyDeactivatedError, JobNotFoundError, ZeebeError
from pyzeebe.types import Variables

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0

WORTH_ASKING_AGAIN = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # backpressure: the engine did not even write the command down
        grpc.StatusCode.UNAVAILABLE,  # nobody listens, or the partition has no leader yet
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,  # the leader changed while it was thinking
        grpc.StatusCode.INTERNAL,  # what gRPC makes of a connection that breaks in the middle of a call
    }
)

# Words inside an UNAVAILABLE that no waiting cures: the token endpoint said no, or a certificate is not trusted.
# gRPC reports every trouble of the code that fetches tokens as an engine that is away.
WILL_NOT_PASS = (
    "(invalid_",
    "(unauthorized_client)",
    "(access_denied)",
    "(insecure_transport)",
    "CERTIFICATE_VERIFY_FAILED",
)

logger = logging.getLogger(__name__)


def delays() -> Iterator[float]:
    """Yield seconds to wait before each next try, without end: doubling, capped, and spread by chance.

    The spread keeps workers that were refused together from coming back together.
    """
    ceiling = FIRST_DELAY_SECONDS
    while True:
        yield random.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, MAX_DELAY_SECONDS)


def is_worth_asking_again(error: ZeebeError) -> bool:
    """Whether the same call may succeed later without anybody changing anything."""
    details = error.grpc_error.details() or ""
    return error.grpc_error.code() in WORTH_ASKING_AGAIN and not any(words in details for words in WILL_NOT_PASS)


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    give_up_at: float,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Make the call until it is answered; `give_up_at` is in seconds of `clock`.

    Raises the last ZeebeError when it is not worth another try or the time is up, and whatever else the call raises.
    """
    waits = delays()
    while True:
        try:
            return await call()
        except ZeebeError as error:
            wait = next(waits)
            if not is_worth_asking_again(error) or clock() + wait > give_up_at:
                raise
            logger.info("The engine said %s; asking again in %.1f s.", error.grpc_error.code().name, wait)
        await sleep(wait)


class PatientController(JobController):
    """Tells the engine how a job ended, until it has heard or has given the job to somebody else."""

    async def set_success_status(self, variables: Variables | None = None) -> None:
        await self._insist(partial(super().set_success_status, variables))

    async def set_failure_status(
        self, message: str, retry_back_off_ms: int = 0, variables: Variables | None = None
    ) -> None:
        await self._insist(partial(super().set_failure_status, message, retry_back_off_ms, variables))

    async def set_error_status(self, message: str, error_code: str = "", variables: Variables | None = None) -> None:
        await self._insist(partial(super().set_error_status, message, error_code, variables))

    async def _insist(self, tell: Callable[[], Awaitable[None]]) -> None:
        deadline_at = self._job.deadline / 1000  # the engine's, in milliseconds since 1970
        try:
            await patiently(tell, give_up_at=deadline_at)
        except (JobNotFoundError, JobAlreadyDeactivatedError):
            # Either an earlier try arrived and only its answer was lost, or the job was given to another worker.
            logger.info("Job %s was already closed.", self._job.key)
        except ZeebeError as error:
            # No harm done: at the deadline the engine hands the job out again, and the worker is idempotent.
            logger.warning("The engine did not hear about job %s: %s", self._job.key, error.grpc_error.code().name)


def make_patient(worker: ZeebeWorker) -> None:
    """Give every task of the worker a patient controller. Call it after the last task was added."""
    for task in worker.tasks:
        handle = task.job_handler

        async def handle_patiently(job: Job, _: JobController, handle: Callable[..., Awaitable[Job]] = handle) -> Job:
            return await handle(job, PatientController(job, worker.zeebe_adapter))

        task.job_handler = handle_patiently
