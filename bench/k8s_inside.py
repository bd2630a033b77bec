"""The figures of `bench.k8s`, each taken inside a process of the product's, inside the testbed."""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

import psycopg  # noqa: E402 - settings first, for all that follow
from django.conf import settings  # noqa: E402

from bench import k8s_product  # noqa: E402
from bench.k8s import options_parser  # noqa: E402
from bench.k8s_peers import DEFINITION, BareSide, HelmSide, KopfSide, KubectlSide, Laid, write_template  # noqa: E402
from bench.k8s_place import (  # noqa: E402
    OURS,
    REGIONS,
    Asked,
    Audit,
    audit_logs,
    control_planes,
    cpu_seconds,
    planes,
    testbed_home,
    until,
)
from bench.k8s_product import Product, create, delete, new_person  # noqa: E402
from bench.pairs import interleaved, ratio_of  # noqa: E402
from bench.telling import machine, middle, tail  # noqa: E402
from common.errors import Temporary  # noqa: E402
from embedded.database import SUPERUSER  # noqa: E402
from provisioning.backends.kubernetes.api import Api  # noqa: E402
from provisioning.backends.kubernetes.kinds import (  # noqa: E402
    CLAIM,
    CONFIG_MAP,
    NAMESPACE,
    SERVICE,
    Kind,
    Object,
    meta,
    name_in,
)
from provisioning.backends.kubernetes.names import namespace_of  # noqa: E402
from provisioning.management.commands.clock import REGISTER_EVERY_SECONDS, TICK_SECONDS  # noqa: E402
from provisioning.services.installation import LONGEST_CHANGE  # noqa: E402

VOLUME = Kind("PersistentVolume", "persistentvolumes", "v1", is_namespaced=False)
# A fleet grows by so many at once: each block has to come to rest within our patience.
GROWTH = 500
# Helm takes half a second each: so many are enough for its rate.
HELM_BLOCK = 8
DELETED = 100
DRIFTS = 100
# What is deleted and edited by hand: which part is compared, and the edit.
DRIFTING: tuple[tuple[str, Kind, Callable[[Object], object], Object], ...] = (
    ("gateway", SERVICE, lambda one: one["spec"]["selector"], {"spec": {"selector": {"nobody": "here"}}}),
    ("engine-files", CONFIG_MAP, lambda one: one["data"], {"data": {"volume.sh": "exit 1"}}),
)
# So many single tenants are asked for beside each fleet.
NEWCOMERS = 9
PROBES = 20


@dataclass
class Place:
    """What every figure needs."""

    options: argparse.Namespace
    product: Product
    audit: Audit
    folder: Path
    domain: str

    @property
    def template(self) -> Path:
        return self.folder / "template.json"


def main() -> None:
    """Take the figure that the arguments name."""
    options = options_parser().parse_args()
    (figure,) = options.figure
    folder, domain = k8s_product.kubeconfigs(), "engines.test"
    k8s_product.make_regions(options.regions, domain)
    for region in REGIONS[: options.regions]:  # the first request of an account of ours begins a log
        k8s_product.unlimited(folder / f"{region}.yaml").find(NAMESPACE)
    audit = Audit(*audit_logs())
    apis = [k8s_product.unlimited(plane / "admin.kubeconfig") for plane in planes(testbed_home())]
    product = Product(audit, apis, Path(os.environ["BENCH_LOGS"]), options.workers)
    write_template(k8s_product.region_settings(), domain, folder / "template.json")
    with product.running():
        FIGURES[figure](Place(options, product, audit, folder, domain))


def _head(title: str, *about: str) -> None:
    print(f"\n### {title}\n")
    print("; ".join((machine(), *about)) + ".\n", flush=True)


def _row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def _rule(columns: int) -> None:
    print("|" + "---|" * columns, flush=True)


# --- One tenant ---


