"""The REST door to backups: taking, listing, restoring, proving and deleting them."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from provisioning import selectors, services
from provisioning.api import represent
from provisioning.api import serializers as shapes
from provisioning.api.base import (
    ACCEPTED,
    CHANGE,
    DRY_RUN,
    OPERATION,
    PAGE,
    PREVIEW,
    ActorView,
    ClusterActionView,
    WriteView,
    described,
)
from tenants.api.base import page_in, page_response, page_shape, read_body
from tenants.api.idempotency import idempotent
from tenants.api.serializers import EmptyBody

_BACKUP_PAGE = page_shape("Backup", shapes.BackupSchema)


class ClusterBackupsView(WriteView):
    """One cluster's backups."""

    @extend_schema(
        operation_id="list_cluster_backups", summary="List a cluster's backups", parameters=PAGE, responses=_BACKUP_PAGE
    )
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """Newest first."""
        selectors.cluster(self.actor, cluster_id)
        return page_response(selectors.backups_of(self.actor, page_in(request), cluster_id), represent.backup)

    @extend_schema(
        operation_id="back_up_cluster",
        summary="Take a backup now",
        parameters=CHANGE,
        request=None,
        responses=ACCEPTED,
    )
    @idempotent()
    def post(self, request: Request, cluster_id: UUID) -> Response:
        """The engine goes on serving; the operation is done when the backup is complete."""
        read_body(EmptyBody, request)
        return self.change(cluster_id, services.back_up_cluster)


@described(
    "restore_backup",
    "Put a backup in place of a cluster's data",
    "What the cluster works on now is kept until the engine is healthy on the backup's data, and put back if it is not "
    "in time. After that, whatever happened since the backup is gone.",
    shapes.BackupRestore,
)
class RestoreBackupView(ClusterActionView):
    """A backup's data in place of a cluster's own."""

    service = staticmethod(services.restore_backup)
    body = shapes.BackupRestore


class BackupsView(ActorView):
    """The organization's backups."""

    @extend_schema(operation_id="list_backups", summary="List all backups", parameters=PAGE, responses=_BACKUP_PAGE)
    def get(self, request: Request) -> Response:
        """Newest first; those of clusters that are gone, too."""
        return page_response(selectors.backups_of(self.actor, page_in(request)), represent.backup)


class BackupView(WriteView):
    """One backup."""

    @extend_schema(operation_id="get_backup", summary="Read a backup", responses=shapes.BackupSchema)
    def get(self, request: Request, backup_id: UUID) -> Response:
        """What is known of it; what it holds lies in the region's store and never passes through here."""
        return Response(represent.backup(selectors.backup(self.actor, backup_id)))

    @extend_schema(
        operation_id="delete_backup",
        summary="Delete a backup",
        parameters=[DRY_RUN],
        request=None,
        responses={
            202: OpenApiResponse(shapes.BackupSchema, "Accepted; it is being removed from the store."),
            200: PREVIEW,
        },
    )
    @idempotent()
    def delete(self, request: Request, backup_id: UUID) -> Response:
        """It cannot be undone. Refused while a cluster is being started on it."""
        if self.is_dry_run:
            foreseen = services.preview_backup_deletion(actor=self.actor, backup_id=backup_id)
            return Response(represent.preview(foreseen))
        services.delete_backup(actor=self.actor, backup_id=backup_id)
        return Response(represent.backup(selectors.backup(self.actor, backup_id)), status.HTTP_202_ACCEPTED)


class DrillView(WriteView):
    """A backup's proof."""

    @extend_schema(
        operation_id="drill_backup",
        summary="Prove a backup",
        parameters=[DRY_RUN],
        request=None,
        responses={202: OPERATION, 200: PREVIEW},
    )
    @idempotent()
    def post(self, request: Request, backup_id: UUID) -> Response:
        """A throw-away copy is started on it, measured and removed; the operation is the copy's.

        It takes no place of the plan's, and nobody has access to it.
        """
        read_body(EmptyBody, request)
        return self.act(services.drill_backup, backup_id=backup_id)
