"""What `bench.queue` does inside a process of the product's: wish, and see how soon and how fast workers serve it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

import psutil  # noqa: E402 - settings first, for all that follow
import psycopg  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector  # noqa: E402
from procrastinate.jobs import Status  # noqa: E402

from bench import queue_peers  # noqa: E402
from bench.child import Child  # noqa: E402
from bench.pairs import percentile, ratio_of  # noqa: E402
from bench.queue_region import BACKEND, NAP_SECONDS, SLOW, STILL, TELLING, redis_client, started_key  # noqa: E402
from bench.telling import machine, middle, tail  # noqa: E402
from billing.models import Plan, Subscription  # noqa: E402
from provisioning import reconciler, services, wakeups  # noqa: E402
from provisioning.models import Operation, Region  # noqa: E402
from provisioning.spec import ClusterRequest  # noqa: E402
from provisioning.states import OPEN_STATES  # noqa: E402
from provisioning.sweeper import MAX_RINGS  # noqa: E402
from tests.factories import Person, make_person  # noqa: E402

CELERY = [str(Path(sys.executable).with_name("celery"))]
# As embedded.supervision starts the product's worker.
POOL = ["--pool", "threads", "--concurrency", str(queue_peers.CONCURRENCY)]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]

PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.01
# Between two probes everything has come to rest: the worker waits for its broker.
REST_SECONDS = 0.05

# Organizations that share the clusters of the throughput rounds.
ORGANIZATIONS = 20
# So many a round, for rounds of two to five seconds each.
OPERATIONS, TURNS, MESSAGES, JOBS = 300, 600, 2000, 600
FIFO_PROBES = 3


# --- Workers ---


class Worker(Child):
    """A worker process, and the CPU time that it has used."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        super().__init__(argv, log)
        self._process = psutil.Process(self.pid)

    @property
    def cpu_seconds(self) -> float:
        used = self._process.cpu_times()
        return float(used.user + used.system)


@dataclass
class Workers:
    """The three that stand side by side, and the database server beneath two of them."""

    product: Worker
    celery: Worker
    procrastinate: Worker

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Workers]:
        with ExitStack() as stack:
            folder = Path(os.environ[queue_peers.LOGS_VARIABLE])

            def start(word: str, argv: Sequence[str]) -> Worker:
                worker = Worker(argv, folder / f"{word}.log")
                stack.callback(worker.end)
                return worker

            product = [*CELERY, "-A", "bench.queue_region", "worker", *POOL, "--loglevel", "INFO", *QUIET]
            bare = [*CELERY, "-A", "bench.queue_peers", "worker", *POOL, "--loglevel", "WARNING", *QUIET]
            yield cls(
                start("product", product),
                start("celery", bare),
                start("procrastinate", [sys.executable, "-m", "bench.queue_peers"]),
            )


