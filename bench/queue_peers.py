"""The queues that ours stands beside, as somebody would set them up who needs no more than a queue.

    celery -A bench.queue_peers worker ...        a Celery application without Django, its tasks without results
    python -m bench.queue_peers                   a procrastinate worker

A task does nothing.
"""

from __future__ import annotations

import logging
import os
import time
from itertools import count

from celery import Celery
from procrastinate import App, PsycopgConnector
from redis import Redis

BROKER_VARIABLE, DATABASE_VARIABLE, LOGS_VARIABLE = "BENCH_BROKER", "BENCH_PROCRASTINATE", "BENCH_LOGS"
# As many as the product's worker has threads.
CONCURRENCY = 4
DONE = "bench.done"

# Where the product's own application lives, too, that one stays the current one.
app = Celery("bare", broker=os.environ.get(BROKER_VARIABLE), set_as_current=False)
app.conf.task_ignore_result = True
app.conf.task_default_queue = "bare"
app.conf.broker_connection_retry_on_startup = True

jobs = App(connector=PsycopgConnector(conninfo=os.environ.get(DATABASE_VARIABLE, "")))

_told: list[Redis] = []
_counted = count(1)


def redis_client() -> Redis:
    """One client for this process, for what is told beside the messages."""
    if not _told:
        _told.append(Redis(unix_socket_path=os.environ[BROKER_VARIABLE].removeprefix("redis+socket://")))
    return _told[0]


@app.task(name="bare.noop")
def noop(last: int) -> None:
    """Nothing; the last one that this worker is to see says that it came."""
    if next(_counted) == last:
        redis_client().lpush(DONE, last)


@app.task(name="bare.ping")
def ping(key: str) -> None:
    """Say when it began."""
    redis_client().lpush(key, time.time())


@app.task(name="bare.nap")
def nap(seconds: float) -> None:
    """Take as long as a turn in the slow region."""
    time.sleep(seconds)


@jobs.task(name="bare.noop", queue="bare")
async def job(number: int) -> None:
    """Nothing."""


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    jobs.run_worker(concurrency=CONCURRENCY)
