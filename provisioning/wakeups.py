"""Ask for a turn soon. The row says that a cluster is due; the message only rings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from provisioning import statements

logger = logging.getLogger(__name__)

RECONCILE = "provisioning.reconcile"

# A message that nobody took for so long is worthless: the sweep has rung again since.
RING_EXPIRES_SECONDS = 30

# While this key stands in the broker, a message is on its way that will have a worker look from then on, so that
# another one is not worth sending: a thousand wishes at once make a handful of messages, and no mail waits behind them.
# It falls when the look begins, or by itself within a tick of the clock, should the message have been lost.
RINGING = "flowplane.ringing"
RINGING_MILLISECONDS = 1000

# While this key stands in the broker, a process hears of the region's changes; its value says how many seconds old the
# last news were when it was set. It falls by itself once none does.
WATCHED = "flowplane.watched.{}"
WATCHED_MILLISECONDS = 60_000


def send(cluster_id: UUID, *, delay_seconds: float = 0.0) -> None:
    """Send the message now, to be taken up after the delay. Whoever takes it serves the fairest row that is due.

    The id is there for workers of older code, which look after that cluster only.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    with current_app.producer_or_acquire() as producer:
        _publish(producer, cluster_id, delay_seconds)


def _publish(producer: Any, cluster_id: UUID, delay_seconds: float = 0.0) -> None:
    current_app.send_task(
        RECONCILE,
        args=[str(cluster_id)],
        producer=producer,
        retry=False,
        countdown=delay_seconds or None,
        expires=RING_EXPIRES_SECONDS,
    )


def send_once(cluster_id: UUID) -> None:
    """Send the message unless one is on its way.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    with current_app.producer_or_acquire() as producer:
        if _asked(producer, lambda redis: redis.set(RINGING, 1, nx=True, px=RINGING_MILLISECONDS)):
            _publish(producer, cluster_id)


def hear() -> None:
    """Begin to look: whoever rings from now on has to send a message. Without a broker the key falls by itself."""
    with suppress(OperationalError), current_app.producer_or_acquire() as producer:
        _asked(producer, lambda redis: redis.delete(RINGING))


def note_watch(region_slug: str, *, age_seconds: float) -> None:
    """Tell that a region is heard. Without a broker nobody knows, and clusters are looked at more often."""
    with suppress(OperationalError), current_app.producer_or_acquire() as producer:
        _asked(producer, lambda redis: redis.set(WATCHED.format(region_slug), age_seconds, px=WATCHED_MILLISECONDS))


def forget_watch(region_slug: str) -> None:
    """Tell that a region is not heard any more. Without a broker it is forgotten by itself."""
    with suppress(OperationalError), current_app.producer_or_acquire() as producer:
        _asked(producer, lambda redis: redis.delete(WATCHED.format(region_slug)))


def is_watched(region_slug: str) -> bool:
    """Whether a process hears of a region's changes; False when the broker does not answer."""
    with suppress(OperationalError), current_app.producer_or_acquire() as producer:
        return bool(_asked(producer, lambda redis: redis.exists(WATCHED.format(region_slug))))
    return False


def watch_age_seconds(region_slug: str) -> float | None:
    """How many seconds ago all of a region was heard; None when no process hears it, or the broker does not answer."""

    def ask(redis: Any) -> tuple[bytes | None, int]:
        key = WATCHED.format(region_slug)
        value, left = redis.pipeline(transaction=True).get(key).pttl(key).execute()
        return value, left

    with suppress(OperationalError), current_app.producer_or_acquire() as producer:
        value, left_milliseconds = _asked(producer, ask)
        if value is not None:
            # By the broker's own clock: nobody else's says when the key was set.
            age: float = float(value) + (WATCHED_MILLISECONDS - left_milliseconds) / 1000
            return age
    return None


def _asked(producer: Any, question: Callable[[Any], Any]) -> Any:
    """What the broker's own server answers to something that messages cannot say."""
    broker = producer.connection
    try:
        return question(producer.channel.client)
    except (*broker.connection_errors, *broker.channel_errors) as error:
        raise OperationalError(str(error)) from error


def remind(cluster_id: UUID, *, delay_seconds: float) -> None:
    """Send the message for a cluster that will be due after the delay. Without a broker the sweep finds it later."""
    try:
        send(cluster_id, delay_seconds=delay_seconds)
    except OperationalError:
        _note_silence(cluster_id)


def _note_silence(cluster_id: UUID) -> None:
    logger.warning("the broker does not answer; the sweep will find it", extra={"cluster_id": cluster_id})


def ring(cluster_id: UUID) -> None:
    """Send the message after commit. Losing it is harmless: the sweep finds due rows.

    A broker that is down must not fail an accepted wish, hence `robust`. The hook is a function of its own because
    Django names a failed hook by its `__qualname__`, which a `partial` does not have.
    """

    def ring_after_commit() -> None:
        try:
            send_once(cluster_id)
        except OperationalError:
            _note_silence(cluster_id)  # Django would write a page about it, for every wish of an outage

    transaction.on_commit(ring_after_commit, robust=True)


def wake(cluster_id: UUID, *, is_by_hand: bool = False) -> None:
    """Make a cluster due and ring. A cluster that is due already keeps its time, so that the sweep sees its true age.

    It is rung for all the same: its own due time may just have passed, and the clock that should ring may be dead.
    A cluster that is left alone, because its turns ended their workers, is only woken by hand. One statement.
    """
    statement = statements.WAKE_BY_HAND if is_by_hand else statements.WAKE
    if statements.change(statement, {"cluster_id": cluster_id}):
        ring(cluster_id)
