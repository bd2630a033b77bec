"""The product as `bench.k8s` runs it: its worker, clock and watch, its services, and when all of it rests."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from uuid import UUID, uuid4

import psutil
from django.conf import settings
from django.db import connection, transaction
from redis import Redis

from bench.child import Child
from bench.k8s_peers import Laid
from bench.k8s_place import OURS, REGIONS, Audit, control_planes, cpu_seconds, family, peak_mb, pss_mb, until
from billing.models import Plan, Subscription
from provisioning import services
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.budget import Gate
from provisioning.backends.kubernetes.connection import connect
from provisioning.backends.kubernetes.kinds import POD, STATEFUL_SET
from provisioning.backends.kubernetes.names import namespace_of
from provisioning.backends.kubernetes.settings import Budget, KubernetesSettings, read_values
from provisioning.models import Operation, Region
from provisioning.spec import ClusterRequest
from provisioning.states import OPEN_STATES, OperationState
from tests.factories import Person, make_person

REGION = REGIONS[0]
ORGANIZATIONS = 20
CELERY = [str(Path(sys.executable).with_name("celery")), "-A", "config.celery", "worker", "--loglevel", "INFO"]
# As embedded.supervision starts it.
POOL = ["--pool", "threads", "--concurrency", "4", "--without-gossip", "--without-mingle", "--without-heartbeat"]
MANAGE = [sys.executable, "manage.py"]
# Nothing of ours may move for so long before it counts as having come to rest.
REST_SECONDS = 1.5
# A resting row is due again in minutes; one that waits for something, within a second.
SOON = "interval '5 seconds'"


def make_regions(count: int, domain: str) -> None:
    """The regions that there are, and a plan that allows everything."""
    Region.objects.all().delete()
    for slug in REGIONS[:count]:
        Region.objects.create(slug=slug, name=slug, backend="kubernetes", domain=domain)
    limits = {"max_clusters": 1_000_000, "max_members": 10, "max_credentials_per_cluster": 10}
    Plan.objects.create(slug="bench", name="Bench", **limits)


def region_settings() -> KubernetesSettings:
    """The region as the product's processes see it, for the sides that stand beside them."""
    assert settings.REGION_VALUES_DIR is not None
    return KubernetesSettings(
        region=REGION,
        kubeconfig=None,
        chart=settings.CHART,
        ca_cert=settings.CA_CERT_FILE,
        ca_key=settings.CA_KEY_FILE,
        helm=settings.HELM,
        image=settings.ENGINE_IMAGE,
        values=read_values(settings.REGION_VALUES_DIR / f"{REGION}.yaml"),
    )


def unlimited(kubeconfig: Path) -> Api:
    """A client that nobody holds back: for looking, and for what people do by hand."""
    return Api(partial(connect, kubeconfig), Gate(Budget(1e6, 1_000_000, 64)))


def new_person() -> Person:
    """Somebody with an organization that may have any number of clusters."""
    person = make_person()
    Subscription.objects.create(organization=person.organization, plan_id="bench")
    return person


def create(person: Person, region: str = REGION) -> UUID:
    """Wish a cluster, as a request of the web process does."""
    request = ClusterRequest(
        name=f"c-{uuid4().hex[:12]}", stage="dev", region=region, plan_type="small", channel="stable"
    )
    with transaction.atomic():
        return services.create_cluster(actor=person.actor, request=request).cluster_id


def delete(person: Person, cluster_id: UUID) -> None:
    """Wish it away, without a time to think it over."""
    with transaction.atomic():
        services.request_deletion(actor=person.actor, cluster_id=cluster_id, purge=True)


@dataclass
class Costs:
    """CPU seconds so far, by process; `kubernetes` is its control plane's."""

    by_name: Mapping[str, float]

    def __sub__(self, before: Costs) -> Costs:
        return Costs({name: spent - before.by_name.get(name, 0.0) for name, spent in self.by_name.items()})

    @property
    def ours(self) -> float:
        """All that is ours, PostgreSQL and Redis with it."""
        return sum(spent for name, spent in self.by_name.items() if name != "kubernetes")


