"""How the installation answers "are you alive?", "are you getting anywhere?" and "how much of everything?".

`/healthz` is about this process alone. `/readyz` is about progress: a control plane whose processes all run but that
does no work is not ready. `/metrics` counts rows at the moment it is asked.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from threading import Event

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models import (
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    Max,
    Min,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
)
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import NotPermitted
from provisioning import selectors, wakeups
from provisioning.models import Backup, Cluster, Leftover, Operation, OperationStep, Region
from provisioning.placement import minute
from provisioning.services import installation
from provisioning.spec import Lifecycle
from provisioning.states import OPEN_STATES, BackupState, ConditionType, Hold, LeftoverState, Truth
from tenants.models import AuditEvent, OutgoingMail
from tenants.scoping import as_system

# The clock takes a turn itself when it is 15 s overdue; eight times that means that nobody does.
MAX_OVERDUE_TURN_SECONDS = 120.0

# A mail is tried again after a minute at first; five minutes without any being sent means that none goes out.
MAX_UNSENT_MAIL_SECONDS = 300.0

# Just before a scheduled backup is complete, the one before it is a period old; after two periods, one was missed.
MAX_BACKUP_PERIODS = 2

# Set for good once this process has seen every migration applied: they stay so, and the plan costs many statements.
_all_applied = Event()


@dataclass(frozen=True, slots=True)
class Check:
    """One answer of the readiness page."""

    is_ok: bool
    message: str

    def to_dict(self) -> dict[str, object]:
        """As the page shows it."""
        return {"ok": self.is_ok, "message": self.message}


@require_safe
@never_cache
@transaction.non_atomic_requests
def healthz(request: HttpRequest) -> HttpResponse:
    """This process answers. Touches nothing else."""
    return JsonResponse({"ok": True})


@require_safe
@never_cache
@transaction.non_atomic_requests
def readyz(request: HttpRequest) -> HttpResponse:
    """Whether work gets done, check by check; 503 when it does not. Six statements."""
    checks = run_checks()
    is_ok = all(check.is_ok for check in checks.values())
    body = {"ok": is_ok, "checks": {name: check.to_dict() for name, check in checks.items()}}
    return JsonResponse(body, status=200 if is_ok else 503)


def run_checks() -> dict[str, Check]:
    """All checks by name; the later ones are left out when the database does not answer."""
    try:
        with transaction.atomic():
            as_system()
            migrations = _check_migrations()
            if not migrations.is_ok:
                return {"database": Check(True, "The database answers."), "migrations": migrations}
            return {
                "database": Check(True, "The database answers."),
                "migrations": migrations,
                "turns": _check_turns(),
                "mail": _check_mail(),
                "installation": _check_installation(),
                "regions": _check_regions(),
            }
    except DatabaseError:
        return {"database": Check(False, "The database does not answer. Look at PostgreSQL's own log.")}


def _check_migrations() -> Check:
    if pending := _pending_migrations():
        return Check(False, f"{pending} database migrations are missing. Run manage.py migrate as the owner role.")
    return Check(True, "All migrations are applied.")


def _pending_migrations() -> int:
    """How many migrations this code brings that the database lacks; applied ones stay so and are asked for once."""
    if _all_applied.is_set():
        return 0
    executor = MigrationExecutor(connection)
    pending = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if not pending:
        _all_applied.set()
    return pending


def _check_turns() -> Check:
    _, seconds = _overdue(Cluster.objects.filter(due_at__lte=Now()), "due_at")
    if seconds > MAX_OVERDUE_TURN_SECONDS:
        return Check(
            False,
            f"An engine cluster has waited {seconds:.0f} s for its turn, {MAX_OVERDUE_TURN_SECONDS:.0f} s at most. "
            "Look whether the worker and the clock run.",
        )
    return Check(True, f"No engine cluster waits longer than {MAX_OVERDUE_TURN_SECONDS:.0f} s for its turn.")


def _check_mail() -> Check:
    _, seconds = _overdue(OutgoingMail.objects.filter(sent_at=None, due_at__isnull=False), "created_at")
    if seconds > MAX_UNSENT_MAIL_SECONDS:
        return Check(
            False,
            f"A mail has waited {seconds:.0f} s to be sent ({MAX_UNSENT_MAIL_SECONDS:.0f} s is the most). "
            "Look at the mail server and the worker's log.",
        )
    return Check(True, f"No mail waits longer than {MAX_UNSENT_MAIL_SECONDS:.0f} s to be sent.")


def _check_installation() -> Check:
    """Never a reason to be down: what is held back waits for an operator, and everything else goes on."""
    if installation.is_set_back():
        return Check(
            True,
            "This database is an older copy than a region has seen: clusters that differ, and all removals, wait for "
            "an operator. See “Installations” on the operator site.",
        )
    return Check(True, "No region has seen a later database than this.")


def _check_regions() -> Check:
    """Never a reason to be down either: the other regions are served, and engines of a silent one go on."""
    unusual, ages = [], []
    for region in selectors.regions():
        age = wakeups.watch_age_seconds(region.slug)
        if why := _what_is_unusual(region, age):
            unusual.append(f"{region.slug}: {why}")
        elif age is not None:
            ages.append(f"{region.slug} {age:.0f} s ago")
    said = f"Not as usual: {'; '.join(unusual)}." if unusual else "Every region answers."
    return Check(True, f"{said} Last heard: {', '.join(ages)}." if ages else said)


def _what_is_unusual(region: Region, watch_age_seconds: float | None) -> str:
    if region.maintenance_since is not None:
        return f"in maintenance since {minute(region.maintenance_since)}"
    if region.silent_since is not None:
        return f"no answer since {minute(region.silent_since)}"
    if watch_age_seconds is None:
        return "nobody hears of its changes, which are found by looking, minutes later"
    return ""


def _overdue(rows: QuerySet[Model], time_field: str) -> tuple[int, float]:
    """How many rows wait, and for how many seconds the oldest has. One statement."""
    age = ExpressionWrapper(Now() - Min(time_field), output_field=DurationField())
    found = rows.aggregate(count=Count("pk"), age=age)
    return found["count"], max(0.0, found["age"].total_seconds()) if found["age"] else 0.0


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format: this process's histograms, then the counts of rows.

    Thirteen statements, and a question to Redis for each region.
    """
    _require_scraper(request)
    as_system()
    rows = CollectorRegistry(auto_describe=False)
    rows.register(RowCounts())
    return HttpResponse(generate_latest(REGISTRY) + generate_latest(rows), content_type=CONTENT_TYPE_LATEST)