def one(place: Place) -> None:
    """Accepted to the last object applied, beside `helm install` of the same chart with the same values."""
    product, pairs = place.product, place.options.pairs
    helm = HelmSide(k8s_product.region_settings(), place.domain, place.folder)
    whole: list[tuple[float, float]] = []
    asked: list[Asked] = []

    def ours() -> Laid:
        product.rest()
        product.postpone()
        before, log = product.costs(), place.audit.place()
        with product.held("clock"):
            laid = product.lay(1)
        asked[:] = place.audit.since(log, OURS, until=time.time())[: int(laid.details["requests"])]
        product.rest()
        whole.append(((product.costs() - before).ours, float(len(place.audit.since(log, OURS)))))
        return laid

    def theirs() -> Laid:
        with product.held():
            log, kubernetes = place.audit.place(), cpu_seconds(control_planes())
            laid = helm.lay(1)
            spent = cpu_seconds(control_planes()) - kubernetes
            requests = len(place.audit.since(log, helm.name))
        product.rest()
        return Laid(laid.tenants, laid.seconds, laid.cpu_seconds, laid.peak_mb, _details(requests, spent))

    for side in (ours, theirs):  # renders the chart, makes connections and plans
        side()
    whole.clear()
    found = interleaved({"ours": ours, "helm": theirs}, pairs)
    _show_one(found["ours"], found["helm"], asked, whole)


def _details(requests: float, kubernetes: float) -> Mapping[str, float]:
    return {"requests": float(requests), "kubernetes": kubernetes}


def _show_one(
    ours: Sequence[Laid], helm: Sequence[Laid], asked: Sequence[Asked], whole: Sequence[tuple[float, float]]
) -> None:
    written = {(one.kind, one.name) for one in asked if one.is_write and one.status < 300}
    requests = statistics.median(one.details["requests"] for one in ours)
    _head("One tenant: accepted → its last Kubernetes object applied", f"{len(ours)} interleaved pairs")
    _row("figure", "ours", "`helm install`", "ours : Helm", "goal")
    _rule(5)
    for name, goal, unit, digits, read in _ONE:
        mine, other = ([read(one) for one in side] for side in (ours, helm))
        _row(name, middle(mine, unit, digits), middle(other, unit, digits), ratio_of(mine, other), goal)
    each = requests / len(written)
    _row("requests for each of the objects", f"{requests:.0f} : {len(written)} = {each:.2f}", "", "", "≤ 1.5")
    _row("CPU of all of ours until at rest", middle([cpu for cpu, _ in whole], " s", 3), "", "", "")
    _row("requests until at rest, the clock's with them", middle([count for _, count in whole]), "", "", "")
    print(f"\nRequests until applied: {_told(Counter(f'{one.verb} {one.kind}' for one in asked))}.", flush=True)


_ONE: tuple[tuple[str, str, str, int, Callable[[Laid], float]], ...] = (
    ("wall", "≤ 0.3x", " s", 3, lambda one: one.seconds),
    ("CPU of all of ours, PostgreSQL and Redis too; of Helm", "≤ 0.2x", " s", 3, lambda one: one.cpu_seconds),
    ("CPU of Kubernetes meanwhile", "", " s", 3, lambda one: one.details["kubernetes"]),
    ("requests (exact)", "", "", 0, lambda one: one.details["requests"]),
)


def _told(counted: Counter[str]) -> str:
    return ", ".join(f"{times} x {what}" for what, times in counted.most_common())


# --- A real engine ---


def healthy(place: Place) -> None:
    """Accepted to healthy on a real node, beside `kubectl apply` of the same manifests until the region says ready."""
    product = place.product
    kubectl = KubectlSide(place.folder, place.template)

    def ours() -> Laid:
        laid, person = product.bring_up()
        (cluster_id,) = laid.tenants
        delete(person, UUID(cluster_id))
        until(lambda: namespace_of(UUID(cluster_id)) not in _namespaces(product), "Its end")
        return laid

    def theirs() -> Laid:
        with product.held():
            laid = kubectl.start()
            kubectl.end(laid)
        return laid

    for side in (ours, theirs):  # renders the chart, makes connections and plans
        side()
    found = interleaved({"ours": ours, "kubectl": theirs}, place.options.pairs)
    mine, other = ([one.seconds for one in found[name]] for name in ("ours", "kubectl"))
    _head("One tenant: accepted → healthy, a real engine on a real node", f"{len(mine)} interleaved pairs")
    _row("figure", "ours", "`kubectl apply`", "ours - it", "goal")
    _rule(5)
    more = [one - another for one, another in zip(mine, other, strict=True)]
    _row("wall", middle(mine, " s", 1), middle(other, " s", 1), middle(more, " s", 1), "≤ 2 s")


