"""What the REST door's views share: strict bodies, pages, and the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.actor import Actor
from tenants.paging import Page, Slice, parse_page


class StrictSerializer(serializers.Serializer[Any]):
    """A body whose every field is known: a misspelt one is refused, not ignored."""

    def to_internal_value(self, data: Any) -> Any:
        """The validated body; raises `ValidationError` naming the first unknown field."""
        if isinstance(data, dict):
            known = [name for name, field in self.fields.items() if not field.read_only]
            for name in data:
                if name not in known:
                    raise serializers.ValidationError(
                        {name: [f"There is no such field here. Known ones: {', '.join(known) or 'none'}."]}
                    )
        return super().to_internal_value(data)


def actor_in(request: Request) -> Actor:
    """Who asks. The view's permission class has let nobody else through."""
    assert isinstance(request.auth, Actor)
    return request.auth


def read_body(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The request's body in this shape; raises `ValidationError`."""
    body = shape(data=request.data)
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)


def page_in(request: Request) -> Page:
    """The page that `?limit=` and `?cursor=` ask for; raises `InvalidRequest`."""
    return parse_page(request.query_params.get("limit", ""), request.query_params.get("cursor", ""))


def page_response(found: Slice[Any], show: Callable[[Any], dict[str, Any]]) -> Response:
    """One page of a list."""
    return Response({"items": [show(item) for item in found], "next_cursor": found.next_cursor or None})


def page_shape(name: str, item: type[serializers.Serializer[Any]]) -> type[serializers.Serializer[Any]]:
    """The shape of a page of such items, for the API's description."""
    fields = {"items": item(many=True), "next_cursor": serializers.CharField(allow_null=True)}
    return type(f"{name}Page", (serializers.Serializer,), fields)