class Server:
    """PostgreSQL's processes: sessions stay open, so that nobody's time is lost on the way."""

    def __init__(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (backend,) = cursor.fetchone()
        self._top = psutil.Process(backend).parent()

    @property
    def cpu_seconds(self) -> float:
        assert self._top is not None
        ended = self._top.cpu_times()
        total = ended.children_user + ended.children_system  # of those that are gone, or time would run backwards
        for process in (self._top, *self._top.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system
        return total


def _until(is_over: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_over():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {PATIENCE_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)


# --- Rows ---


def _make_regions() -> None:
    for slug in (STILL, TELLING, SLOW):
        Region.objects.create(slug=slug, name=slug, backend=BACKEND, domain=f"{slug}.example")
    limits = {"max_clusters": 1_000_000, "max_members": 10, "max_credentials_per_cluster": 10}
    Plan.objects.create(slug="bench", name="Bench", **limits)


def _person() -> Person:
    person = make_person()
    Subscription.objects.create(organization=person.organization, plan_id="bench")
    return person


def _create(person: Person, region: str) -> UUID:
    request = ClusterRequest(
        name=f"c-{uuid4().hex[:12]}", stage="dev", region=region, plan_type="small", channel="stable"
    )
    with transaction.atomic():  # as every request of the web process
        return services.create_cluster(actor=person.actor, request=request).cluster_id


def _wish(person: Person, cluster_id: UUID) -> None:
    with transaction.atomic():
        services.revoke_access(actor=person.actor, cluster_id=cluster_id)


def _is_open() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM provisioning_operation WHERE state IN ('pending', 'running'))")
        return bool(cursor.fetchone()[0])


def _is_due() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM provisioning_cluster WHERE due_at <= statement_timestamp()"
            " OR lease_expires_at IS NOT NULL)"
        )
        return bool(cursor.fetchone()[0])


def _know_clusters() -> None:
    """Tell the planner what the product's tables hold while nothing waits, as autovacuum does of one at rest."""
    owner = os.environ[queue_peers.DATABASE_VARIABLE]
    with psycopg.connect(owner, dbname=str(connection.settings_dict["NAME"]), autocommit=True) as session:
        session.execute("VACUUM ANALYZE")


def _rest() -> None:
    """Have nothing become due by itself for a day, so that a round serves only what it asks for."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE provisioning_cluster SET due_at = statement_timestamp() + interval '1 day'")


# --- G16: enqueue to start ---


@dataclass
class Latencies:
    """Milliseconds of each probe."""

    from_call: list[float] = field(default_factory=list)
    from_commit: list[float] = field(default_factory=list)
    bare_start: list[float] = field(default_factory=list)
    bare_trip: list[float] = field(default_factory=list)


def latency(probes: int) -> None:
    """Idle: from the wish, and from its commit, to the turn's first call to the region; beside a bare Celery task."""
    person, told, took = _person(), redis_client(), Latencies()
    cluster_id = _create(person, TELLING)
    _until(lambda: not _is_open(), "The first operation's end")

    def ours() -> None:
        _until(lambda: not _is_open() and not _is_due(), "The operation's end")
        told.delete(started_key(cluster_id))
        time.sleep(REST_SECONDS)
        committed: list[float] = []
        called = time.time()
        with transaction.atomic():
            transaction.on_commit(lambda: committed.append(time.time()))  # the first hook: the message comes after it
            services.revoke_access(actor=person.actor, cluster_id=cluster_id)
        started = _answer(told, started_key(cluster_id))
        took.from_call.append((started - called) * 1000)
        took.from_commit.append((started - committed[0]) * 1000)

    def bare() -> None:
        key = f"bench.ping.{uuid4()}"
        time.sleep(REST_SECONDS)
        called = time.time()
        queue_peers.ping.delay(key)
        started = _answer(told, key)
        took.bare_trip.append((time.time() - called) * 1000)
        took.bare_start.append((started - called) * 1000)

    for probe in (ours, bare):  # makes connections and plans
        probe()
    took = Latencies()
    for number in range(probes):
        for probe in (ours, bare) if number % 2 else (bare, ours):
            probe()
    print("### Enqueue to start, idle (G16)\n")
    print("| from … to the turn's (task's) first line | |\n|---|---|")
    print(f"| the wish's commit (goal: p50 ≤ 20, p99 ≤ 100) | {tail(took.from_commit, 'ms')} |")
    print(f"| the call that writes the wish, its transaction included | {tail(took.from_call, 'ms')} |")
    print(f"| bare Celery: `delay()` | {tail(took.bare_start, 'ms')} |")
    print(f"| bare Celery: `delay()`, and back by a Redis list | {tail(took.bare_trip, 'ms')} |\n", flush=True)


def _answer(told: Any, key: str) -> float:
    found = told.brpop([key], timeout=int(PATIENCE_SECONDS))
    if found is None:
        raise TimeoutError(f"{key} was not told")
    return float(found[1])


# --- G17: throughput ---


class Side(ABC):
    """Something that is asked for many times and served by a worker."""

    name: str
    size: int

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @abstractmethod
    def ask(self) -> None:
        """Ask so many times, each in a call and a transaction of its own."""

    @abstractmethod
    def wait(self) -> None:
        """Return when all is done and recorded."""

    def ring(self) -> None:  # noqa: B027 - most need nothing more than to be asked
        """What somebody else would do about a backlog."""


class Operations(Side):
    """Accepted changes: operation with steps, audit event, and the cluster's row; their end is recorded in them."""

    name, size = "operation (wish → succeeded)", OPERATIONS

    def __init__(self, worker: Worker, owned: Sequence[tuple[Person, UUID]]) -> None:
        super().__init__(worker)
        self._owned = owned

    def ask(self) -> None:
        for person, cluster_id in self._owned[: self.size]:
            _wish(person, cluster_id)

    def wait(self) -> None:
        _until(lambda: not _is_open(), "The operations' end")

    def ring(self) -> None:
        # The clock sees due rows at every tick.
        for _ in range(MAX_RINGS):
            wakeups.send(self._owned[0][1])


class Turns(Operations):
    """Rows made due, each its own durable message; claimed under a lease, and what the turn found is recorded."""

    name, size = "turn (row due → result recorded)", TURNS

    def ask(self) -> None:
        for _, cluster_id in self._owned[: self.size]:
            wakeups.wake(cluster_id)

    def wait(self) -> None:
        _until(lambda: not _is_due(), "The turns' end")


class Messages(Side):
    """Celery alone: nothing durable, nothing recorded."""

    name, size = "bare Celery, no-op", MESSAGES

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._told, self._asked = redis_client(), 0

    def ask(self) -> None:
        self._asked += self.size
        for _ in range(self.size):
            queue_peers.noop.delay(self._asked)

    def wait(self) -> None:
        _answer(self._told, queue_peers.DONE)


class Jobs(Side):
    """procrastinate: the row is the message, its end is recorded in it."""

    name, size = "procrastinate, no-op", JOBS

    def __init__(self, worker: Worker, app: App) -> None:
        super().__init__(worker)
        self._task = app.tasks["bare.noop"]
        self._session = psycopg.connect(os.environ[queue_peers.DATABASE_VARIABLE], autocommit=True)

    def ask(self) -> None:
        for number in range(self.size):
            self._task.defer(number=number)

    def wait(self) -> None:
        _until(lambda: not self._is_open(), "The jobs' end")

    def ring(self) -> None:
        # Its plans are never worse than a backlog deserves: what autovacuum last saw does not slow it down.
        self._session.execute("ANALYZE procrastinate_jobs")

    def _is_open(self) -> bool:
        found = self._session.execute(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        ).fetchone()
        return bool(found and found[0])


@dataclass
class Figures:
    """One side's rounds, each as many per second."""

    whole: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    drained: list[float] = field(default_factory=list)
    worker_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)

    def whole_round(self, side: Side) -> None:
        """Ask while the worker serves."""
        _rest()
        began = time.monotonic()
        side.ask()
        side.wait()
        self.whole.append(side.size / (time.monotonic() - began))

    def drain_round(self, side: Side, server: Server) -> None:
        """Ask while the worker stands still, then let it go."""
        _rest()
        with side.worker.held():
            began = time.monotonic()
            side.ask()
            self.asked.append(side.size / (time.monotonic() - began))
            side.ring()
            worker, beneath = side.worker.cpu_seconds, server.cpu_seconds
            began = time.monotonic()
        side.wait()
        self.drained.append(side.size / (time.monotonic() - began))
        self.worker_ms.append((side.worker.cpu_seconds - worker) / side.size * 1000)
        self.server_ms.append((server.cpu_seconds - beneath) / side.size * 1000)


