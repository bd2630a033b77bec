"""Worker processes that die where a test wants them to: forked, killed for real, on committed rows.

The region lives in a folder, or is a real one, so that what a killed worker began in it stays begun.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol
from unittest.mock import patch
from uuid import UUID

from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from provisioning import executor, planner, reconciler, services
from provisioning.models import Backup, Cluster, Operation
from provisioning.services import TurnOutcome
from provisioning.states import OPEN_STATES
from tests.factories import Person
from tests.provisioning.dying import is_killed_in
from tests.provisioning.shared_region import SharedRegion

# What a turn is for; None when nothing is left to do.
Step = planner.Action | None


def step_of(action: Step) -> Step:
    """What a turn was for, but for which of several brokers that begin at once had not begun yet: that is chance."""
    return replace(action, nodes=()) if isinstance(action, planner.StartEngine) else action


class Point(StrEnum):
    """Where in a turn the worker dies."""

    BEFORE_CALL = "before_call"
    AFTER_CALL = "after_call"
    BEFORE_RECORD = "before_record"
    AFTER_RECORD = "after_record"


class Owner(Protocol):
    """Somebody with committed rows, in whichever region."""

    @property
    def person(self) -> Person: ...

    def create(self, **overrides: Any) -> Operation:
        """Have a new cluster of theirs wished."""

    def backed_up(self, **overrides: Any) -> Backup:
        """The only backup of a new cluster of theirs."""

    def healthy(self, **overrides: Any) -> Cluster:
        """A new cluster of theirs, at rest."""

    def run(self, cluster: Cluster) -> Cluster:
        """Take turns until nothing is left to do."""

    def ask(self, service: Callable[..., Operation], cluster: Cluster, **wish: Any) -> Operation:
        """Have a wish of theirs recorded."""


def from_healthy(service: Callable[..., Operation], size: str = "small", **wish: Any) -> Callable[[Owner], Operation]:
    return lambda owner: owner.ask(service, owner.healthy(plan_type=size), **wish)


def resumption(owner: Owner) -> Operation:
    cluster = owner.healthy()
    owner.ask(services.suspend_cluster, cluster)
    return owner.ask(services.resume_cluster, owner.run(cluster))


def deletion_after_window(owner: Owner) -> Operation:
    operation = owner.ask(services.request_deletion, owner.healthy())
    Cluster.objects.filter(pk=operation.cluster_id).update(delete_after=Now())
    return operation


def shrinking(owner: Owner) -> Operation:
    return owner.ask(services.resize_cluster, owner.healthy(plan_type="resilient-4"), plan_type="resilient")


def restoring(size: str) -> Callable[[Owner], Operation]:
    def wish(owner: Owner) -> Operation:
        backup = owner.backed_up(plan_type=size)
        return owner.ask(services.restore_backup, backup.cluster, backup_id=backup.pk)

    return wish


def copying(owner: Owner) -> Operation:
    return owner.create(name="copy", from_backup=owner.backed_up().pk)


def drilling(owner: Owner) -> Operation:
    return services.drill_backup(actor=owner.person.actor, backup_id=owner.backed_up().pk)


def facts_of(region: SharedRegion, cluster_id: UUID) -> dict[str, Any]:
    """What is there of a cluster in the end, without how often it was tried."""
    cluster = region.read().clusters.get(cluster_id)
    if cluster is None:
        return {}
    kept = {one.name: getattr(cluster, one.name) for one in fields(cluster) if one.name not in _HISTORY}
    brokers = {node: (one.running, one.release, one.former) for node, one in cluster.brokers.items()}
    return {**kept, "brokers": brokers, "endpoint": bool(cluster.endpoint), "restored": len(cluster.restored)}


_HISTORY = ("starts", "last_exit", "backups", "card")


NOTHING = services.TurnOutcome(None, None)


def take_turn(cluster_id: UUID) -> services.TurnOutcome:
    """Take the cluster's next turn here, and return what came of it."""
    outcomes: list[services.TurnOutcome] = []
    record = services.record_turn

    def note(subject: Any, outcome: services.TurnOutcome) -> None:
        outcomes.append(outcome)
        record(subject, outcome)

    let_come(cluster_id)
    with patch.object(services, "record_turn", note):
        reconciler.turn(cluster_id)
    return outcomes[0] if outcomes else NOTHING


def let_come(cluster_id: UUID) -> None:
    """Pass the time that has to pass before the next turn, a dead worker's lease included."""
    past = Now() - timedelta(seconds=1)
    rows = Cluster.objects.filter(pk=cluster_id, deleted_at=None)
    rows.update(due_at=past, lease_expires_at=None, start_after=F("start_after") - timedelta(minutes=10))


def die_in_turn(cluster_id: UUID, point: Point) -> None:
    """Take the cluster's next turn in a process that is killed at this point."""
    assert turn_or_die(cluster_id, point), "the worker came to its end"


@contextmanager
def _deadly(point_of: Callable[[Any], Point | None], tell: Callable[[Any], object]) -> Iterator[None]:
    """Die in the next turn at the point there is for its action; it is told first."""
    execute, record = executor.execute, services.record_turn

    def dying(action: Any, before: Point, after: Point, do: Callable[[], Any]) -> Any:
        point = point_of(action)
        if point not in (before, after):
            return do()
        if point is after:
            do()
        tell(action)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def executing(action: Any, *arguments: Any, **named: Any) -> Any:
        return dying(action, Point.BEFORE_CALL, Point.AFTER_CALL, lambda: execute(action, *arguments, **named))

    def recording(subject: Any, outcome: services.TurnOutcome) -> Any:
        return dying(outcome.action, Point.BEFORE_RECORD, Point.AFTER_RECORD, lambda: record(subject, outcome))

    with patch.object(executor, "execute", executing), patch.object(services, "record_turn", recording):
        yield


def act_as_system() -> None:
    """See every organization, as worker and clock do."""
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE flowplane_system")


def turn_or_die(cluster_id: UUID, point: Point, action: type = object) -> bool:
    """Take the next turn in a process that is killed at this point of it if the turn is for such an action.

    For regions whose own pace decides how many turns there are. Returns whether it was killed.
    """
    return _is_killed(cluster_id, lambda one: point if isinstance(one, action) else None)


def turn_among_deaths(cluster_id: UUID, points: Mapping[Step, Point]) -> list[Step]:
    """Take the next turn in a process that is killed where its step has a point; that step, if it was."""
    reader, writer = os.pipe()
    try:
        _is_killed(
            cluster_id,
            lambda action: points.get(step_of(action)),
            lambda action: os.write(writer, repr(step_of(action)).encode()),
        )
        os.close(writer)
        told = os.read(reader, 1000).decode()
        return [step for step in points if repr(step) == told]
    finally:
        os.close(reader)


def _is_killed(
    cluster_id: UUID, point_of: Callable[[Any], Point | None], tell: Callable[[Any], object] = lambda _: None
) -> bool:
    def take() -> None:
        act_as_system()
        with _deadly(point_of, tell):
            reconciler.turn(cluster_id)

    let_come(cluster_id)
    connection.close()
    try:
        return is_killed_in(take)
    finally:
        act_as_system()


def is_over(outcome: TurnOutcome, cluster: Cluster) -> bool:
    """Whether nothing is left to do."""
    return isinstance(outcome.action, planner.CloseCluster) or (outcome.action is None and not is_busy(cluster))


def is_busy(cluster: Cluster) -> bool:
    """Whether an operation is under way."""
    return Operation.objects.filter(cluster=cluster, state__in=OPEN_STATES).exists()
