"""Clusters: the list, making one, its page with live progress, and every change to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import ControlPlaneError, NotFound
from console.forms import ClusterForm, ClusterSettingsForm, ConfirmForm, DeletionForm
from console.views.doors import attempt, organization_page, status_of
from console.words import facts_of
from provisioning import selectors, services
from provisioning.selectors import ClusterView, OperationView
from provisioning.spec import Lifecycle
from provisioning.states import Phase, StepKind, StepState
from tenants.actor import Actor
from tenants.paging import parse_page
from tenants.roles import Permission

if TYPE_CHECKING:
    from provisioning.models import Operation

# How often an open page asks again: often enough to watch while something moves, rarely while all is at rest.
LIVE_SECONDS = 1
RESTING_SECONDS = 10


@require_GET
@organization_page
def cluster_list(request: HttpRequest, actor: Actor) -> HttpResponse:
    """All clusters of the organization."""
    found = selectors.clusters_of(actor, parse_page("", request.GET.get("cursor", "")))
    is_moving = any(view.current_operation_id for view in found.items)
    context = {"clusters": found.items, "next_cursor": found.next_cursor, "is_moving": is_moving}
    template = "console/parts/cluster_rows.html" if "rows" in request.GET else "console/clusters.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_new(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Ask for a cluster; the button “Show the plan” rehearses it without scripts."""
    actor.require(Permission.CLUSTERS_WRITE)
    form = _cluster_form(request)
    preview = None
    if form.is_valid():
        if "rehearse" in request.POST:
            rehearse = partial(services.preview, services.create_cluster, actor=actor, request=form.request())
            preview = attempt(form, rehearse)
        else:
            operation = attempt(form, partial(services.create_cluster, actor=actor, request=form.request()))
            if operation:
                return redirect("console:cluster", operation.cluster_id)
    context = {"form": form, "preview": preview, "licence": _licence_of(form)}
    return render(request, "console/cluster_new.html", context, status=status_of(form))


@require_POST
@organization_page
def cluster_plan(request: HttpRequest, actor: Actor) -> HttpResponse:
    """What creating this cluster would do; a fragment that follows the form while it is filled in."""
    form = _cluster_form(request)
    preview, refusal = None, ""
    if form.is_valid():
        preview, refusal = _rehearse(services.create_cluster, actor=actor, request=form.request())
    context = {"form": form, "preview": preview, "refusal": refusal, "licence": _licence_of(form)}
    return render(request, "console/parts/cluster_plan.html", context)


