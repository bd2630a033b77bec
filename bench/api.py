"""How much our REST door costs, beside bare views of REST framework on the same rows. Prints tables in Markdown.

    python -m bench.api [--rows 1000000] [--pairs 9] [--creations]

A PostgreSQL of its own that waits for the disk, with one organization of so many clusters. Statements are counted by
the server's log. CPU is measured in a process that answers WSGI calls, see `bench.api_inside`; wall time through the
web process as the product runs it, over plain HTTP on connections that stay open. Both sides are served by the same
process with the same middleware and authentication, in turn.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import psycopg

from bench.long_list import fill
from bench.pairs import MAX_TRIES, interleaved, percentile, ratio_of
from embedded.database import SUPERUSER
from embedded.environment import Ports
from embedded.errors import SetupError
from embedded.processes import end_session
from embedded.setup import CHECKOUT, VENV
from embedded.testbench import Testbench, free_port

ROWS, PAIRS = 1_000_000, 9
CONNECTIONS = 4
# Requests on each connection in each round.
CREATIONS, READS, PAGES = 25, 60, 25
READY_SECONDS = 60.0
OURS, BARE = "/api/v1/clusters", "/bare/clusters"


def main() -> int:
    """Fill a database, count, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="clusters of the large organization")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often each side is measured")
    parser.add_argument("--creations", action="store_true", help="measure nothing but creations, by CPU and by wall")
    given = parser.parse_args()
    bench = Testbench()
    try:
        bench.start(durable=True)
        bench.migrate()
        _Figures(bench, given.rows, given.pairs).show(only_creations=given.creations)
    finally:
        bench.stop()
    return 0