# --- A burst ---


def burst(place: Place) -> None:
    """Blocks of all sides in turn, for the ratios; then as many tenants as were asked for, all at once."""
    options, product = place.options, place.product
    product.api.create(
        Kind("", "customresourcedefinitions", "apiextensions.k8s.io/v1", is_namespaced=False), "", DEFINITION
    )

    def counted(side: str, lay: Callable[[], Laid]) -> Callable[[], Laid]:
        """The same, with how many requests that took by the API server's own log."""

        def laying() -> Laid:
            log, laid = place.audit.place(), lay()
            return replace(laid, details={"requests": float(len(place.audit.since(log, side)))})

        return laying

    helm = HelmSide(k8s_product.region_settings(), place.domain, place.folder)
    kopf = KopfSide(product.api, place.audit, place.folder, place.template)
    bare = BareSide(place.folder, place.template)
    try:
        sides: dict[str, Callable[[], Laid]] = {
            "ours": lambda: _calm(product, lambda: product.lay(options.block), hold=False),
            "bare client, 8 threads": lambda: _calm(product, counted(bare.name, lambda: bare.lay(options.block))),
            "operator on kopf": lambda: _calm(product, counted(kopf.name, lambda: kopf.lay(options.block))),
            "`helm install`, one after the other": lambda: _calm(
                product, counted(helm.name, lambda: helm.lay(HELM_BLOCK))
            ),
        }
        for side in sides.values():
            side()
        _show_sides(interleaved(sides, options.pairs), options)
    finally:
        kopf.end()
    _show_burst(place, _calm(product, lambda: product.lay(options.tenants), hold=False))
    with product.held():
        at_once = bare.lay(options.tenants)
    print(f"\nThe bare client, as many beside those: {at_once.per_second:.1f} tenants/s.", flush=True)


def _calm(product: Product, lay: Callable[[], Laid], *, hold: bool = True) -> Laid:
    """Begin when everything rests; others than us do without our processes beside them."""
    product.rest()
    product.postpone()
    with ExitStack() as stack:
        if hold:
            stack.enter_context(product.held())
        return lay()


def _show_sides(found: Mapping[str, Sequence[Laid]], options: argparse.Namespace) -> None:
    ours = [one.per_second for one in found["ours"]]
    goals = {
        "bare client, 8 threads": "≥ 0.55x",
        "operator on kopf": "≥ 1.5x",
        "`helm install`, one after the other": "≥ 5x",
    }
    _head(
        "Bursts, side by side",
        f"{options.pairs} rounds of {options.block} tenants each ({HELM_BLOCK} of Helm's)",
        _crew(options),
    )
    _row("side", "tenants/s", "its requests for each", "its CPU for each", "peak RSS", "ours : it", "goal")
    _rule(7)
    for name, several in found.items():
        rates = [one.per_second for one in several]
        cpu = [one.cpu_seconds / len(one.tenants) * 1000 for one in several]
        ratio = ratio_of(ours, rates) if name != "ours" else ""
        peak = f"{max(one.peak_mb for one in several):.0f} MB"
        asked = [one.details["requests"] / len(one.tenants) for one in several]
        _row(
            name, middle(rates, digits=1), middle(asked, digits=1), middle(cpu, " ms"), peak, ratio, goals.get(name, "")
        )


def _crew(options: argparse.Namespace) -> str:
    return (
        f"{options.workers} worker process of 4 threads, {settings.REGION_REQUESTS_PER_SECOND} requests a second each"
    )


def _show_burst(place: Place, laid: Laid) -> None:
    product, count = place.product, len(laid.tenants)
    log = int(laid.details["place"])
    product.rest()
    after = place.audit.since(log, OURS)
    _head(f"A burst of {count} tenants", _crew(place.options))
    _row("figure", "measured", "goal")
    _rule(3)
    _row("tenants/s, from the first wish to the last object", f"{laid.per_second:.1f}", "≥ 10")
    _row("all wishes accepted after", f"{laid.details['accepted']:.1f} s of {laid.seconds:.1f} s", "")
    _row("requests for each tenant until all were applied", f"{laid.details['requests'] / count:.1f}", "")
    _row("requests for each tenant until at rest", f"{len(after) / count:.1f}", "")
    for name, value in laid.details.items():
        if name.startswith("CPU of "):
            _row(f"{name}, for each tenant", f"{value / count * 1000:.0f} ms", "")
        elif name.startswith("peak of "):
            _row(f"peak RSS of {name.removeprefix('peak of ')}", f"{value:.0f} MB", "≤ 250 MiB")
    print(f"\nUntil at rest: {_told(Counter(f'{one.verb} {one.kind}' for one in after))}.", flush=True)


