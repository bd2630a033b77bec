"""Inside a process that answers requests: how many statements one takes, and how much CPU, ours and bare in turn.

Every request is a WSGI call of the whole application, from the middleware to the last byte; no socket and no HTTP
parser, which would cost both sides the same. CPU is this process's and, read from the kernel, its database backend's.
"""

from __future__ import annotations

import gc
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.bare_settings")
django.setup()

from celery import current_app  # noqa: E402 - settings first
from django.conf import settings  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import override_settings  # noqa: E402

from bench.pairs import Stalls, interleaved, ratio_of, spread  # noqa: E402
from billing.models import Plan, Subscription  # noqa: E402
from config.wsgi import Application  # noqa: E402
from provisioning import selectors  # noqa: E402
from provisioning.models import Cluster  # noqa: E402
from provisioning.wakeups import RINGING  # noqa: E402
from tenants import services, tokens  # noqa: E402
from tenants.actor import Actor, PrincipalKind  # noqa: E402
from tenants.models import Membership, Organization, User  # noqa: E402
from tenants.paging import Page, slice_newest_first  # noqa: E402
from tenants.roles import API_SCOPES, Role, permissions_of  # noqa: E402
from tenants.scoping import scope  # noqa: E402

OURS, BARE = "/api/v1/clusters", "/bare/clusters"
PAGE_ROWS = 50
MARK = "bench request: "

# What `startproject` puts in front of a view.
PLAIN_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# Requests in a block, and how many before it are not counted: the server plans a prepared statement anew five times.
BLOCKS = {"create": 25, "get": 50, "list": 8, "numbered": 2, "query": 40}
WARM_UP = 8


# --- Who asks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """An organization with a program's access token and its owner's session."""

    organization: str
    token: str
    session: str


@dataclass(frozen=True)
class Place:
    """Where a page begins: for us a cursor, for others a number."""

    cursor: str
    number: int


def make_callers(count: int) -> list[Caller]:
    """So many organizations on a plan without limits that matter."""
    terms = {"max_clusters": 10_000_000, "max_members": 5, "max_credentials_per_cluster": 10}
    plan, _ = Plan.objects.get_or_create(slug="bench", defaults={"name": "Bench", **terms})
    return [_make_caller(plan) for _ in range(count)]


@transaction.atomic
def _make_caller(plan: Plan) -> Caller:
    name = uuid4().hex
    user = User.objects.create_user(email=f"{name}@example.com")
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=user, role=Role.OWNER.value)
    Subscription.objects.create(organization=organization, plan=plan)
    actor = Actor(PrincipalKind.PERSON, str(user.pk), user.email, organization.pk, permissions_of(Role.OWNER))
    new = services.create_credential(actor=actor, name="bench", scopes=sorted(API_SCOPES))
    token = tokens.issue_token(
        client_id=new.credential.client_id, client_secret=new.secret, audience="", source_address="127.0.0.1"
    )
    person = Client()
    person.force_login(user)
    session = person.cookies[settings.SESSION_COOKIE_NAME].value
    return Caller(str(organization.pk), token.access_token, session)


