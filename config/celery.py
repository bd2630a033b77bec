"""The Celery application: `celery -A config.celery worker`."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from celery import Celery, bootsteps
from celery.signals import task_postrun, task_prerun, worker_init
from django.conf import settings
from django.db import close_old_connections

from common import pulse

logger = logging.getLogger(__name__)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("flowplane")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tenants", "provisioning"])

# Left to itself, Celery closes the thread's database connection around every message: 10 ms of CPU each, and the
# prepared statements are gone. Django's own rules (age, health) are asked at every message instead.
app.conf.CELERY_DB_REUSE_MAX = sys.maxsize


@task_prerun.connect
def drop_unusable_connections(**_: Any) -> None:
    """Close a connection that is too old, or broke while nobody used it."""
    close_old_connections()


vitals = pulse.Vitals()


class ConsumerLoop(bootsteps.StartStopStep):
    """Tells that the consumer's loop turns, from when it is connected until it loses the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        """As Celery makes its steps."""
        self._timer: Any = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """The broker answers: from now on turns are expected."""
        vitals.turn()
        self._timer = parent.timer.call_repeatedly(pulse.BEAT_SECONDS, vitals.turn)

    def stop(self, parent: Any) -> None:
        """The broker is gone, or we are told to end: no more turns are expected."""
        if self._timer is not None:
            self._timer.cancel()
        vitals.disconnect()

    shutdown = stop


app.steps["consumer"].add(ConsumerLoop)


@task_prerun.connect
def note_begin(task_id: str, **_: Any) -> None:
    """Remember since when a task has been running."""
    vitals.begin(task_id)


@task_postrun.connect
def note_end(task_id: str, **_: Any) -> None:
    """It runs no more."""
    vitals.end(task_id)


@worker_init.connect
def keep_pulse(**_: Any) -> None:
    """A worker has begun, with or without a broker."""
    if settings.PULSE_FILE is not None:
        pulse.keep_beating(settings.PULSE_FILE, vitals, lambda fault: logger.error("this worker is stuck: %s", fault))
