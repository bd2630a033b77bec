"""What the REST door's views of this app share: who asks, dry runs, preconditions, accepted changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import UUID

from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from common.errors import InvalidRequest
from provisioning import selectors, services
from provisioning.api import represent
from provisioning.api import serializers as shapes
from tenants.actor import Actor
from tenants.api.base import actor_in, read_body
from tenants.api.idempotency import idempotent
from tenants.api.serializers import EmptyBody

PAGE = [
    OpenApiParameter("limit", int, description="1 to 100, 50 by default."),
    OpenApiParameter("cursor", str, description="`next_cursor` of the page before."),
]
DRY_RUN = OpenApiParameter("dry_run", bool, description="true: say what would happen, and do nothing.")
CHANGE = [
    DRY_RUN,
    OpenApiParameter(
        "If-Match",
        str,
        OpenApiParameter.HEADER,
        description="The cluster's ETag, that is its spec_generation in quotes; refused with 412 when it has moved on.",
    ),
]
PREVIEW = OpenApiResponse(shapes.PreviewSchema, "The answer to a dry run.")
OPERATION = OpenApiResponse(shapes.OperationSchema, "Accepted; `Location` names the operation.")
ACCEPTED = {
    202: OPERATION,
    200: PREVIEW,
    412: OpenApiResponse(OpenApiTypes.OBJECT, "The cluster has moved on since it was read."),
}

_STRONG_ETAG = re.compile(r'"(\d{1,9})"')


class ActorView(APIView):
    """A view that only an actor gets into."""

    @property
    def actor(self) -> Actor:
        """Who asks."""
        return actor_in(self.request)


class WriteView(ActorView):
    """A view that asks for a change, or for what a change would do.

    `has_dry_run` is False where nobody could say beforehand, see `idempotent`.
    """

    has_dry_run: ClassVar[bool] = True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """After the usual checks, refuse a `dry_run` that is neither true nor false."""
        super().initial(request, *args, **kwargs)
        _ = self.is_dry_run

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
        """Accept a change of a cluster, or say what it would do."""
        return self.act(service, cluster_id=cluster_id, expected_generation=self.expected_generation, **wish)

    def act(self, service: Callable[..., Any], **wish: Any) -> Response:
        """Accept whatever becomes an operation, or say what it would do."""
        if self.is_dry_run:
            return Response(represent.preview(services.preview(service, actor=self.actor, **wish)))
        return self.accepted(service(actor=self.actor, **wish).pk)

    def accepted(self, operation_id: UUID) -> Response:
        """202 with the operation and its address."""
        view = selectors.operation(self.actor, operation_id)
        return Response(
            represent.operation(view), status.HTTP_202_ACCEPTED, headers={"Location": operation_url(operation_id)}
        )


def described(
    operation_id: str, summary: str, description: str, body: Any = None
) -> Callable[[type[APIView]], type[APIView]]:
    """What the OpenAPI document says of an action's `post`."""
    post = extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description,
        parameters=CHANGE,
        request=body,
        responses=ACCEPTED,
    )
    return extend_schema_view(post=post)


class ClusterActionView(WriteView):
    """One change of a cluster. Subclasses name the service, and the body that holds its further arguments."""

    service: Callable[..., Any]
    body: type[Serializer[Any]] = EmptyBody

    @idempotent()
    def post(self, request: Request, cluster_id: UUID) -> Response:
        """Ask for it; accepted at once."""
        return self.change(cluster_id, self.service, **read_body(self.body, request))


def operation_url(operation_id: UUID) -> str:
    """Where an operation is read."""
    return reverse("operation", args=[operation_id])


def etag_of(spec_generation: int) -> str:
    """What `If-Match` takes."""
    return f'"{spec_generation}"'
