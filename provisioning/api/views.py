"""The REST door to clusters: translate, call a service or selector, translate back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.errors import InvalidRequest
from provisioning import access, envfile, selectors, services
from provisioning.api import represent
from provisioning.api import serializers as shapes
from provisioning.errors import NoEndpointYet
from provisioning.spec import ClusterRequest
from tenants.actor import Actor
from tenants.api.base import actor_in, page_in, page_response, page_shape, read_body
from tenants.api.idempotency import idempotent
from tenants.api.serializers import CredentialChangeBody, CredentialShape, EmptyBody, NewSecretShape
from tenants.services import NewSecret

_LIMIT = OpenApiParameter("limit", int, description="1 to 100, 50 by default.")
_CURSOR = OpenApiParameter("cursor", str, description="`next_cursor` of the page before.")
_PAGE = [_LIMIT, _CURSOR]
_DRY_RUN = OpenApiParameter("dry_run", bool, description="true: say what would happen, and do nothing.")
_IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The cluster's ETag, that is its spec_generation in quotes; refused with 412 when it has moved on.",
)
_CHANGE = [_DRY_RUN, _IF_MATCH]
_PREVIEW = OpenApiResponse(shapes.PreviewSchema, "The answer to a dry run.")
_ACCEPTED = {
    202: OpenApiResponse(shapes.OperationSchema, "Accepted; `Location` names the operation."),
    200: _PREVIEW,
    412: OpenApiResponse(OpenApiTypes.OBJECT, "The cluster has moved on since it was read."),
}

_OPERATION_PAGE = page_shape("Operation", shapes.OperationSchema)
# What a replayed answer leaves out.
_SECRET_FIELDS = ("client_secret", "env.ZEEBE_CLIENT_SECRET")

# No browser and no proxy keeps an answer with a secret.
_UNKEPT = {"Cache-Control": "no-store"}

_STRONG_ETAG = re.compile(r'"(\d{1,9})"')


class ActorView(APIView):
    """A view that only an actor gets into."""

    @property
    def actor(self) -> Actor:
        """Who asks."""
        return actor_in(self.request)


class ClusterWriteView(ActorView):
    """A view that changes one cluster."""

    @property
    def is_dry_run(self) -> bool:
        """Whether the caller only wants to know."""
        given = self.request.query_params.get("dry_run", "false")
        if given not in ("true", "false"):
            raise InvalidRequest("dry_run is either true or false.", field="dry_run")
        return given == "true"

    @property
    def expected_generation(self) -> int | None:
        """The generation named by `If-Match`; None without the header, or for `*`."""
        given = self.request.headers.get("If-Match", "*").strip()
        if given == "*":
            return None
        if not (match := _STRONG_ETAG.fullmatch(given)):
            raise InvalidRequest(
                'If-Match takes one ETag of the cluster, that is its spec_generation in quotes, such as "3".',
                field="If-Match",
            )
        return int(match[1])

    def change(self, cluster_id: UUID, service: Callable[..., Any], **wish: Any) -> Response:
        """Accept a change, or say what it would do."""
        named = {
            "actor": self.actor,
            "cluster_id": cluster_id,
            "expected_generation": self.expected_generation,
            **wish,
        }
        if self.is_dry_run:
            return Response(represent.preview(services.preview(service, **named)))
        return self.accepted(service(**named).pk)

    def accepted(self, operation_id: UUID) -> Response:
        """202 with the operation and its address."""
        view = selectors.operation(self.actor, operation_id)
        return Response(
            represent.operation(view), status.HTTP_202_ACCEPTED, headers={"Location": _operation_url(operation_id)}
        )


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


class ClustersView(ClusterWriteView):
    """The organization's clusters."""

    @extend_schema(
        operation_id="list_clusters",
        summary="List clusters",
        parameters=_PAGE,
        responses=page_shape("Cluster", shapes.ClusterSchema),
    )
    def get(self, request: Request) -> Response:
        """Newest first."""
        return page_response(selectors.clusters_of(self.actor, page_in(request)), represent.cluster)

    @extend_schema(
        operation_id="create_cluster",
        summary="Create a cluster",
        parameters=[_DRY_RUN],
        request=shapes.ClusterCreation,
        responses={
            202: OpenApiResponse(shapes.CreatedClusterSchema, "Accepted; `Location` names the operation."),
            200: _PREVIEW,
        },
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        """Accepted at once; the operation tells how far it is."""
        wish = ClusterRequest(**read_body(shapes.ClusterCreation, request))
        if self.is_dry_run:
            return Response(
                represent.preview(services.preview(services.create_cluster, actor=self.actor, request=wish))
            )
        operation = services.create_cluster(actor=self.actor, request=wish)
        view = selectors.cluster(self.actor, operation.cluster_id)
        body = {
            "cluster": represent.cluster(view),
            "operation": represent.operation(selectors.operation(self.actor, operation.pk)),
        }
        headers = {"Location": _operation_url(operation.pk), "ETag": _etag(view.row.spec_generation)}
        return Response(body, status.HTTP_202_ACCEPTED, headers=headers)


class ClusterView(ClusterWriteView):
    """One cluster."""

    @extend_schema(operation_id="get_cluster", summary="Read a cluster", responses=shapes.ClusterSchema)
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """With its ETag, for `If-Match`."""
        view = selectors.cluster(self.actor, cluster_id)
        return Response(represent.cluster(view), headers={"ETag": _etag(view.row.spec_generation)})

    @extend_schema(
        operation_id="update_cluster",
        summary="Change a cluster",
        parameters=_CHANGE,
        request=shapes.ClusterChange,
        responses=_ACCEPTED,
    )
    @idempotent()
    def patch(self, request: Request, cluster_id: UUID) -> Response:
        """Rename it, move it to another stage, switch its deletion protection."""
        wish = read_body(shapes.ClusterChange, request)
        return self.change(cluster_id, services.update_cluster, **wish)

    @extend_schema(
        operation_id="delete_cluster",
        summary="Delete a cluster",
        parameters=[
            *_CHANGE,
            OpenApiParameter("purge", bool, description="true: skip the undo window; nothing can be restored."),
        ],
        request=None,
        responses=_ACCEPTED,
    )
    @idempotent()
    def delete(self, request: Request, cluster_id: UUID) -> Response:
        """The engine stops now; its data is removed when the undo window closes."""
        given = request.query_params.get("purge", "false")
        if given not in ("true", "false"):
            raise InvalidRequest("purge is either true or false.", field="purge")
        return self.change(cluster_id, services.request_deletion, purge=given == "true")


def _described(operation_id: str, summary: str, description: str) -> Callable[[type[APIView]], type[APIView]]:
    """What the OpenAPI document says of an action's `post`."""
    post = extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description,
        parameters=_CHANGE,
        request=None,
        responses=_ACCEPTED,
    )
    return extend_schema_view(post=post)