def places_of(organization: UUID, rows: int) -> dict[str, Place]:
    """The first page, the one in the middle, and the last full one."""
    last = (rows - 1) // PAGE_ROWS + 1
    return {
        "first": Place("", 1),
        "middle": Place(_cursor_before(organization, (last // 2) * PAGE_ROWS), last // 2 + 1),
        "last": Place(_cursor_before(organization, (last - 1) * PAGE_ROWS), last),
    }


def _cursor_before(organization: UUID, offset: int) -> str:
    """What a caller who had walked so far would hold: the cursor after the row before the offset."""
    listed = Cluster.objects.filter(organization_id=organization).order_by("-created_at", "-pk")
    two = list(listed.values_list("pk", flat=True)[offset - 1 : offset + 1])
    return slice_newest_first(Cluster.objects.filter(pk__in=two), Page(limit=1)).next_cursor


# --- One request ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back, and what it took."""

    status: int
    body: bytes
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    caller: Caller
    body: Mapping[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    by_session: bool = False

    def environ(self) -> dict[str, Any]:
        """As a web server hands it over."""
        path, _, query = self.path.partition("?")
        raw = json.dumps(self.body).encode() if self.body is not None else b""
        identity = {"HTTP_AUTHORIZATION": f"Bearer {self.caller.token}"}
        if self.by_session:
            csrf = "c" * 32
            cookies = f"{settings.SESSION_COOKIE_NAME}={self.caller.session}; {settings.CSRF_COOKIE_NAME}={csrf}"
            identity = {"HTTP_COOKIE": cookies, "HTTP_X_CSRFTOKEN": csrf}
        return {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "localhost",
            "HTTP_ACCEPT": "application/json",
            "CONTENT_TYPE": "application/json" if raw else "",
            "CONTENT_LENGTH": str(len(raw)) if raw else "",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(raw),
            "wsgi.errors": sys.stderr,
            **identity,
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers},
        }


def answer_of(application: WSGIHandler, ask: Ask) -> Answer:
    """Let the application answer; its connection to the database stays open, as in the web process."""
    statuses: list[str] = []

    def start(status: str, _headers: Any, _error: Any = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return bytes

    environ = ask.environ()
    began, used = time.perf_counter(), time.process_time()
    chunks: Any = application(environ, start)
    body = b"".join(chunks)
    chunks.close()
    cpu_seconds, seconds = time.process_time() - used, time.perf_counter() - began
    answer = Answer(int(statuses[0].split()[0]), body, seconds, cpu_seconds)
    expected = HTTPStatus.OK
    if ask.method == "POST":
        expected = HTTPStatus.ACCEPTED if ask.path.startswith(OURS) else HTTPStatus.CREATED
    if answer.status != expected:
        raise SystemExit(f"{ask.method} {ask.path} answered {answer.status}: {answer.body.decode()}")
    return answer


def creation(path: str, caller: Caller, **also: Any) -> Ask:
    """A wish for a cluster under a name of its own."""
    wish = {"name": uuid4().hex, "stage": "dev", "region": "local", "plan_type": "small", "channel": "stable"}
    return Ask("POST", path, caller, {**wish, "release": "8.5.8"}, **also)


def listing(path: str, caller: Caller, place: Place, **also: Any) -> Ask:
    """A page of fifty."""
    query = (f"?cursor={place.cursor}" if place.cursor else "") if path == OURS else f"?page={place.number}"
    return Ask("GET", path + query, caller, **also)


# --- Statements -------------------------------------------------------------------------------------------------------


def count(facts: Facts) -> None:
    """Make each request once behind a mark of its own in the server's log, which another process reads."""
    application = Application()
    small, large = facts.callers[0], facts.large
    asks: dict[str, Ask] = {}
    for way in ("token", "session"):
        also: dict[str, Any] = {"by_session": way == "session"}
        asks[f"create, ours, {way}"] = creation(OURS, small, **also)
        asks[f"create, bare, {way}"] = creation(BARE, small, **also)
        asks[f"get, ours, {way}"] = Ask("GET", f"{OURS}/{facts.cluster}", large, **also)
        asks[f"get, bare, {way}"] = Ask("GET", f"{BARE}/{facts.cluster}", large, **also)
        for where, place in facts.places.items():
            asks[f"list, {where}, ours, {way}"] = listing(OURS, large, place, **also)
            asks[f"list, {where}, bare, {way}"] = listing(BARE, large, place, **also)
    key = (("Idempotency-Key", uuid4().hex),)
    asks["create, ours, token and idempotency key"] = creation(OURS, small, headers=key)
    for ask in (creation(OURS, small), creation(BARE, small), *list(asks.values())[2:4]):
        answer_of(application, ask)  # keys are opened and modules loaded
    for name, ask in asks.items():
        _mark(name)
        answer_of(application, ask)
    _mark("end")


def _mark(name: str) -> None:
    """Below Django, which would first ask whether the connection is alive."""
    connection.ensure_connection()
    connection.connection.execute(f"SELECT '{MARK}{name}'")


# --- CPU --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Milliseconds for one request: wall, this process's CPU, and its database backend's."""

    wall: float
    web: float
    database: float

    @property
    def both(self) -> float:
        """CPU of both."""
        return self.web + self.database


def cost_of(
    application: WSGIHandler,
    asks: Sequence[Ask],
    *,
    warm_up: int = WARM_UP,
    role: str = "flowplane_app",
    before_each: Callable[[], Any] = gc.get_count,
) -> Cost:
    """The mean of a block of requests, after some that are not counted.

    On a connection of its own: the product gives one up after a minute, which may be in the middle of a block.
    """
    _become(role)
    for ask in asks[:warm_up]:
        answer_of(application, ask)
    gc.collect()
    backend = _backend()
    used, answers = _cpu_of(backend), []
    for ask in asks[warm_up:]:
        before_each()
        answers.append(answer_of(application, ask))
    database = (_cpu_of(backend) - used) / len(answers)
    wall, web = (statistics.fmean(getattr(one, name) for one in answers) for name in ("seconds", "cpu_seconds"))
    return Cost(*(seconds * 1000 for seconds in (wall, web, database)))


def _become(role: str) -> None:
    """Ask the database as this role from here on, on a new connection."""
    connection.close()
    connection.settings_dict["USER"] = role


def _backend() -> int:
    connection.ensure_connection()
    return int(connection.connection.info.backend_pid)


def _cpu_of(process_id: int) -> float:
    """Seconds of CPU by the kernel's own clock, finer than its ticks."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _plain_handler() -> WSGIHandler:
    with override_settings(MIDDLEWARE=PLAIN_MIDDLEWARE):
        return WSGIHandler()


def _print_costs(title: str, costs: Mapping[str, Sequence[Cost]], against: Sequence[str], ours: str = "ours") -> None:
    """A row for each side, with ours against it where that says something."""
    for name, several in costs.items():
        cells = [f"| {title} | {name}"]
        cells += [spread([getattr(one, part) for one in several], " ms") for part in ("wall", "web", "database")]
        for part in ("web", "both"):
            pairs = ([getattr(one, part) for one in side] for side in (costs[ours], several))
            cells.append(str(ratio_of(*pairs)) if name in against else "")
        print(" | ".join(cells) + " |", flush=True)


COST_HEAD = """
| request | side | wall | CPU, web | CPU, its database backend | ours : it, web's CPU | ours : it, CPU of both |
|---|---|---|---|---|---|---|"""


def create(facts: Facts, *, has_broker: bool) -> None:
    """Accepting a creation, against a bare insert."""
    product, plain = Application(), _plain_handler()
    half = len(facts.callers) // 2
    fresh = iter(facts.callers[1:half] if has_broker else facts.callers[half:])

    def block(application: WSGIHandler, path: str, before_each: Callable[[], Any] = gc.get_count) -> Cost:
        caller = next(fresh)
        asks = [creation(path, caller) for _ in range(BLOCKS["create"] + WARM_UP)]
        return cost_of(application, asks, before_each=before_each)

    stalls = Stalls()
    before_each = _silence if has_broker else gc.get_count
    sides = {
        "ours": lambda: block(product, OURS, before_each),
        "bare": lambda: block(product, BARE),
        "bare, Django's own middleware only": lambda: block(plain, BARE),
    }
    costs = interleaved(sides, facts.pairs, stalls)
    _print_costs("create" if has_broker else "create, Redis down", costs, list(sides)[1:])
    print(stalls, file=sys.stderr)


def _silence() -> None:
    """Forget that a message is on its way, as a worker does that begins to look: each creation sends one."""
    with current_app.producer_or_acquire() as producer:
        producer.connection.default_channel.client.delete(RINGING)


def read(facts: Facts) -> None:
    """One cluster, and a list at three depths, against bare views; then as a role that no policy binds."""
    product, plain = Application(), _plain_handler()
    stalls = Stalls()

    def block(application: WSGIHandler, ask: Ask, times: str, role: str = "flowplane_app") -> Callable[[], Cost]:
        warm_up = 1 if times == "numbered" else WARM_UP
        return partial(cost_of, application, [ask] * (BLOCKS[times] + warm_up), warm_up=warm_up, role=role)

    def get(path: str) -> Ask:
        return Ask("GET", f"{path}/{facts.cluster}", facts.large)

    sides = {
        "ours": block(product, get(OURS), "get"),
        "bare": block(product, get(BARE), "get"),
        "bare, Django's own middleware only": block(plain, get(BARE), "get"),
    }
    _print_costs("get", interleaved(sides, facts.pairs, stalls), list(sides)[1:])
    lists = {f"ours, {where} page": listing(OURS, facts.large, place) for where, place in facts.places.items()}
    depths = interleaved({name: block(product, ask, "list") for name, ask in lists.items()}, facts.pairs, stalls)
    _print_costs("list", depths, ["ours, first page"], ours="ours, last page")
    numbered = {f"bare, {where} page": listing(BARE, facts.large, place) for where, place in facts.places.items()}
    shallow = interleaved(
        {
            name: block(product, ask, "list" if "first" in name else "numbered")
            for name, ask in {**numbered, "ours, last page": lists["ours, last page"]}.items()
        },
        facts.pairs,
        stalls,
    )
    _print_costs("list", shallow, list(numbered), ours="ours, last page")
    for title, ask in (("get", get(OURS)), ("list, middle page", lists["ours, middle page"])):
        walls = {
            "through the wall": block(product, ask, title.partition(",")[0]),
            "without the wall": block(product, ask, title.partition(",")[0], role="flowplane_owner"),
        }
        costs = interleaved(walls, facts.pairs, stalls)
        _print_costs(title, costs, ["without the wall"], ours="through the wall")
    print(stalls, file=sys.stderr)


# --- Row-level security, by the statement -----------------------------------------------------------------------------


def wall(facts: Facts) -> None:
    """The very statements of the get and the list, through the policies and by the owner, whom none binds.

    Both ask with the selectors' explicit filter, as the product does.
    """
    print("| statement | side | wall | CPU of the backend | with : without, wall | with : without, CPU |")
    print("|---|---|---|---|---|---|")
    stalls = Stalls()
    for title, look in _looks(facts).items():
        sides = {
            "with the wall": partial(_look_cost, "flowplane_app", look),
            "with the wall, and the statement that says who asks": partial(_look_cost, "flowplane_app", look, True),
            "without": partial(_look_cost, "flowplane_owner", look),
        }
        costs = interleaved(sides, facts.pairs, stalls)
        for name, several in costs.items():
            cells = [f"| {title} | {name}"]
            cells += [spread([getattr(one, part) for one in several], " ms") for part in ("wall", "database")]
            for part in ("wall", "database"):
                pairs = ([getattr(one, part) for one in side] for side in (several, costs["without"]))
                cells.append("" if name == "without" else str(ratio_of(*pairs)))
            print(" | ".join(cells) + " |", flush=True)
    print(stalls, file=sys.stderr)


@dataclass(frozen=True)
class Look:
    """A read, and whose rows it is about."""

    organization: UUID
    read: Callable[[], Any]


def _looks(facts: Facts) -> dict[str, Look]:
    organization = UUID(facts.large.organization)
    actor = Actor(PrincipalKind.SYSTEM, "", "", organization, permissions_of(Role.OWNER))
    reads: dict[str, Callable[[], Any]] = {"get": partial(selectors.cluster, actor, UUID(facts.cluster))}
    for where, place in facts.places.items():
        reads[f"list, {where} page"] = partial(selectors.clusters_of, actor, Page(cursor=place.cursor))
    return {name: Look(organization, read) for name, read in reads.items()}


def _look_cost(role: str, look: Look, includes_scope: bool = False) -> Cost:
    """What the database took for one look, in the mean of a block; building rows and objects is left out."""
    _become(role)
    backend = _backend()
    took: list[tuple[float, float]] = []

    def timed(execute: Callable[..., Any], *known: Any) -> Any:
        used, began = _cpu_of(backend), time.perf_counter()
        answer = execute(*known)
        took.append((time.perf_counter() - began, _cpu_of(backend) - used))
        return answer

    for number in range(WARM_UP + BLOCKS["query"]):
        if number == WARM_UP:
            took.clear()
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")  # BEGIN goes with the first statement, whichever it is
            if includes_scope:
                with connection.execute_wrapper(timed):
                    scope(organization_id=look.organization)
            else:
                scope(organization_id=look.organization)
            with connection.execute_wrapper(timed):
                look.read()
    walls, used = ([one[place] for one in took] for place in (0, 1))
    return Cost(sum(walls) / BLOCKS["query"] * 1000, 0.0, sum(used) / BLOCKS["query"] * 1000)


# --- The programs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What all measurements here are about; it comes from a file."""

    large: Caller
    callers: Sequence[Caller]
    cluster: str
    places: Mapping[str, Place]
    pairs: int

    @classmethod
    def load(cls, path: Path) -> Facts:
        """As `api` wrote them."""
        given = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            large=Caller(**given["large"]),
            callers=[Caller(**one) for one in given["callers"]],
            cluster=given["cluster"],
            places={where: Place(**one) for where, one in given["places"].items()},
            pairs=given["pairs"],
        )


def main(words: Sequence[str]) -> None:
    """Run one measurement; the first word says which, the others what about."""
    what, *rest = words
    if what == "callers":
        print(json.dumps([asdict(caller) for caller in make_callers(int(rest[0]))]))
    elif what == "places":
        places = places_of(UUID(rest[0]), int(rest[1]))
        print(json.dumps({where: asdict(place) for where, place in places.items()}))
    else:
        programs: dict[str, Callable[[Facts], None]] = {
            "count": count,
            "create": partial(create, has_broker=True),
            "create-without-broker": partial(create, has_broker=False),
            "read": read,
            "wall": wall,
        }
        programs[what](Facts.load(Path(rest[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
