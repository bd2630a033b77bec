"""`python -m bench.queue`: how soon and how fast our operations are served, beside Celery alone and procrastinate.

    .venv/bin/python -m bench.queue [--rounds 9] [--probes 200] [--backlog 1000] [--only latency|throughput|fairness]

A PostgreSQL of its own that waits for the disk, and a Redis, as the product brings them; the workers run side by side
and only one of them has work at a time. Prints tables in Markdown.
"""

from __future__ import annotations

import subprocess
import sys

import psycopg

from bench.queue_peers import BROKER_VARIABLE, DATABASE_VARIABLE, LOGS_VARIABLE
from embedded.processes import end_session
from embedded.setup import CHECKOUT
from embedded.testbench import Testbench


def main() -> int:
    """Bring the servers up, measure inside a process of the product's, and remove everything."""
    bench = Testbench()
    try:
        bench.start(durable=True)
        bench.migrate()
        with psycopg.connect(f"{_owner(bench)} dbname=postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE procrastinate TEMPLATE template0 ENCODING 'UTF8'")
        return _measure(bench, sys.argv[1:])
    finally:
        bench.stop()


def _owner(bench: Testbench) -> str:
    return f"host={bench.home.postgres} user=flowplane_owner"


def _measure(bench: Testbench, words: list[str]) -> int:
    variables = {
        **bench.environment("system"),
        BROKER_VARIABLE: f"redis+socket://{bench.home.broker_socket}",
        DATABASE_VARIABLE: f"{_owner(bench)} dbname=procrastinate",
        LOGS_VARIABLE: str(bench.home.logs),
    }
    argv = [sys.executable, "-m", "bench.queue_inside", *words]
    child = subprocess.Popen(argv, cwd=CHECKOUT, env=variables, start_new_session=True)
    try:
        return child.wait()
    finally:
        end_session(child)


if __name__ == "__main__":
    sys.exit(main())
