"""How clusters, backups, operations and the catalogue look on the wire. Only what is named here ever leaves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from provisioning.selectors import BackupView, ClusterView, Offer, OperationView, StepView, licence_note
from provisioning.services import Preview
from provisioning.states import STEP_TITLES, Stage


def cluster(view: ClusterView) -> dict[str, Any]:
    """A cluster: wish, sight, and what is derived from both."""
    row = view.row
    return {
        "id": row.pk,
        "name": row.name,
        "stage": row.stage,
        "region": row.region_id,
        "plan_type": row.plan_type_id,
        "channel": row.channel_id,
        "release": row.release_id,
        "upgrades": list(view.upgrades),
        "partitions": row.partitions,
        "size": {
            "brokers": row.plan_type.brokers,
            "partitions": row.partitions,
            "replication_factor": row.plan_type.replication_factor,
            "memory_mib": row.plan_type.memory_mib,
            "disk_mib": row.plan_type.disk_mib,
        },
        "lifecycle": row.lifecycle,
        "phase": view.phase,
        "is_protected": row.is_protected,
        "delete_after": row.delete_after,
        "spec_generation": row.spec_generation,
        "observed_generation": row.observed_generation,
        "conditions": [asdict(condition) for condition in view.conditions],
        "endpoint": {"grpc": row.endpoint_grpc, "rest": row.endpoint_rest or None} if row.endpoint_grpc else None,
        "backup_every_hours": row.backup_every_hours,
        "backups_kept": row.backups_kept,
        "drill_every_days": row.drill_every_days,
        "next_backup_at": row.backup_due_at,
        "next_drill_at": row.drill_due_at,
        "last_backup_at": view.backed_up_at,
        "last_verified_backup": {
            "backup": view.proof.backup_id,
            "verified_at": view.proof.verified_at,
            "recovery_seconds": round(view.proof.recovery_seconds, 3),
            "loss_seconds": round(view.proof.loss_seconds, 3),
        }
        if view.proof
        else None,
        "data_source": {"backup": row.data_source_id, "cluster_id": row.data_source.cluster_id}
        if row.data_source
        else None,
        "drill_of": row.drill_of_id,
        "created_at": row.created_at,
        "current_operation": view.current_operation_id,
    }


def backup(view: BackupView) -> dict[str, Any]:
    """What is known of a backup; nothing of what it holds."""
    row = view.row
    return {
        "id": row.pk,
        "cluster_id": row.cluster_id,
        "cluster_name": row.cluster.name,
        "cluster_is_gone": view.is_cluster_gone,
        "region": row.cluster.region_id,
        "number": row.number,
        "reason": row.reason,
        "state": row.state,
        "release": row.release_id,
        "brokers": row.brokers,
        "partitions": row.partitions,
        "replication_factor": row.replication_factor,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "error_message": row.error_message,
        "verified_at": row.verified_at,
        "recovery_seconds": None if row.recovery_seconds is None else round(row.recovery_seconds, 3),
        "loss_seconds": None if row.loss_seconds is None else round(row.loss_seconds, 3),
        "current_drill": view.drill_id,
    }


def operation(view: OperationView) -> dict[str, Any]:
    """An operation with its verdict and steps."""
    return {
        "id": view.id,
        "cluster_id": view.cluster_id,
        "drill_of": view.drill_of,
        "kind": view.kind,
        "changes": view.changes,
        "receipt": view.receipt,
        "state": view.state,
        "verdict": view.verdict,
        "percent": view.percent,
        "waits_for": view.waits_for,
        "spec_generation": view.spec_generation,
        "actor": {"kind": view.actor_kind, "label": view.actor_label},
        "created_at": view.created_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "error": {"code": view.error_code, "message": view.error_message} if view.error_code else None,
        "steps": [_step(step) for step in view.steps],
        "can_cancel": view.can_cancel,
        "can_retry": view.can_retry,
        "can_force": view.can_force,
        "attempts": view.attempts,
    }


def _step(step: StepView) -> dict[str, Any]:
    return asdict(step) | {"seconds": None if step.seconds is None else round(step.seconds, 3)}


def preview(what: Preview) -> dict[str, Any]:
    """What a change would do."""
    return {
        "steps": [{"kind": step, "title": STEP_TITLES[step]} for step in what.steps],
        "changes": {name: list(pair) for name, pair in what.changes.items()},
        "reversible": what.is_reversible,
        "way_back": what.way_back,
        "expected_seconds": round(what.expected_seconds, 1),
        "interrupts_engine": what.interrupts_engine,
    }


def catalogue(offer: Offer) -> dict[str, Any]:
    """Everything that can be chosen when creating a cluster."""
    return {
        "regions": [
            {
                "slug": region.slug,
                "name": region.name,
                "labels": region.labels,
                "maintenance_since": region.maintenance_since,
                "silent_since": region.silent_since,
            }
            for region in offer.regions
        ],
        "plan_types": [
            {
                "slug": size.slug,
                "name": size.name,
                "brokers": size.brokers,
                "partitions": size.partitions,
                "replication_factor": size.replication_factor,
                "memory_mib": size.memory_mib,
                "disk_mib": size.disk_mib,
                "gateway": size.gateway,
            }
            for size in offer.plan_types
        ],
        "channels": [
            {
                "slug": channel.slug,
                "name": channel.name,
                "default_release": channel.default_release_id,
                "releases": [
                    {
                        "version": release.version,
                        "upgrades_from": release.upgrades_from,
                        "licence": release.licence,
                        "licence_allows": licence_note(release.licence),
                        "serves_rest": release.serves_rest,
                    }
                    for release in channel.releases.all()
                    if release.is_offered
                ],
            }
            for channel in offer.channels
        ],
        "stages": list(Stage),
    }