def _require_scraper(request: HttpRequest) -> None:
    """Let the holder of the token pass; without a token set, only this machine."""
    if settings.METRICS_TOKEN:
        given = request.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode()):
            raise NotPermitted("Metrics are read with the bearer token in FLOWPLANE_METRICS_TOKEN.")
    elif not ip_address(request.META.get("REMOTE_ADDR") or "0.0.0.0").is_loopback:  # noqa: S104 - no address is no loopback
        raise NotPermitted(
            "Without FLOWPLANE_METRICS_TOKEN metrics are only answered on this machine. Set it and send it as bearer."
        )


class RowCounts(Collector):
    """Counts of rows, taken when they are collected: never how often something was logged, always what is so."""

    def collect(self) -> Iterator[Metric]:
        """Each metric family; one statement each."""
        for family in _FAMILIES:
            yield from family()


def _holds(condition: ConditionType) -> Q:
    return Q(conditions__contains=[{"type": condition.value, "status": Truth.TRUE.value}])


def _clusters() -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "flowplane_clusters",
        "Engine clusters by wish, by whether their engine reports itself healthy, and by whether they are stalled.",
        labels=["lifecycle", "available", "stalled"],
    )
    rows = (
        Cluster.objects.live()
        .annotate(is_available=_holds(ConditionType.AVAILABLE), is_stalled=_holds(ConditionType.STALLED))
        .values("lifecycle", "is_available", "is_stalled")
        .annotate(count=Count("pk"))
        .order_by("lifecycle", "is_available", "is_stalled")
    )
    for row in rows:
        labels = [row["lifecycle"], str(row["is_available"]).lower(), str(row["is_stalled"]).lower()]
        family.add_metric(labels, row["count"])
    yield family