class _Figures:
    """All of them, one after the other on the same database."""

    def __init__(self, bench: Testbench, rows: int, pairs: int) -> None:
        self._bench, self._rows, self._pairs = bench, rows, pairs
        self._facts_file = bench.home.root / "facts.json"
        self._notes: list[str] = []
        # A side's block of creations goes into an organization of its own: the plan's clusters are counted each time.
        # Three sides, with Redis and without, each round up to three times.
        needed = 4 + 3 * 2 * MAX_TRIES * pairs
        callers = json.loads(self._inside("callers", str(needed + 2 * CONNECTIONS), role="system"))
        self._large, *self._small = callers

    def show(self, *, only_creations: bool) -> None:
        """The tables."""
        self._fill()
        self._count()
        print("\n### CPU of one request\n" + COST_HEAD, flush=True)
        self._print("create")
        self._bench.stop_broker()
        self._print("create-without-broker")
        self._bench.start_broker()
        if not only_creations:
            self._show_reads()
        self._measure_wall(only_creations=only_creations)
        print("\nWhat the programs said beside it:\n")
        for note in self._notes:
            print(f"- {note}")

    def _show_reads(self) -> None:
        print("\n### CPU of one reading request\n" + COST_HEAD, flush=True)
        self._print("read")
        print("\n### Row-level security, by the statement\n", flush=True)
        self._print("wall")

    def _fill(self) -> None:
        organization = UUID(self._large["organization"])
        with _superuser(self._bench) as connection:
            filled, analyzed = fill(connection, organization, self._rows)
            size = connection.execute("SELECT pg_database_size('flowplane')").fetchone()
        places = json.loads(self._inside("places", str(organization), str(self._rows), role="system"))
        self._places: dict[str, dict[str, Any]] = places
        self._cluster = self._middle_one(organization)
        facts = {
            "large": self._large,
            "callers": self._small[: -2 * CONNECTIONS],
            "cluster": self._cluster,
            "places": places,
            "pairs": self._pairs,
        }
        self._facts_file.write_text(json.dumps(facts), encoding="utf-8")
        print(
            f"{self._rows:,} clusters in one organization, {self._rows // 10:,} in others, each with an operation and "
            f"a proven backup; {size[0] / 1e6 if size else 0:,.0f} MB. Filled in {filled:.0f} s, vacuumed and analyzed "
            f"in {analyzed:.0f} s. {self._pairs} rounds of each side, interleaved.",
            flush=True,
        )

    def _middle_one(self, organization: UUID) -> str:
        statement = """
            SELECT id FROM provisioning_cluster WHERE organization_id = %s ORDER BY created_at LIMIT 1 OFFSET %s
        """
        with _superuser(self._bench) as connection:
            row = connection.execute(statement, (organization, self._rows // 2)).fetchone()
        assert row is not None
        return str(row[0])

    def _count(self) -> None:
        with _logged(self._bench):
            self._inside("count", str(self._facts_file))
        log = (self._bench.home.logs / "postgres.log").read_text(encoding="utf-8", errors="replace")
        print("\n### Statements of one request, by the server's log, without BEGIN and COMMIT\n")
        print("| request | statements | of them: is the connection alive, savepoints, who asks | `count(*)` |")
        print("|---|---|---|---|")
        for name, counted in _counted(log).items():
            cells = (counted.total(), f"{counted['alive']}, {counted['savepoint']}, {counted['who asks']}")
            print(f"| {name} | {cells[0]} | {cells[1]} | {counted['count'] or 'none'} |", flush=True)

    def _print(self, program: str) -> None:
        print(self._inside(program, str(self._facts_file)).rstrip(), flush=True)

    def _inside(self, *words: str, role: str = "app") -> str:
        argv = [str(VENV / "bin" / "python"), "-m", "bench.api_inside", *words]
        done = subprocess.run(
            argv, cwd=CHECKOUT, env=_variables(self._bench, role), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SetupError(f"bench.api_inside {words[0]} failed:\n{done.stderr[-5000:]}")
        self._notes += [f"{words[0]}: {note}" for note in _worth_telling(done.stderr)]
        return done.stdout

    # --- Wall time ---

    def _measure_wall(self, *, only_creations: bool) -> None:
        print(f"\n### Wall time through the web process\n\n{WALL_HEAD}", flush=True)
        own = iter([self._small[-1 - number] for number in range(2 * CONNECTIONS)])
        posts = {name: [next(own) for _ in range(CONNECTIONS)] for name in (OURS, BARE)}
        with _served(self._bench) as port:
            self._compare(port, "create", {name: self._creations(name, posts[name]) for name in (OURS, BARE)})
            if not only_creations:
                self._compare_reads(port)
        self._bench.stop_broker()
        with _served(self._bench) as port:
            self._compare(port, "create, Redis down", {OURS: self._creations(OURS, posts[OURS])})
        self._bench.start_broker()

    def _compare_reads(self, port: int) -> None:
        self._compare(port, "get", {name: self._gets(name) for name in (OURS, BARE)})
        for connections in (1, CONNECTIONS):
            self._compare(port, "list", self._lists(connections))
        self._compare(port, "list", self._numbered())

    def _compare(self, port: int, title: str, sides: Mapping[str, _Load]) -> None:
        """A row for each side: over all its rounds, and the rounds' medians against the first side's."""
        for side in sides.values():
            _hurried(port, side)  # threads and connections are there from here on
        rounds = interleaved({name: partial(_hurried, port, side) for name, side in sides.items()}, self._pairs)
        first = next(iter(sides))
        for name, several in rounds.items():
            all_of_it = [seconds * 1000 for one in several for seconds in one]
            medians = [statistics.median(one) for one in several]
            cells = [title, name.replace(OURS, "ours").replace(BARE, "bare"), str(len(sides[name]()))]
            cells += [f"{percentile(all_of_it, share):.0f} ms" for share in (0.5, 0.95, 0.99)]
            cells += [
                str(len(all_of_it)),
                str(ratio_of(medians, [statistics.median(one) for one in rounds[first]])) if name != first else "",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)

    def _creations(self, path: str, callers: Sequence[Mapping[str, str]]) -> _Load:
        def load() -> list[list[_Ask]]:
            return [[self._creation(path, caller) for _ in range(CREATIONS)] for caller in callers]

        return load

    def _creation(self, path: str, caller: Mapping[str, str]) -> _Ask:
        wish = {"name": uuid4().hex, "stage": "dev", "region": "local", "plan_type": "small", "channel": "stable"}
        return _Ask("POST", path, caller["token"], json.dumps({**wish, "release": "8.5.8"}).encode())

    def _gets(self, path: str) -> _Load:
        ask = _Ask("GET", f"{path}/{self._cluster}", self._large["token"])
        return lambda: [[ask] * READS for _ in range(CONNECTIONS)]

    def _lists(self, connections: int) -> dict[str, _Load]:
        def load(place: Mapping[str, Any]) -> list[list[_Ask]]:
            query = f"?cursor={place['cursor']}" if place["cursor"] else ""
            return [[_Ask("GET", OURS + query, self._large["token"])] * PAGES for _ in range(connections)]

        return {f"{OURS}, {where} page": partial(load, place) for where, place in self._places.items()}

    def _numbered(self) -> dict[str, _Load]:
        def load(place: Mapping[str, Any]) -> list[list[_Ask]]:
            times = PAGES if place["number"] == 1 else 2
            return [[_Ask("GET", f"{BARE}?page={place['number']}", self._large["token"])] * times]

        return {f"{BARE}, {where} page": partial(load, place) for where, place in self._places.items()}


COST_HEAD = """
| request | side | wall | CPU, web | CPU, its database backend | ours : it, web's CPU | ours : it, CPU of both |
|---|---|---|---|---|---|---|"""
WALL_HEAD = """\
| request | side | connections | p50 | p95 | p99 | requests | median, to the first row's |
|---|---|---|---|---|---|---|---|"""


# --- Many at once -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ask:
    """One request on a connection."""

    method: str
    path: str
    token: str
    body: bytes | None = None

    @property
    def expected(self) -> HTTPStatus:
        """The answer's status when all is well."""
        if self.method == "GET":
            return HTTPStatus.OK
        return HTTPStatus.ACCEPTED if self.path.startswith(OURS) else HTTPStatus.CREATED


# What each connection asks, one after the other.
_Load = Callable[[], list[list[_Ask]]]


def _hurried(port: int, load: _Load) -> list[float]:
    """Let every connection ask its own, all at once; the seconds that each answer took."""
    took: list[float] = []
    failures: list[str] = []
    queues = load()
    ready = threading.Barrier(len(queues))

    def hurry(asks: Sequence[_Ask]) -> None:
        connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.connect()
        ready.wait()
        for ask in asks:
            headers = {"Authorization": f"Bearer {ask.token}", "Content-Type": "application/json"}
            began = time.perf_counter()
            connection.request(ask.method, ask.path, ask.body, headers)
            answer = connection.getresponse()
            body = answer.read()
            took.append(time.perf_counter() - began)
            if answer.status != ask.expected:
                failures.append(f"{ask.method} {ask.path} answered {answer.status}: {body.decode()}")
        connection.close()

    threads = [threading.Thread(target=hurry, args=(asks,)) for asks in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(took) != sum(len(asks) for asks in queues):
        raise SetupError(failures[0] if failures else "A connection broke.")
    return took


@contextmanager
def _served(bench: Testbench) -> Iterator[int]:
    """The web process as `embedded.supervision` starts it, without TLS; its port."""
    port = free_port()
    argv = [str(VENV / "bin" / "hypercorn"), "--workers", "0", "--graceful-timeout", "5"]
    argv += ["--bind", f"127.0.0.1:{port}", "config.wsgi:application"]
    with (bench.home.logs / "web.log").open("wb") as log:
        child = subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            env=_variables(bench, "app", Ports(plain=port)),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_served(child, port)
            yield port
        finally:
            end_session(child)


def _wait_until_served(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("localhost", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise SetupError("The web process did not start.")


# --- The server's word ------------------------------------------------------------------------------------------------

_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
_MARK = re.compile(r"SELECT 'bench request: (.*)'")
_KINDS = {
    "alive": re.compile(r"SELECT 1$"),
    "savepoint": re.compile(r"(SAVEPOINT|RELEASE SAVEPOINT) "),
    "who asks": re.compile(r"SELECT set_config"),
    "count": re.compile(r"SELECT COUNT\(\*\)", re.IGNORECASE),
}


def _counted(log: str) -> dict[str, Counter[str]]:
    """Statements between the marks, by kind."""
    found: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in log.splitlines():
        if not (match := _STATEMENT.search(line)):
            continue
        statement = match[1].strip()
        if mark := _MARK.fullmatch(statement):
            current = found.setdefault(mark[1], Counter())
        elif statement not in ("BEGIN", "COMMIT"):
            current[next((kind for kind, form in _KINDS.items() if form.match(statement)), "other")] += 1
    found.pop("end", None)
    return found


@contextmanager
def _logged(bench: Testbench) -> Iterator[None]:
    """Have the server log every statement of the web process's role."""
    with _superuser(bench) as connection:
        connection.autocommit = True
        connection.execute("ALTER ROLE flowplane_app SET log_statement = 'all'")
        try:
            yield
        finally:
            connection.execute("ALTER ROLE flowplane_app RESET log_statement")


def _superuser(bench: Testbench) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(f"host={bench.home.postgres} user={SUPERUSER} dbname=flowplane")


def _variables(bench: Testbench, role: str, ports: Ports | None = None) -> dict[str, str]:
    one_organization_asks = {"FLOWPLANE_API_READS": "1000000", "FLOWPLANE_API_WRITES": "1000000"}
    settings = {"DJANGO_SETTINGS_MODULE": "bench.bare_settings"}
    return {**bench.environment(role, ports=ports), **one_organization_asks, **settings}


def _worth_telling(text: str) -> list[str]:
    """How often a program logged the same thing, which comes with every request; and what it said in earnest."""
    logged = re.findall(r"^\S+ (?:warning|error) +(.*?)(?: \(|  |$)", text, re.MULTILINE)
    disturbed = re.findall(r"^\d+ disturbed rounds.*$", text, re.MULTILINE)
    return disturbed + [f"{times} x “{sentence}”" for sentence, times in Counter(logged).most_common(3)]


if __name__ == "__main__":
    sys.exit(main())
