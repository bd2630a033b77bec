"""The Celery application: `celery -A config.celery worker`."""

from __future__ import annotations

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import task_prerun
from django.db import close_old_connections

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