def _operations() -> Iterator[Metric]:
    family = GaugeMetricFamily("flowplane_operations", "Operations by kind and state.", labels=["kind", "state"])
    rows = Operation.objects.values("kind", "state").annotate(count=Count("pk")).order_by("kind", "state")
    for row in rows:
        family.add_metric([row["kind"], row["state"]], row["count"])
    yield family


def _steps() -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "flowplane_operation_step_seconds",
        "For how long the oldest step that is under way has been, by step: remove, while a namespace does not go.",
        labels=["step"],
    )
    age = ExpressionWrapper(Now() - Min("started_at"), output_field=DurationField())
    under_way = OperationStep.objects.filter(
        operation__state__in=OPEN_STATES, started_at__isnull=False, finished_at__isnull=True
    )
    for row in under_way.values("kind").annotate(age=age).order_by("kind"):
        family.add_metric([row["kind"]], row["age"].total_seconds())
    yield family


def _turns() -> Iterator[Metric]:
    count, seconds = _overdue(Cluster.objects.filter(due_at__lte=Now()), "due_at")
    yield GaugeMetricFamily("flowplane_turns_overdue", "Engine clusters whose time for a turn has come.", value=count)
    yield GaugeMetricFamily("flowplane_turns_overdue_seconds", "How long the oldest of them has waited.", value=seconds)


def _mail() -> Iterator[Metric]:
    unsent = OutgoingMail.objects.filter(sent_at=None, due_at__isnull=False)
    count, seconds = _overdue(unsent, "created_at")
    yield GaugeMetricFamily("flowplane_mail_unsent", "Mails waiting to be sent.", value=count)
    yield GaugeMetricFamily("flowplane_mail_unsent_seconds", "How long the oldest of them has waited.", value=seconds)


def _backups() -> Iterator[Metric]:
    states = (BackupState.WANTED, BackupState.COMPLETED, BackupState.FAILED, BackupState.REMOVING)
    age = ExpressionWrapper(Now() - Max("finished_at"), output_field=DurationField())
    rows = (
        Backup.objects.filter(state__in=states).values("state").annotate(count=Count("pk"), age=age).order_by("state")
    )
    family = GaugeMetricFamily(
        "flowplane_backups", "Backups that are there or on their way, by state.", labels=["state"]
    )
    newest = GaugeMetricFamily(
        "flowplane_backup_newest_seconds",
        "How long ago the newest backup of any cluster was completed; no sample when there is none. It says nothing of "
        "all others: see flowplane_backups_overdue.",
    )
    for row in rows:
        family.add_metric([row["state"]], row["count"])
        if row["state"] == BackupState.COMPLETED and row["age"] is not None:
            newest.add_metric([], row["age"].total_seconds())
    yield family
    yield newest


def _overdue_backups() -> Iterator[Metric]:
    completed = Backup.objects.filter(cluster=OuterRef("pk"), state=BackupState.COMPLETED).order_by("-number")
    newest_at = Coalesce(Subquery(completed.values("finished_at")[:1]), F("created_at"))
    allowed = ExpressionWrapper(
        F("backup_every_hours") * timedelta(hours=MAX_BACKUP_PERIODS), output_field=DurationField()
    )
    scheduled = Cluster.objects.live().filter(lifecycle=Lifecycle.RUNNING, backup_every_hours__gt=0)
    count, seconds = _overdue(
        scheduled.annotate(newest_at=newest_at).filter(newest_at__lt=Now() - allowed), "newest_at"
    )
    yield GaugeMetricFamily(
        "flowplane_backups_overdue",
        "Running engine clusters with a backup schedule and no complete backup within two periods. One that has none "
        "counts from its own beginning, so that a new schedule shows until its first backup is complete.",
        value=count,
    )
    yield GaugeMetricFamily(
        "flowplane_backups_overdue_seconds",
        "How long the worst of them is without: since its newest backup, or since its own beginning.",
        value=seconds,
    )