class Product:
    """The processes, and what is wished of them."""

    def __init__(self, audit: Audit, apis: Sequence[Api], logs: Path, workers: int) -> None:
        self.audit, self.apis, self.api = audit, apis, apis[0]
        self._logs, self._workers = logs, workers
        self._children: dict[str, Child] = {}
        self.people = [new_person() for _ in range(ORGANIZATIONS)]
        self.tenants: list[tuple[Person, UUID]] = []

    @contextmanager
    def running(self) -> Iterator[Product]:
        """Start worker, clock and watch; end them after the block."""
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.start()
            yield self

    def start(self) -> None:
        """Start what does not run."""
        for number in range(self._workers):
            node = ["--hostname", f"worker{number}@bench"]
            self._children[f"worker{number}"] = Child([*CELERY, *POOL, *node], self._logs / f"worker{number}.log")
        for name in ("clock", "watch"):
            self._children[name] = Child([*MANAGE, name], self._logs / f"{name}.log")

    def stop(self) -> None:
        """End all of them."""
        for child in self._children.values():
            child.end()
        self._children = {}

    @contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """Have these processes (all, when none is named) stand still for the length of the block."""
        with ExitStack() as stack:
            for name, child in self._children.items():
                if not names or name in names:
                    stack.enter_context(child.held())
            yield

    # --- wishes ---

    def lay(self, count: int) -> Laid:
        """Wish so many tenants, one after the other; until the last one's objects are there."""
        place, before = self.audit.place(), self.costs()
        began, own = time.time(), time.process_time()
        regions = cycle(REGIONS[: len(self.apis)])
        fresh = [(person, create(person, next(regions))) for person in self._next_people(count)]
        accepted, own = time.time() - began, time.process_time() - own
        self.tenants += fresh
        names = {namespace_of(cluster_id) for _, cluster_id in fresh}
        applied = self.audit.applied(place, OURS, names)
        ended, spent = max(applied.values()), self.costs() - before
        peaks = {f"peak of {name}": peak_mb(child.pid) for name, child in self._children.items()}
        asked = self.audit.since(place, OURS, until=ended)
        details = {
            "accepted": accepted,
            "requests": float(len(asked)),
            "kubernetes": spent.by_name["kubernetes"],
            "place": float(place),
            **{f"CPU of {name}": seconds for name, seconds in spent.by_name.items()},
            "CPU of the calls": own,
            **peaks,
        }
        worker = sum(peak_mb(child.pid) for name, child in self._children.items() if name.startswith("worker"))
        return Laid(tuple(names), ended - began, spent.ours + own, worker, details)

    def bring_up(self) -> tuple[Laid, Person]:
        """Wish one tenant; until its creation has succeeded, which is when its owner reads that it is healthy."""
        person = new_person()
        began = time.monotonic()
        cluster_id = create(person)
        made = Operation.objects.filter(cluster_id=cluster_id)
        until(lambda: not made.filter(state__in=OPEN_STATES).exists(), "The creation's end", every=0.02)
        seconds = time.monotonic() - began
        assert made.get().state == OperationState.SUCCEEDED, made.get().error_message
        return Laid((str(cluster_id),), seconds, 0.0), person

    def _next_people(self, count: int) -> Sequence[Person]:
        start = len(self.tenants)
        return [self.people[(start + number) % ORGANIZATIONS] for number in range(count)]

    # --- rest ---

    def rest(self) -> None:
        """Wait until every operation has ended, every pod is ready, and no row is due soon."""
        quiet_since = time.monotonic()

        def is_quiet() -> bool:
            nonlocal quiet_since
            if self._moves() or not self._pods_run():
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since >= REST_SECONDS

        until(is_quiet, "Rest")

    def postpone(self) -> None:
        """Have nothing become due by itself for a day, so that a round serves only what it asks for."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE provisioning_cluster SET due_at = statement_timestamp() + interval '1 day'"
                " WHERE deleted_at IS NULL"
            )

    def _moves(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM provisioning_operation WHERE state IN ('pending', 'running')) OR EXISTS"
                " (SELECT FROM provisioning_cluster WHERE deleted_at IS NULL AND (lease_expires_at IS NOT NULL"
                f" OR due_at <= statement_timestamp() + {SOON}))"
            )
            return bool(cursor.fetchone()[0])

    def _pods_run(self) -> bool:
        return all(map(_pods_run, self.apis))

    # --- costs ---

    def costs(self) -> Costs:
        """CPU seconds of each process so far."""
        spent = {name: cpu_seconds(family(child.pid)) for name, child in self._children.items()}
        spent["postgres"] = cpu_seconds(family(self._postgres))
        spent["redis"] = cpu_seconds([self._redis])
        return Costs({**spent, "kubernetes": cpu_seconds(control_planes())})

    def memory(self) -> dict[str, float]:
        """PSS of each process of ours, in MB."""
        return {name: pss_mb(family(child.pid)) for name, child in self._children.items()}

    @cached_property
    def _postgres(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (backend,) = cursor.fetchone()
        top = psutil.Process(backend).parent()
        assert top is not None
        return top.pid

    @cached_property
    def _redis(self) -> int:
        client = Redis(unix_socket_path=settings.CELERY_BROKER_URL.removeprefix("redis+socket://"))
        return int(client.info("server")["process_id"])


def _pods_run(api: Api) -> bool:
    if api.find(POD, fields="status.phase!=Running", is_metadata_only=True).items:
        return False
    pods = api.find(POD, fields="status.phase=Running", is_metadata_only=True).items
    return len(pods) == len(api.find(STATEFUL_SET, is_metadata_only=True).items)


def kubeconfigs() -> Path:
    """Where the accounts' files lie; ours is there under the region's name as well."""
    assert settings.KUBECONFIG_DIR is not None
    return Path(settings.KUBECONFIG_DIR)