# --- A fleet ---


def fleet(place: Place) -> None:
    """Tenants at rest, in growing numbers; then what is edited, a restart, and deletions."""
    product, options = place.product, place.options
    sizes = [*(step for step in sorted(options.steps) if step < options.tenants), options.tenants]
    found, more = [], []
    for size in sizes:
        while (missing := size - len(product.tenants)) > 0:
            product.lay(min(missing, GROWTH))
            product.rest()
        found.append(_idle(place))
        # Told at once: a large fleet takes longer than some runs last.
        print(f"At {size}: {_told(Counter(f'{one.verb} {one.kind}' for one in found[-1].asked))}.", flush=True)
        more.append([_calm(product, lambda: product.lay(1), hold=False).seconds for _ in range(NEWCOMERS)])
    _show_idle(sizes, found, more, options)
    if options.regions > 1:
        return
    _show_drift(place)
    _show_cold_start(place)
    _show_deletion(place)


@dataclass
class Idle:
    """A fleet at rest, watched for a while."""

    seconds: float
    asked: Sequence[Asked]
    statements: int
    cpu: Mapping[str, float]
    memory: Mapping[str, float]


def _idle(place: Place) -> Idle:
    product, seconds = place.product, place.options.minutes * 60
    # What was changed last is written into the region's register once more until it is so old.
    time.sleep(LONGEST_CHANGE.total_seconds() + REGISTER_EVERY_SECONDS + TICK_SECONDS)
    log, before = place.audit.place(), product.costs()
    with _statements() as counted:
        time.sleep(seconds)
    spent = product.costs() - before
    return Idle(seconds, place.audit.since(log, OURS), counted[0], spent.by_name, product.memory())


_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (?!BEGIN|COMMIT)")


@contextmanager
def _statements() -> Iterator[list[int]]:
    """Have PostgreSQL log every statement; how many there were, without BEGIN and COMMIT, once it is over."""
    path = Path(os.environ["BENCH_LOGS"]) / "postgres.log"
    counted: list[int] = []
    with psycopg.connect(
        f"host={os.environ['BENCH_POSTGRES']} user={SUPERUSER} dbname=postgres", autocommit=True
    ) as session:
        session.execute("ALTER SYSTEM SET log_statement = 'all'")
        session.execute("SELECT pg_reload_conf()")
        start = path.stat().st_size
        yield counted
        text = path.read_bytes()[start:].decode(errors="replace")
        counted.append(len(_STATEMENT.findall(text)))
        session.execute("ALTER SYSTEM RESET log_statement")
        session.execute("SELECT pg_reload_conf()")


def _show_idle(
    sizes: Sequence[int], found: Sequence[Idle], more: Sequence[Sequence[float]], options: argparse.Namespace
) -> None:
    def exponent(values: Sequence[float]) -> str:
        return f"{_exponent(sizes, values):.2f}" if len(sizes) > 1 and min(values) > 0 else ""

    about = f"{options.minutes:g} minutes at each number of tenants; b of cost = a·N^b by least squares"
    _head("At rest", about, *([f"{options.regions} regions"] if options.regions > 1 else []))
    _row("figure", *(f"{size} tenants" for size in sizes), "b", "goal")
    _rule(len(sizes) + 3)
    rates = [len(one.asked) / one.seconds for one in found]
    _row("API requests/s", *(f"{rate:.2f}" for rate in rates), exponent(rates), "≤ 2")
    writes = [sum(1 for asked in one.asked if asked.is_write) for one in found]
    _row("writes", *writes, "", "0")
    of_tenants = [sum(1 for asked in one.asked if asked.is_write and asked.place.startswith("fp-")) for one in found]
    _row("of them in tenants' namespaces", *of_tenants, "", "0")
    statements = [one.statements / one.seconds for one in found]
    _row("SQL statements/s", *(f"{rate:.1f}" for rate in statements), exponent(statements), "")
    for name in found[0].cpu:
        cpu = [one.cpu[name] / one.seconds * 100 for one in found]
        _row(f"CPU of {name}", *(f"{share:.2f} %" for share in cpu), exponent(cpu), "")
    for name in found[0].memory:
        memory = [one.memory[name] for one in found]
        _row(f"PSS of {name}", *(f"{size:.0f} MB" for size in memory), exponent(memory), "")
    waits = [statistics.median(several) for several in more]
    about = f"one tenant more, accepted → last object (n={NEWCOMERS})"
    _row(about, *(middle(several, " s", 2) for several in more), exponent(waits), "b ≤ 0.15")