def _held() -> Iterator[Metric]:
    family = GaugeMetricFamily("flowplane_clusters_held", "Engine clusters on hold, by why.", labels=["hold"])
    rows = Cluster.objects.live().exclude(hold=Hold.NONE.value).values("hold").annotate(count=Count("pk"))
    found = {row["hold"]: row["count"] for row in rows}
    for hold in Hold:
        if hold is not Hold.NONE:
            family.add_metric([hold.value], found.get(hold.value, 0))
    yield family


def _leftovers() -> Iterator[Metric]:
    open_ones = Leftover.objects.filter(ended_at=None)
    counts = open_ones.aggregate(
        found=Count("pk", filter=Q(state=LeftoverState.FOUND)),
        missing=Count("pk", filter=Q(state=LeftoverState.MISSING)),
        removing=Count("pk", filter=Q(state=LeftoverState.REMOVING)),
    )
    yield GaugeMetricFamily(
        "flowplane_leftovers_waiting",
        "Things found in a region that no wish stands for, waiting for an operator.",
        value=counts["found"],
    )
    yield GaugeMetricFamily(
        "flowplane_clusters_missing",
        "Clusters that are wished in a region and have been there, and of which an inventory found nothing.",
        value=counts["missing"],
    )
    yield GaugeMetricFamily(
        "flowplane_leftovers_removing", "Things of that kind being removed.", value=counts["removing"]
    )


def _installation() -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "flowplane_installation_set_back",
        "1 when a region has seen a later database than this, until an operator has acknowledged it.",
        value=int(installation.is_set_back()),
    )


def _regions() -> Iterator[Metric]:
    placed = GaugeMetricFamily(
        "flowplane_region_clusters", "Engine clusters in a region, whatever their state.", labels=["region", "state"]
    )
    limit = GaugeMetricFamily(
        "flowplane_region_max_clusters", "How many may be there; no sample where nobody counts.", labels=["region"]
    )
    silent = GaugeMetricFamily(
        "flowplane_region_silent_seconds",
        "For how long a region has not answered the clock; 0 when it does.",
        labels=["region"],
    )
    watched = GaugeMetricFamily(
        "flowplane_region_watched",
        "1 while a watch has heard of a region within the last minute; 0 also while Redis does not answer.",
        labels=["region"],
    )
    heard = GaugeMetricFamily(
        "flowplane_region_watch_age_seconds",
        "How long ago the watch heard of all of a region; no sample where none does.",
        labels=["region"],
    )
    for region in Region.objects.annotate(now=Now()).order_by("slug"):
        age = wakeups.watch_age_seconds(region.slug)
        watched.add_metric([region.slug], int(age is not None))
        if age is not None:
            heard.add_metric([region.slug], age)
        placed.add_metric([region.slug, region.state.value], region.placed)
        if region.max_clusters is not None:
            limit.add_metric([region.slug], region.max_clusters)
        since = region.silent_since
        silent.add_metric([region.slug], (region.now - since).total_seconds() if since else 0.0)
    yield placed
    yield limit
    yield silent
    yield watched
    yield heard


def _own_backup() -> Iterator[Metric]:
    # A restored database knows nothing of the backup that it came from, other than that it was restored from it.
    events = AuditEvent.objects.filter(
        organization=None, action__in=("installation.backed_up", "installation.restored")
    ).order_by("-at", "-id")
    seconds = math.inf
    if found := events.annotate(now=Now()).values_list("changes", "now").first():
        changes, now = found
        seconds = (now - datetime.fromisoformat(changes["created_at"][1])).total_seconds()
    yield GaugeMetricFamily(
        "flowplane_installation_backup_seconds",
        "How long ago the newest backup of Flowplane itself was taken; +Inf when there was none, so that a rule on its "
        "age sounds then, too.",
        value=seconds,
    )


# What is counted; one statement each.
_FAMILIES: tuple[Callable[[], Iterator[Metric]], ...] = (
    _clusters,
    _operations,
    _steps,
    _turns,
    _mail,
    _backups,
    _overdue_backups,
    _held,
    _leftovers,
    _installation,
    _regions,
    _own_backup,
)
