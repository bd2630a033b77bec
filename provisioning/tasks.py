"""Celery's door: messages say which cluster to look at, never what to do with it."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from provisioning import reconciler, wakeups


@shared_task(name=wakeups.RECONCILE, acks_late=False)
def reconcile(cluster_id: str) -> None:
    """Take turns for one cluster, if it is due and nobody else does."""
    reconciler.reconcile(UUID(cluster_id))
