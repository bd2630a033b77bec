"""The OpenAPI document: whole, valid, and true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import jsonschema
import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.validation import validate_schema
from rest_framework.test import APIClient

from provisioning import services
from provisioning.models import Cluster
from tests.conftest import RestClient
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup

# Serves the document itself.
UNDOCUMENTED = {"/api/v1/openapi.json"}


def routes(patterns: list[URLPattern | URLResolver], prefix: str = "/") -> Iterator[tuple[str, Any]]:
    """Every address below /api with its view class."""
    for entry in patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from routes(entry.url_patterns, path)
        elif path.startswith("/api/"):
            yield path, getattr(entry.callback, "cls", None)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document, made without a warning."""
    out = StringIO()
    call_command("spectacular", "--format", "openapi-json", "--fail-on-warn", stdout=out)
    parsed: dict[str, Any] = json.loads(out.getvalue())
    return parsed


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate_schema(document)  # type: ignore[no-untyped-call]


def test_every_served_route_and_method_is_documented(document: dict[str, Any]) -> None:
    documented = {(path, method) for path, methods in document["paths"].items() for method in methods}
    served = set()
    for path, view in routes(get_resolver().url_patterns):
        plain = path
        for kind in ("uuid", "str", "slug"):
            plain = plain.replace(f"<{kind}:", "{")
        plain = plain.replace(">", "}")
        if plain in UNDOCUMENTED:
            continue
        served |= {(plain, method) for method in ("get", "post", "put", "patch", "delete") if hasattr(view, method)}
    assert documented == served


def test_every_operation_says_how_its_errors_look(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in ("400", "401", "403", "503"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"], (path, method, status)


def test_every_write_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    views = dict(routes(get_resolver().url_patterns))
    for path, view in views.items():
        for method in ("post", "put", "patch", "delete"):
            if handler := getattr(view, method, None):
                assert getattr(handler, "is_idempotent", False), f"{method} {path} lacks @idempotent()"


def test_the_document_is_served(document: dict[str, Any], anonymous: RestClient, db: None) -> None:
    answer = anonymous.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    assert json.loads(answer.content)["paths"].keys() == document["paths"].keys()


@pytest.mark.django_db
def test_answers_look_as_documented(
    document: dict[str, Any], api: Callable[[Person], APIClient], alice: Person, region: PretendRegion
) -> None:
    cluster: Cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    proven = make_backup(cluster, verified_at=Now(), recovery_seconds=12.5, loss_seconds=3600.0)
    Cluster.objects.filter(pk=cluster.pk).update(data_epoch=1, data_source=proven)
    services.drill_backup(actor=alice.actor, backup_id=proven.pk)
    client = api(alice)
    operation = client.get(f"/api/v1/clusters/{cluster.pk}/operations").json()["items"][0]
    filled = {"{cluster_id}": str(cluster.pk), "{operation_id}": operation["id"], "{backup_id}": str(proven.pk)}
    seen = 0
    for path, operations in document["paths"].items():
        address = path
        for name, value in filled.items():
            address = address.replace(name, value)
        if "get" not in operations or "{" in address or address.endswith("env-file"):
            continue
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.content)
        schema = operations["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(closed(schema | {"components": document["components"]})).validate(answer.json())
        seen += 1
    assert seen >= 14


def closed(schema: Any) -> Any:
    """The schema with no room for undocumented members, and OpenAPI 3.0's `nullable` in JSON Schema's words."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: closed(value) for name, value in schema.items()}
    if plain.get("type") == "object" and "properties" in plain and "additionalProperties" not in plain:
        plain["additionalProperties"] = False
    if plain.pop("nullable", False):
        plain = {"anyOf": [plain, {"type": "null"}]}
    return plain
