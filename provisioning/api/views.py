"""The REST door to clusters: translate, call a service or selector, translate back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import InvalidRequest
from provisioning import access, envfile, selectors, services
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
    etag_of,
    operation_url,
)
from provisioning.errors import NoEndpointYet
from provisioning.spec import ClusterRequest
from tenants.api.base import page_in, page_response, page_shape, read_body
from tenants.api.idempotency import idempotent
from tenants.api.serializers import CredentialChangeBody, CredentialShape, EmptyBody, NewSecretShape
from tenants.services import NewSecret

_OPERATION_PAGE = page_shape("Operation", shapes.OperationSchema)

# What a replayed answer leaves out.
_SECRET_FIELDS = ("client_secret", "env.ZEEBE_CLIENT_SECRET")

# No browser and no proxy keeps an answer with a secret.
_UNKEPT = {"Cache-Control": "no-store"}


class CatalogueView(ActorView):
    """What is on offer."""

    @extend_schema(
        operation_id="get_catalogue",
        summary="What can be chosen when creating a cluster",
        responses=shapes.CatalogueSchema,
    )
    def get(self, request: Request) -> Response:
        """Regions, plan types, channels with their releases, stages."""
        return Response(represent.catalogue(selectors.catalogue()))


class ClustersView(WriteView):
    """The organization's clusters."""

    @extend_schema(
        operation_id="list_clusters",
        summary="List clusters",
        parameters=PAGE,
        responses=page_shape("Cluster", shapes.ClusterSchema),
    )
    def get(self, request: Request) -> Response:
        """Newest first."""
        return page_response(selectors.clusters_of(self.actor, page_in(request)), represent.cluster)

    @extend_schema(
        operation_id="create_cluster",
        summary="Create a cluster",
        parameters=[DRY_RUN],
        request=shapes.ClusterCreation,
        responses={
            202: OpenApiResponse(shapes.CreatedClusterSchema, "Accepted; `Location` names the operation."),
            200: PREVIEW,
        },
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        """Accepted at once; the operation tells how far it is."""
        body = read_body(shapes.ClusterCreation, request)
        wish = ClusterRequest(**{**body, "labels": tuple(body["labels"])})
        if self.is_dry_run:
            return Response(
                represent.preview(services.preview(services.create_cluster, actor=self.actor, request=wish))
            )
        operation = services.create_cluster(actor=self.actor, request=wish)
        view = selectors.cluster(self.actor, operation.cluster_id)
        answer = {
            "cluster": represent.cluster(view),
            "operation": represent.operation(selectors.operation(self.actor, operation.pk)),
        }
        headers = {"Location": operation_url(operation.pk), "ETag": etag_of(view.row.spec_generation)}
        return Response(answer, status.HTTP_202_ACCEPTED, headers=headers)


class ClusterView(WriteView):
    """One cluster."""

    @extend_schema(operation_id="get_cluster", summary="Read a cluster", responses=shapes.ClusterSchema)
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """With its ETag, for `If-Match`."""
        view = selectors.cluster(self.actor, cluster_id)
        return Response(represent.cluster(view), headers={"ETag": etag_of(view.row.spec_generation)})

    @extend_schema(
        operation_id="update_cluster",
        summary="Change a cluster",
        parameters=CHANGE,
        request=shapes.ClusterChange,
        responses=ACCEPTED,
    )
    @idempotent()
    def patch(self, request: Request, cluster_id: UUID) -> Response:
        """Rename it, move it to another stage, switch its deletion protection, set when it is backed up and proven."""
        wish = read_body(shapes.ClusterChange, request)
        return self.change(cluster_id, services.update_cluster, **wish)

    @extend_schema(
        operation_id="delete_cluster",
        summary="Delete a cluster",
        parameters=[
            *CHANGE,
            OpenApiParameter(
                "purge",
                bool,
                description="true: skip the undo window and remove its backups, too; nothing can be restored.",
            ),
        ],
        request=None,
        responses=ACCEPTED,
    )
    @idempotent()
    def delete(self, request: Request, cluster_id: UUID) -> Response:
        """The engine stops now; its data is removed when the undo window closes. Its backups stay until deleted."""
        given = request.query_params.get("purge", "false")
        if given not in ("true", "false"):
            raise InvalidRequest("purge is either true or false.", field="purge")
        return self.change(cluster_id, services.request_deletion, purge=given == "true")


@described("suspend_cluster", "Suspend a cluster", "Stop the engine and keep its data.")
class SuspendView(ClusterActionView):
    """Suspension."""

    service = staticmethod(services.suspend_cluster)


@described("resume_cluster", "Resume a suspended cluster", "Start the engine again on its data.")
class ResumeView(ClusterActionView):
    """Resumption."""

    service = staticmethod(services.resume_cluster)


@described("restore_cluster", "Undo a deletion", "Possible while the undo window is open.")
class RestoreView(ClusterActionView):
    """Undoing a deletion."""

    service = staticmethod(services.restore_cluster)


@described(
    "revoke_access",
    "Make all tokens issued so far worthless",
    "The engine restarts; clients go on with the next token they ask for.",
)
class RevokeAccessView(ClusterActionView):
    """Revocation of all tokens."""

    service = staticmethod(services.revoke_access)


@described(
    "resize_cluster",
    "Give a cluster another size",
    "Its partitions and their copies stay as they are: only sizes that have the same are accepted.",
    shapes.Resize,
)
class ResizeView(ClusterActionView):
    """Another size."""

    service = staticmethod(services.resize_cluster)
    body = shapes.Resize


@described(
    "upgrade_cluster",
    "Move a cluster to a later release",
    "A backup is taken first, unless `without_backup` is true. The cluster goes back by itself when the engine is not "
    "healthy on the new release in time. Once it is healthy there is no way back.",
    shapes.Upgrade,
)
class UpgradeView(ClusterActionView):
    """A later release."""

    service = staticmethod(services.upgrade_cluster)
    body = shapes.Upgrade


class ClusterOperationsView(ActorView):
    """One cluster's operations."""

    @extend_schema(
        operation_id="list_cluster_operations",
        summary="List a cluster's operations",
        parameters=PAGE,
        responses=_OPERATION_PAGE,
    )
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """Newest first."""
        selectors.cluster(self.actor, cluster_id)
        return page_response(selectors.operations_of(self.actor, page_in(request), cluster_id), represent.operation)


class OperationsView(ActorView):
    """The organization's operations."""

    @extend_schema(
        operation_id="list_operations", summary="List operations", parameters=PAGE, responses=_OPERATION_PAGE
    )
    def get(self, request: Request) -> Response:
        """Newest first."""
        return page_response(selectors.operations_of(self.actor, page_in(request)), represent.operation)


class OperationView(ActorView):
    """One operation."""

    @extend_schema(operation_id="get_operation", summary="Read an operation", responses=shapes.OperationSchema)
    def get(self, request: Request, operation_id: UUID) -> Response:
        """With its steps, what each waits for, and a verdict."""
        return Response(represent.operation(selectors.operation(self.actor, operation_id)))


class RetryView(WriteView):
    """Another try."""

    has_dry_run = False

    @extend_schema(
        operation_id="retry_operation",
        summary="Try a failed operation again",
        request=None,
        responses={202: OPERATION},
    )
    @idempotent()
    def post(self, request: Request, operation_id: UUID) -> Response:
        """The same operation runs again."""
        read_body(EmptyBody, request)
        return self.accepted(services.retry_operation(actor=self.actor, operation_id=operation_id).pk)


class CancelView(WriteView):
    """Calling off."""

    @extend_schema(
        operation_id="cancel_operation",
        summary="Call an operation off",
        parameters=[DRY_RUN],
        request=None,
        responses=ACCEPTED,
    )
    @idempotent()
    def post(self, request: Request, operation_id: UUID) -> Response:
        """Answers with the operation that undoes it."""
        read_body(EmptyBody, request)
        return self.act(services.cancel_operation, operation_id=operation_id)


class ForceView(WriteView):
    """An end by force."""

    has_dry_run = False

    @extend_schema(
        operation_id="force_operation",
        summary="End a deletion by force",
        request=None,
        responses={202: OPERATION},
    )
    @idempotent()
    def post(self, request: Request, operation_id: UUID) -> Response:
        """For a deletion that does not get on (`can_force`): the cluster is closed without the region's word.

        What may be left in the region is recorded, and removed as soon as the region allows.
        """
        read_body(EmptyBody, request)
        return self.accepted(services.force_operation(actor=self.actor, operation_id=operation_id).pk)


class CredentialsView(ActorView):
    """One cluster's credentials."""

    @extend_schema(
        operation_id="list_cluster_credentials",
        summary="List a cluster's credentials",
        parameters=PAGE,
        responses=page_shape("ClusterCredential", CredentialShape),
    )
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """Newest first."""
        return page_response(access.credentials_of(self.actor, cluster_id, page_in(request)), _show_credential)

    @extend_schema(
        operation_id="create_cluster_credential",
        summary="Create a credential for a cluster",
        request=shapes.CredentialCreation,
        responses={201: shapes.NewClusterCredentialSchema},
    )
    @idempotent(secret_fields=_SECRET_FIELDS)
    def post(self, request: Request, cluster_id: UUID) -> Response:
        """The secret is in this answer and nowhere else."""
        wish = read_body(shapes.CredentialCreation, request)
        new = access.create_credential(actor=self.actor, cluster_id=cluster_id, **wish)
        body = self._show(cluster_id, new.credential.pk) | {
            "client_secret": new.secret,
            "secret_prefix": new.secret_row.prefix,
            "env": _environment(self, cluster_id, new),
        }
        return Response(body, status.HTTP_201_CREATED, headers=_UNKEPT)

    def _show(self, cluster_id: UUID, credential_id: UUID) -> dict[str, Any]:
        return _show_credential(access.credential_of(self.actor, cluster_id, credential_id))


class CredentialView(ActorView):
    """One credential of a cluster."""

    @extend_schema(
        operation_id="get_cluster_credential", summary="Read a cluster's credential", responses=CredentialShape
    )
    def get(self, request: Request, cluster_id: UUID, credential_id: UUID) -> Response:
        """Without its secret."""
        return Response(CredentialShape(access.credential_of(self.actor, cluster_id, credential_id)).data)

    @extend_schema(
        operation_id="update_cluster_credential",
        summary="Change a cluster's credential",
        request=CredentialChangeBody,
        responses=CredentialShape,
    )
    @idempotent()
    def patch(self, request: Request, cluster_id: UUID, credential_id: UUID) -> Response:
        """Rename it, disable or enable it, set when it expires."""
        wish = read_body(CredentialChangeBody, request)
        access.update_credential(actor=self.actor, cluster_id=cluster_id, credential_id=credential_id, **wish)
        return Response(CredentialShape(access.credential_of(self.actor, cluster_id, credential_id)).data)

    @extend_schema(
        operation_id="revoke_cluster_credential",
        summary="Revoke a cluster's credential",
        request=None,
        responses={204: None},
    )
    @idempotent()
    def delete(self, request: Request, cluster_id: UUID, credential_id: UUID) -> Response:
        """It gets no further token; tokens it holds live on until they expire or access is revoked."""
        access.revoke_credential(actor=self.actor, cluster_id=cluster_id, credential_id=credential_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


class SecretsView(ActorView):
    """A credential's secrets."""

    @extend_schema(
        operation_id="add_cluster_credential_secret",
        summary="Add a second secret to a cluster's credential",
        request=None,
        responses={201: shapes.NewClusterSecretSchema},
    )
    @idempotent(secret_fields=_SECRET_FIELDS)
    def post(self, request: Request, cluster_id: UUID, credential_id: UUID) -> Response:
        """Both secrets work until one of them is revoked."""
        read_body(EmptyBody, request)
        new = access.add_secret(actor=self.actor, cluster_id=cluster_id, credential_id=credential_id)
        body = dict(NewSecretShape(new).data) | {"env": _environment(self, cluster_id, new)}
        return Response(body, status.HTTP_201_CREATED, headers=_UNKEPT)


class SecretView(ActorView):
    """One secret."""

    @extend_schema(
        operation_id="revoke_cluster_credential_secret",
        summary="Revoke a secret of a cluster's credential",
        request=None,
        responses={204: None},
    )
    @idempotent()
    def delete(self, request: Request, cluster_id: UUID, credential_id: UUID, secret_id: UUID) -> Response:
        """It gets no further token."""
        access.revoke_secret(actor=self.actor, cluster_id=cluster_id, credential_id=credential_id, secret_id=secret_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


class EnvironmentFileView(ActorView):
    """The file that a client's shell reads."""

    @extend_schema(
        operation_id="get_env_file",
        summary="What a stock client needs, as a file for a shell",
        parameters=[OpenApiParameter("credential", UUID, description="Whose client id to put in.")],
        responses={(200, "text/plain"): OpenApiTypes.STR},
    )
    def get(self, request: Request, cluster_id: UUID) -> HttpResponse:
        """`export NAME='value'` lines; a placeholder stands for the secret."""
        values = access.environment(self.actor, cluster_id, client_id=self._client_id(cluster_id))
        return HttpResponse(envfile.render(values), content_type="text/plain; charset=utf-8")

    def _client_id(self, cluster_id: UUID) -> str:
        given = self.request.query_params.get("credential")
        if not given:
            return ""
        try:
            wanted = UUID(given)
        except ValueError as error:
            raise InvalidRequest(
                "credential is the id of one of this cluster's credentials.", field="credential"
            ) from error
        return access.credential_of(self.actor, cluster_id, wanted).client_id


def _show_credential(row: Any) -> dict[str, Any]:
    return dict(CredentialShape(row).data)


def _environment(view: ActorView, cluster_id: UUID, new: NewSecret) -> dict[str, str] | None:
    try:
        return access.environment(view.actor, cluster_id, client_id=new.credential.client_id, client_secret=new.secret)
    except NoEndpointYet:
        return None