def throughput(workers: Workers, app: App, rounds: int, scale: float) -> None:
    """Interleaved rounds of all sides; the ratios are of the same round's neighbours."""
    people = [_person() for _ in range(ORGANIZATIONS)]
    owned = [(people[number % ORGANIZATIONS], number) for number in range(int(max(OPERATIONS, TURNS) * scale))]
    clusters = [(person, _create(person, STILL)) for person, _ in owned]
    _until(lambda: not _is_open(), "The clusters' creation")
    sides: list[Side] = [
        Operations(workers.product, clusters),
        Turns(workers.product, clusters),
        Messages(workers.celery),
        Jobs(workers.procrastinate, app),
    ]
    for side in sides:
        side.size = int(side.size * scale)
    _rest()
    _know_clusters()
    server = Server()
    figures = {side.name: Figures() for side in sides}
    for number in range(-1, rounds):  # the first one warms up
        for side in sides if number % 2 else reversed(sides):
            figures[side.name].whole_round(side)
            figures[side.name].drain_round(side, server)
        if number < 0:
            figures = {side.name: Figures() for side in sides}
    _show_throughput(figures)


def _show_throughput(figures: dict[str, Figures]) -> None:
    print("### Durable throughput (G17), per second\n")
    print("| side | asked and served at once | asked for alone | served alone | CPU ms each: worker + PostgreSQL |")
    print("|---|---|---|---|---|")
    for name, one in figures.items():
        cpu = f"{middle(one.worker_ms, digits=2)} + {middle(one.server_ms, digits=2)}"
        print(f"| {name} | {middle(one.whole)} | {middle(one.asked)} | {middle(one.drained)} | {cpu} |")
    operation, turn, bare, job = figures.values()
    print("\n| ratio | asked and served at once | served alone |\n|---|---|---|")
    for title, mine, other in (
        ("turn : bare Celery (goal ≥ 0.6x)", turn, bare),
        ("turn : procrastinate (goal ≥ 1x)", turn, job),
        ("operation : bare Celery", operation, bare),
        ("operation : procrastinate", operation, job),
    ):
        print(f"| {title} | {ratio_of(mine.whole, other.whole)} | {ratio_of(mine.drained, other.drained)} |")
    print(flush=True)