@require_GET
@organization_page
def cluster_page(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """One cluster with everything about it."""
    return render(request, "console/cluster.html", _cluster_context(actor, cluster_id))


@require_GET
@organization_page
def cluster_live(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """The moving part of the cluster's page, asked for again and again."""
    try:
        context = _cluster_context(actor, cluster_id)
    except NotFound:
        messages.info(request, "The cluster is gone: its engine and its data were removed.")
        return HttpResponse(status=404, headers={"HX-Redirect": reverse("console:clusters")})
    return render(request, "console/parts/cluster_live.html", context)


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_settings(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """Rename a cluster, change its stage or its protection."""
    actor.require(Permission.CLUSTERS_WRITE)
    view = selectors.cluster(actor, cluster_id)
    row = view.row
    form = ClusterSettingsForm(
        request.POST or None,
        initial={
            "name": row.name,
            "stage": row.stage,
            "is_protected": row.is_protected,
            "generation": row.spec_generation,
        },
    )
    if form.is_valid():
        wish = dict(form.cleaned_data)
        generation = wish.pop("generation")
        change = partial(
            services.update_cluster, actor=actor, cluster_id=cluster_id, expected_generation=generation, **wish
        )
        if attempt(form, change):
            messages.success(request, "Saved.")
            return redirect("console:cluster", cluster_id)
        _renew_generation(form, row.spec_generation)
    context = {"form": form, "cluster": view}
    return render(request, "console/cluster_settings.html", context, status=status_of(form))


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is shown as a plan before it is made."""

    title: str
    button: str
    explanation: str
    permission: Permission
    act: Callable[..., Operation]
    is_danger: bool = False


CHANGES = {
    "suspend": Change(
        "Suspend", "Suspend the cluster",
        "The engine stops and its data stays. Clients cannot reach it until somebody resumes it; "
        "timers that fall due meanwhile fire after that.",
        Permission.CLUSTERS_WRITE, services.suspend_cluster,
    ),
    "resume": Change(
        "Resume", "Resume the cluster", "The engine starts again on the data it left.",
        Permission.CLUSTERS_WRITE, services.resume_cluster,
    ),
    "restore": Change(
        "Restore", "Restore the cluster",
        "The deletion is undone. A cluster that was running starts again on its data; one that was suspended comes "
        "back suspended. It counts against your plan again.",
        Permission.CLUSTERS_DELETE, services.restore_cluster,
    ),
    "revoke-access": Change(
        "Revoke access now", "Revoke and restart the engine",
        "Every access token issued so far becomes worthless, and the engine restarts to know it. Credentials stay: "
        "clients with a live one fetch a new token and go on. Disable or delete a credential first to shut it out.",
        Permission.CLUSTERS_WRITE, services.revoke_access, is_danger=True,
    ),
}  # fmt: skip


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_change(request: HttpRequest, actor: Actor, cluster_id: UUID, change_name: str) -> HttpResponse:
    """Show what a change would do, and make it when it is confirmed."""
    change = CHANGES[change_name]
    actor.require(change.permission)
    view = selectors.cluster(actor, cluster_id)
    form = ConfirmForm(request.POST or None, initial={"generation": view.row.spec_generation})
    if form.is_valid():
        act = partial(
            change.act, actor=actor, cluster_id=cluster_id, expected_generation=form.cleaned_data["generation"]
        )
        if attempt(form, act):
            return redirect("console:cluster", cluster_id)
        _renew_generation(form, view.row.spec_generation)
    preview, refusal = _rehearse(change.act, actor=actor, cluster_id=cluster_id)
    context = {"cluster": view, "change": change, "form": form, "preview": preview, "refusal": refusal}
    return render(request, "console/cluster_change.html", context, status=status_of(form))


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_delete(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """Delete a cluster: its name must be typed, and what happens stands there first."""
    actor.require(Permission.CLUSTERS_DELETE)
    view = selectors.cluster(actor, cluster_id)
    row = view.row
    form = DeletionForm(request.POST or None, initial={"generation": row.spec_generation}, expected_name=row.name)
    if form.is_valid():
        delete = partial(
            services.request_deletion, actor=actor, cluster_id=cluster_id,
            expected_generation=form.cleaned_data["generation"], purge=form.cleaned_data["purge"],
        )  # fmt: skip
        if attempt(form, delete):
            return redirect("console:cluster", cluster_id)
        _renew_generation(form, row.spec_generation)
    preview, refusal = _rehearse(services.request_deletion, actor=actor, cluster_id=cluster_id)
    kept_until = datetime.fromisoformat(preview.changes["delete_after"][1]) if preview else None
    context = {"cluster": view, "form": form, "preview": preview, "refusal": refusal, "kept_until": kept_until}
    return render(request, "console/cluster_delete.html", context, status=status_of(form))


def _cluster_form(request: HttpRequest) -> ClusterForm:
    return ClusterForm(
        request.POST or None, offer=selectors.catalogue(), licence_note=selectors.licence_note,
    )  # fmt: skip


def _licence_of(form: ClusterForm) -> str:
    """The sentence on the licence of the release that the form names."""
    choice = str(form["release"].value() or "")
    return form.licences.get(choice.partition("/")[2], "")


def _rehearse(change: Callable[..., Operation], **arguments: Any) -> tuple[services.Preview | None, str]:
    """The plan of a change, or the sentence why it would be refused."""
    try:
        return services.preview(change, **arguments), ""
    except NotFound:
        raise
    except ControlPlaneError as error:
        return None, error.message


def _renew_generation(form: ConfirmForm | ClusterSettingsForm, generation: int) -> None:
    """After a refusal the reader has seen the newest state, so the next try speaks of that."""
    form.data = {**form.data.dict(), "generation": str(generation)} if isinstance(form.data, QueryDict) else form.data


def _cluster_context(actor: Actor, cluster_id: UUID) -> dict[str, Any]:
    """Everything the cluster's page shows."""
    view = selectors.cluster(actor, cluster_id)
    history = selectors.operations_of(actor, parse_page("6", ""), cluster_id).items
    operation = history[0] if history and _is_news(history[0]) else None
    return {
        "cluster": view,
        "facts": facts_of(view.conditions),
        "operation": operation,
        "history": [entry for entry in history if entry is not operation],
        "poll_seconds": poll_seconds(operation),
        "offers": _offers(view, actor),
    }


def poll_seconds(operation: OperationView | None) -> int:
    """How soon an open page asks again: seldom while nothing moves, which is also so inside an undo window."""
    if operation is None or not operation.is_open:
        return RESTING_SECONDS
    current = next((step for step in operation.steps if step.state is StepState.RUNNING), None)
    is_resting = current is not None and current.kind is StepKind.UNDO_WINDOW
    return RESTING_SECONDS if is_resting else LIVE_SECONDS


def _is_news(operation: OperationView) -> bool:
    """Whether the newest operation still deserves the top of the page."""
    return operation.is_open or bool(operation.error_code)


def _offers(view: ClusterView, actor: Actor) -> frozenset[str]:
    """The changes that make sense now and that the actor may make."""
    lifecycle = Lifecycle(view.row.lifecycle)
    sensible = {
        Lifecycle.RUNNING: {"suspend", "revoke-access", "settings", "delete"},
        Lifecycle.SUSPENDED: {"resume", "revoke-access", "settings", "delete"},
        Lifecycle.DELETED: {"restore"} if view.phase is Phase.DELETION_SCHEDULED else set(),
    }[lifecycle]
    needs = {name: change.permission for name, change in CHANGES.items()} | {
        "settings": Permission.CLUSTERS_WRITE,
        "delete": Permission.CLUSTERS_DELETE,
    }
    return frozenset(name for name in sensible if needs[name] in actor.permissions)
