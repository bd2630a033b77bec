"""Operations: what was asked for, how far it is, and its safe exits."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console.views.clusters import poll_seconds
from console.views.doors import act_and_return, organization_page
from provisioning import selectors, services
from tenants.actor import Actor
from tenants.paging import parse_page
from tenants.roles import Permission


@require_GET
@organization_page
def operation_list(request: HttpRequest, actor: Actor) -> HttpResponse:
    """All operations of the organization, newest first."""
    found = selectors.operations_of(actor, parse_page("20", request.GET.get("cursor", "")))
    context = {"operations": found.items, "next_cursor": found.next_cursor}
    return render(request, "console/operations.html", context)


@require_GET
@organization_page
def operation_page(request: HttpRequest, actor: Actor, operation_id: UUID) -> HttpResponse:
    """One operation with its steps."""
    return render(request, "console/operation.html", _operation_context(actor, operation_id))


@require_GET
@organization_page
def operation_live(request: HttpRequest, actor: Actor, operation_id: UUID) -> HttpResponse:
    """The moving part of the operation's page."""
    return render(request, "console/parts/operation_live.html", _operation_context(actor, operation_id))


@require_POST
@organization_page
def operation_retry(request: HttpRequest, actor: Actor, operation_id: UUID) -> HttpResponse:
    """Try it again, now."""
    retry = partial(services.retry_operation, actor=actor, operation_id=operation_id)
    return act_and_return(request, retry, "Trying again.", "console:operation", operation_id)


@require_POST
@organization_page
def operation_cancel(request: HttpRequest, actor: Actor, operation_id: UUID) -> HttpResponse:
    """Call it off: the opposite is wished instead."""
    operation = selectors.operation(actor, operation_id)
    cancel = partial(services.cancel_operation, actor=actor, operation_id=operation_id)
    success = "Called off. What was begun is being undone."
    page = ("console:backup", operation.drill_of) if operation.drill_of else ("console:cluster", operation.cluster_id)
    return act_and_return(request, cancel, success, *page)


@require_http_methods(["GET", "POST"])
@organization_page
def operation_force(request: HttpRequest, actor: Actor, operation_id: UUID) -> HttpResponse:
    """End it by force, after saying what that means."""
    actor.require(Permission.CLUSTERS_DELETE)
    operation = selectors.operation(actor, operation_id)
    if request.method == "GET":
        return render(request, "console/operation_force.html", {"operation": operation})
    force = partial(services.force_operation, actor=actor, operation_id=operation_id)
    success = "Ended by force. What may be left in the region is recorded, and removed when the region allows."
    return act_and_return(request, force, success, "console:operation", operation_id)


def _operation_context(actor: Actor, operation_id: UUID) -> dict[str, Any]:
    operation = selectors.operation(actor, operation_id)
    return {"operation": operation, "poll_seconds": poll_seconds(operation)}