class ClusterActionView(ClusterWriteView):
    """One change of a cluster that needs no further word. Subclasses name the service."""

    service: Callable[..., Any]

    @idempotent()
    def post(self, request: Request, cluster_id: UUID) -> Response:
        """Ask for it; accepted at once."""
        read_body(EmptyBody, request)
        return self.change(cluster_id, self.service)


@_described("suspend_cluster", "Suspend a cluster", "Stop the engine and keep its data.")
class SuspendView(ClusterActionView):
    """Suspension."""

    service = staticmethod(services.suspend_cluster)


@_described("resume_cluster", "Resume a suspended cluster", "Start the engine again on its data.")
class ResumeView(ClusterActionView):
    """Resumption."""

    service = staticmethod(services.resume_cluster)


@_described("restore_cluster", "Undo a deletion", "Possible while the undo window is open.")
class RestoreView(ClusterActionView):
    """Undoing a deletion."""

    service = staticmethod(services.restore_cluster)


@_described(
    "revoke_access",
    "Make all tokens issued so far worthless",
    "The engine restarts; clients go on with the next token they ask for.",
)
class RevokeAccessView(ClusterActionView):
    """Revocation of all tokens."""

    service = staticmethod(services.revoke_access)


class ClusterOperationsView(ActorView):
    """One cluster's operations."""

    @extend_schema(
        operation_id="list_cluster_operations",
        summary="List a cluster's operations",
        parameters=_PAGE,
        responses=_OPERATION_PAGE,
    )
    def get(self, request: Request, cluster_id: UUID) -> Response:
        """Newest first."""
        selectors.cluster(self.actor, cluster_id)
        return page_response(selectors.operations_of(self.actor, page_in(request), cluster_id), represent.operation)


class OperationsView(ActorView):
    """The organization's operations."""

    @extend_schema(
        operation_id="list_operations", summary="List operations", parameters=_PAGE, responses=_OPERATION_PAGE
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


class RetryView(ClusterWriteView):
    """Another try."""

    @extend_schema(
        operation_id="retry_operation",
        summary="Try a failed operation again",
        request=None,
        responses={202: shapes.OperationSchema},
    )
    @idempotent()
    def post(self, request: Request, operation_id: UUID) -> Response:
        """The same operation runs again."""
        read_body(EmptyBody, request)
        return self.accepted(services.retry_operation(actor=self.actor, operation_id=operation_id).pk)


class CancelView(ClusterWriteView):
    """Calling off."""

    @extend_schema(
        operation_id="cancel_operation",
        summary="Call an operation off",
        request=None,
        responses={202: shapes.OperationSchema},
    )
    @idempotent()
    def post(self, request: Request, operation_id: UUID) -> Response:
        """Answers with the operation that undoes it."""
        read_body(EmptyBody, request)
        return self.accepted(services.cancel_operation(actor=self.actor, operation_id=operation_id).pk)


class CredentialsView(ActorView):
    """One cluster's credentials."""

    @extend_schema(
        operation_id="list_cluster_credentials",
        summary="List a cluster's credentials",
        parameters=_PAGE,
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


def _operation_url(operation_id: UUID) -> str:
    return reverse("operation", args=[operation_id])


def _etag(spec_generation: int) -> str:
    return f'"{spec_generation}"'
