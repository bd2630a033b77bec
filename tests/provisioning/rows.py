"""Rows as they are after the loop has done its work, for tests in which no turn is taken."""

from __future__ import annotations

from typing import Any

from django.db.models.functions import Now

from provisioning.conditions import to_json
from provisioning.models import Backup, Cluster, Operation
from provisioning.states import (
    OPEN_STATES,
    BackupReason,
    BackupState,
    Condition,
    ConditionType,
    OperationState,
    StepState,
    Truth,
)

_WELL = (ConditionType.ACCEPTED, ConditionType.APPLIED, ConditionType.AVAILABLE, ConditionType.UP_TO_DATE)


def make_healthy(cluster: Cluster) -> Cluster:
    """Have a cluster be as it is wished, and what was asked for be done."""
    facts = [Condition(kind, Truth.TRUE, "Well", observed_generation=cluster.spec_generation) for kind in _WELL]
    Cluster.objects.filter(pk=cluster.pk).update(
        conditions=to_json(facts), was_healthy=True, observed_generation=cluster.spec_generation
    )
    for operation in Operation.objects.filter(cluster=cluster, state__in=OPEN_STATES):
        operation.steps.update(state=StepState.DONE, started_at=Now(), finished_at=Now())
    Operation.objects.filter(cluster=cluster, state__in=OPEN_STATES).update(
        state=OperationState.SUCCEEDED, finished_at=Now()
    )
    cluster.refresh_from_db()
    return cluster


def make_backup(cluster: Cluster, /, **overrides: Any) -> Backup:
    """A complete backup of a cluster, of its release and layout."""
    fields: dict[str, Any] = {
        "organization_id": cluster.organization_id,
        "number": 1 + Backup.objects.filter(cluster=cluster).count(),
        "reason": BackupReason.ASKED_FOR.value,
        "state": BackupState.COMPLETED.value,
        "release_id": cluster.release_id,
        "brokers": cluster.plan_type.brokers,
        "partitions": cluster.partitions,
        "replication_factor": cluster.plan_type.replication_factor,
        "finished_at": Now(),
        **overrides,
    }
    return Backup.objects.create(cluster=cluster, **fields)