def _exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """b of value = a * size ** b, by least squares of the logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values]).slope


def _show_drift(place: Place) -> None:
    """Delete an object of somebody's by hand, or edit it; until it is there again as it was."""
    product, chance = place.product, random.Random(1)
    took: dict[str, list[float]] = {"deleted": [], "edited": []}
    for number in range(DRIFTS):
        _, cluster_id = chance.choice(product.tenants)
        name, kind, part, edit = DRIFTING[number % 2]
        namespace = namespace_of(cluster_id)
        held = product.api.get(kind, namespace, name)
        assert held is not None

        def is_as_it_was() -> bool:
            there = product.api.get(kind, namespace, name)  # noqa: B023
            return there is not None and part(there) == part(held)  # noqa: B023

        began = time.time()
        if number // 2 % 2:
            product.api.merge(kind, namespace, name, edit)
        else:
            product.api.delete(kind, namespace, name, uid=str(meta(held)["uid"]))
        until(is_as_it_was, f"{kind.name} {name}", every=0.02)
        took["edited" if number // 2 % 2 else "deleted"].append(time.time() - began)
    _head(f"Drift at {len(product.tenants)} tenants", f"{DRIFTS} objects by hand, one after the other")
    for deed, several in took.items():
        print(f"- {deed}, until it is as it was: {tail(several, 's', 2)} (goal: p50 ≤ 2, p99 ≤ 10)", flush=True)


def _show_cold_start(place: Place) -> None:
    """Restart everything of ours; until a new tenant is served, and until all is compared."""
    product = place.product
    product.rest()
    product.stop()
    log, began = place.audit.place(), time.time()
    product.start()
    fresh = new_person()
    cluster_id = create(fresh)
    served = place.audit.applied(log, OURS, {namespace_of(cluster_id)})
    product.tenants.append((fresh, cluster_id))
    product.rest()
    asked = place.audit.since(log, OURS)
    looks = [one for one in asked if one.place.startswith("fp-") and one.place != namespace_of(cluster_id)]
    last = max((one.ended for one in looks), default=began) - began
    others = Counter(f"{one.verb} {one.kind}" for one in asked if not one.place.startswith("fp-"))
    _head(f"A cold start at {len(product.tenants)} tenants")
    _row("figure", "measured", "goal")
    _rule(3)
    _row("a new tenant's last object", f"{max(served.values()) - began:.1f} s after the start", "≤ 5 s")
    _row("all tenants looked at", f"{last:.0f} s after the start, {len(looks)} requests", "≤ 90 s")
    _row("other requests", f"{sum(others.values())} ({_told(others)})", "< 50")


class Ends:
    """When namespaces were gone, by a watch: no side has to look for itself, which it may do slowly.

    `kubectl wait` takes the objects one after the other, five requests a second: it was the last of a hundred to know.
    """

    def __init__(self, api: Api) -> None:
        self._gone: dict[str, float] = {}
        version = api.find(NAMESPACE, is_metadata_only=True).resource_version
        threading.Thread(target=self._follow, args=[api, version], daemon=True).start()

    def _follow(self, api: Api, version: str) -> None:
        with suppress(Temporary):
            for event, one in api.watch(NAMESPACE, "", version):
                if event == "DELETED":
                    self._gone[name_in(one)] = time.time()

    def last_of(self, names: Collection[str]) -> float:
        """Wait for the last of them; when it was gone, in seconds since 1970."""
        until(lambda: self._gone.keys() >= set(names), "The end of all namespaces")
        return max(self._gone[name] for name in names)


def _show_deletion(place: Place) -> None:
    """Many tenants at once, beside `kubectl delete namespace` of as many, and a client that does nothing else."""
    product, options = place.product, place.options
    count = min(DELETED, options.tenants)
    product.rest()
    bare = BareSide(place.folder, place.template)
    with product.held():
        by_kubectl, by_client = (bare.lay(count).tenants for _ in range(2))
    product.rest()
    product.postpone()
    doomed, product.tenants = product.tenants[:count], product.tenants[count:]
    ours = {namespace_of(cluster_id) for _, cluster_id in doomed}
    ends, log, began = Ends(product.api), place.audit.place(), time.time()
    for person, cluster_id in doomed:
        delete(person, cluster_id)
    accepted = time.time() - began
    gone = ends.last_of(ours) - began
    product.rest()
    closed = time.time() - began
    asked = place.audit.since(log, OURS)
    last = max(one.ended for one in asked if (one.verb, one.kind) == ("delete", "namespaces")) - began
    counted = Counter(f"{one.verb} {one.kind}" for one in asked)
    left = _leftovers(product, ours)
    with product.held():
        ends, began = Ends(product.api), time.time()
        subprocess.run(["kubectl", "delete", "namespace", *by_kubectl], check=True, stdout=subprocess.DEVNULL)
        kubectl = ends.last_of(by_kubectl) - began
        held = {name_in(one): one for one in product.api.find(NAMESPACE, is_metadata_only=True).items}
        ends, began = Ends(product.api), time.time()
        for name in by_client:
            product.api.delete(NAMESPACE, "", name, uid=str(meta(held[name])["uid"]))
        asked_by_client = time.time() - began
        client = ends.last_of(by_client) - began
    _head(f"The end of {count} tenants at once, until the last namespace is gone")
    _row("figure", "measured", "goal")
    _rule(3)
    _row("ours, from the first wish", f"{gone:.1f} s (accepted after {accepted:.1f}, asked for after {last:.1f})", "")
    _row("… requests for each", f"{len(asked) / count:.1f} ({_told(counted)})", "")
    _row("`kubectl delete namespace` of as many", f"{kubectl:.1f} s", "")
    _row("ours : kubectl", f"{gone / kubectl:.2f}x", "≤ 1.1x")
    _row("a bare client, as many", f"{client:.1f} s (asked for after {asked_by_client:.1f})", "")
    _row("ours : bare client", f"{gone / client:.2f}x", "")
    _row("all rows closed", f"{closed:.1f} s", "")
    _row("left: namespaces, claims, volumes", left, "0")


def _namespaces(product: Product) -> set[str]:
    return {str(meta(one)["name"]) for one in product.api.find(NAMESPACE, is_metadata_only=True).items}


def _leftovers(product: Product, ours: set[str]) -> str:
    claims = [one for one in product.api.find(CLAIM, is_metadata_only=True).items if meta(one)["namespace"] in ours]
    volumes = [one for one in product.api.find(VOLUME).items if one["spec"]["claimRef"]["namespace"] in ours]
    return f"{len(ours & _namespaces(product))}, {len(claims)}, {len(volumes)}"


# --- Fairness ---


def fair(place: Place) -> None:
    """One organization asks for very many; how long others wait for their first object meanwhile."""
    product, options = place.product, place.options
    greedy, took = new_person(), []
    product.lay(1)
    product.rest()
    for _ in range(options.tenants):
        create(greedy)
    for _ in range(PROBES):
        log, other = place.audit.place(), new_person()
        began = time.time()
        namespace = namespace_of(create(other))
        until(lambda: any(one.place == namespace for one in place.audit.since(log, OURS)), "A turn", every=0.01)  # noqa: B023
        first = min(one.begun for one in place.audit.since(log, OURS) if one.place == namespace)
        took.append(first - began)
    waiting = options.tenants - sum(1 for one in place.audit.since(0, OURS) if one.has_laid_down)
    _head(f"While {options.tenants} tenants of one organization wait", f"{waiting} were left at the end")
    print(f"Another one's wish → the first request for it: {tail(took, 's', 2)} (goal: p99 ≤ 2).", flush=True)


FIGURES: Mapping[str, Callable[[Place], None]] = {
    "one": one,
    "healthy": healthy,
    "burst": burst,
    "fleet": fleet,
    "fair": fair,
}

if __name__ == "__main__":
    main()