# --- Counts ---


class CountingConnector(PsycopgConnector):
    """Counts the statements that procrastinate itself sends."""

    statements = 0

    async def execute_query_async(self, *arguments: Any, **named: Any) -> None:
        self.statements += 1
        await super().execute_query_async(*arguments, **named)

    async def execute_query_one_async(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        self.statements += 1
        found: dict[str, Any] = await super().execute_query_one_async(*arguments, **named)
        return found

    async def execute_query_all_async(self, *arguments: Any, **named: Any) -> list[dict[str, Any]]:
        self.statements += 1
        found: list[dict[str, Any]] = await super().execute_query_all_async(*arguments, **named)
        return found


def counts(workers: Workers, app: App) -> None:
    """Statements, exact: everything but BEGIN and COMMIT."""
    person = _person()
    cluster_id = _create(person, STILL)
    _until(lambda: not _is_open() and not _is_due(), "The first operation's end")
    with workers.product.held():
        wished = _statements(lambda: _wish(person, cluster_id))
        served = _statements(lambda: reconciler.turn(cluster_id))
        woken = _statements(lambda: wakeups.wake(cluster_id))
        looked = _statements(lambda: reconciler.turn(cluster_id))
    with workers.procrastinate.held():
        few, many = (asyncio.run(_statements_of_jobs(app, number)) for number in (10, 30))
    print("### Statements (exact, without BEGIN and COMMIT)\n")
    print("| | to ask | to serve and record |\n|---|---|---|")
    print(f"| operation | {wished} | {served} |\n| turn | {woken} | {looked} |")
    print(f"| procrastinate's job (its triggers write three events more) | 1 | {(many - few) / 20:g} |")
    print("| bare Celery | 0 | 0 |\n", flush=True)


def _statements(act: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as seen:
        act()
    return sum(query["sql"] not in ("BEGIN", "COMMIT") for query in seen.captured_queries)


async def _statements_of_jobs(app: App, number: int) -> int:
    for place in range(number):
        await asyncio.to_thread(app.tasks["bare.noop"].defer, number=place)
    connector = CountingConnector(conninfo=os.environ[queue_peers.DATABASE_VARIABLE])
    with queue_peers.jobs.replace_connector(connector) as counted:
        async with counted.open_async():
            options: Any = {"wait": False, "install_signal_handlers": False, "listen_notify": False}
            await counted.run_worker_async(concurrency=1, **options)
    return connector.statements


# --- G5: fairness ---


def fairness(workers: Workers, backlog: int, probes: int) -> None:
    """One organization has a thousand operations waiting; another one's create, again and again."""
    crowd, guest, told = _person(), _person(), redis_client()
    _know_clusters()
    with workers.product.held():
        clusters = [_create(crowd, SLOW) for _ in range(backlog + backlog // 5)]
    took: list[float] = []
    waiting: list[int] = []
    while len(took) < probes:
        if (ahead := _open_of(crowd)) < backlog:
            _fill_up(workers, crowd, clusters)
            continue
        waiting.append(ahead)
        called = time.time()
        took.append(_answer(told, started_key(_create(guest, TELLING))) - called)
        time.sleep(REST_SECONDS)
    _until(lambda: not _is_open(), "The backlog's end")
    first_in_first_out = []
    for _ in range(FIFO_PROBES):
        key = f"bench.ping.{uuid4()}"
        for _ in range(backlog):
            queue_peers.nap.delay(NAP_SECONDS)
        called = time.time()
        queue_peers.ping.delay(key)
        first_in_first_out.append(_answer(told, key) - called)
    p99 = percentile(took, 0.99)
    print("### Another organization's create behind a backlog (G5)\n")
    print(f"| at least {min(waiting):,} operations of one organization wait, {NAP_SECONDS * 1000:.0f} ms each | |")
    print("|---|---|")
    print(
        f"| call → the turn's first line (goal: p99 ≤ 2 s) | p50 {percentile(took, 0.5):.3f}, p99 {p99:.3f}, most "
        f"{max(took):.3f} s (n={len(took)}) |"
    )
    print(f"| bare Celery, the same backlog in one queue | {middle(first_in_first_out, ' s', 1)} |\n", flush=True)


def _open_of(person: Person) -> int:
    return Operation.objects.filter(organization=person.organization, state__in=OPEN_STATES).count()


def _fill_up(workers: Workers, person: Person, clusters: Sequence[UUID]) -> None:
    """Wish anew for whatever has been done."""
    with workers.product.held():
        busy = set(
            Operation.objects.filter(organization=person.organization, state__in=OPEN_STATES).values_list(
                "cluster_id", flat=True
            )
        )
        for cluster_id in clusters:
            if cluster_id not in busy:
                _wish(person, cluster_id)


# --- All of it ---


def main() -> int:
    """Start the workers, measure what was asked for, print, and end them."""
    told = _arguments()
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # or every job would write a line as it is asked for
    _make_regions()
    database = SyncPsycopgConnector(conninfo=os.environ[queue_peers.DATABASE_VARIABLE])
    with queue_peers.jobs.replace_connector(database) as app, app.open():
        app.schema_manager.apply_schema()
        with Workers.running() as workers:
            _show_conditions()
            _warm_up(app)
            if told.only in ("", "latency"):
                latency(told.probes)
            if told.only in ("", "throughput"):
                counts(workers, app)
                throughput(workers, app, told.rounds, told.scale)
            if told.only in ("", "fairness"):
                fairness(workers, told.backlog, told.fairness_probes)
    return 0


def _warm_up(app: App) -> None:
    """Return when every worker has done something."""
    _create(_person(), STILL)
    queue_peers.ping.delay("bench.warm")
    job = app.tasks["bare.noop"].defer(number=0)
    _until(lambda: not _is_open(), "The product's worker")
    _answer(redis_client(), "bench.warm")
    _until(lambda: app.job_manager.get_job_status(job) == Status.SUCCEEDED, "The procrastinate worker")


def _show_conditions() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT version(), current_setting('synchronous_commit'), current_setting('fsync')")
        version, synchronous, fsync = cursor.fetchone()
    server = " ".join(cast(str, version).split()[:2])
    print(f"{machine()}; {server}, synchronous_commit {synchronous}, fsync {fsync}; Redis in memory.")
    print(f"Each worker one process with {queue_peers.CONCURRENCY} threads (procrastinate: as many jobs at once).\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.queue")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0, help="of a round; below 1 only to see that it works")
    parser.add_argument("--probes", type=int, default=200, help="for enqueue to start")
    parser.add_argument("--backlog", type=int, default=1000)
    parser.add_argument("--fairness-probes", type=int, default=40)
    parser.add_argument("--only", choices=["", "latency", "throughput", "fairness"], default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
