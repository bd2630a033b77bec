"""Clusters: the list, making one, its page with live progress, its settings, and deleting it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import NotFound
from console.forms import ClusterForm, ClusterSettingsForm, DeletionForm
from console.views.changes import CHANGES, CHOICES
from console.views.doors import attempt, foresee, organization_page, renew_generation, status_of
from console.words import facts_of
from provisioning import selectors, services
from provisioning.selectors import BackupView, ClusterView, OperationView
from provisioning.spec import Lifecycle
from provisioning.states import Phase, StepKind, StepState
from tenants.actor import Actor
from tenants.paging import parse_page
from tenants.roles import Permission

# How often an open page asks again: often enough to watch while something moves, rarely while all is at rest.
LIVE_SECONDS = 1
RESTING_SECONDS = 10


@require_GET
@organization_page
def cluster_list(request: HttpRequest, actor: Actor) -> HttpResponse:
    """All clusters of the organization."""
    found = selectors.clusters_of(actor, parse_page("", request.GET.get("cursor", "")))
    is_moving = any(view.current_operation_id for view in found.items)
    regions = {view.row.region_id: view.row.region for view in found.items}
    context = {
        "clusters": found.items,
        "next_cursor": found.next_cursor,
        "is_moving": is_moving,
        "regions": [region for _, region in sorted(regions.items())],
    }
    template = "console/parts/cluster_rows.html" if "rows" in request.GET else "console/clusters.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_new(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Ask for a cluster; the button “Show the plan” foresees it without scripts."""
    actor.require(Permission.CLUSTERS_WRITE)
    backup = _named_backup(request, actor)
    form = _cluster_form(request, backup)
    preview = None
    if form.is_valid():
        if "foresee" in request.POST:
            trial = partial(services.preview, services.create_cluster, actor=actor, request=form.request())
            preview = attempt(form, trial)
        else:
            operation = attempt(form, partial(services.create_cluster, actor=actor, request=form.request()))
            if operation:
                return redirect("console:cluster", operation.cluster_id)
    context = {"form": form, "backup": backup, "preview": preview, "licence": _licence_of(form)}
    return render(request, "console/cluster_new.html", context, status=status_of(form))


@require_POST
@organization_page
def cluster_plan(request: HttpRequest, actor: Actor) -> HttpResponse:
    """What creating this cluster would do; a fragment that follows the form while it is filled in."""
    form = _cluster_form(request, _named_backup(request, actor))
    preview, refusal = None, ""
    if form.is_valid():
        preview, refusal = foresee(services.create_cluster, actor=actor, request=form.request())
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
        renew_generation(form, row.spec_generation)
    context = {"form": form, "cluster": view}
    return render(request, "console/cluster_settings.html", context, status=status_of(form))


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
        renew_generation(form, row.spec_generation)
    preview, refusal = foresee(services.request_deletion, actor=actor, cluster_id=cluster_id)
    kept_until = datetime.fromisoformat(preview.changes["delete_after"][1]) if preview else None
    context = {"cluster": view, "form": form, "preview": preview, "refusal": refusal, "kept_until": kept_until}
    return render(request, "console/cluster_delete.html", context, status=status_of(form))


def _named_backup(request: HttpRequest, actor: Actor) -> BackupView | None:
    """The backup that a new cluster is to start on, named in the address at first and in the form afterwards."""
    named = request.POST.get("from_backup") or request.GET.get("from_backup")
    if not named:
        return None
    try:
        return selectors.backup(actor, UUID(named))
    except ValueError as error:
        raise NotFound("There is no such backup in this organization.") from error


def _cluster_form(request: HttpRequest, backup: BackupView | None) -> ClusterForm:
    return ClusterForm(
        request.POST or None, offer=selectors.catalogue(), licence_note=selectors.licence_note, backup=backup
    )


def _licence_of(form: ClusterForm) -> str:
    """The sentence on the licence of the release that the form names."""
    choice = str(form["release"].value() or "")
    return form.licences.get(choice.partition("/")[2], "")


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
    """The changes that make sense now and that the actor may make. One query."""
    row, lifecycle = view.row, Lifecycle(view.row.lifecycle)
    if row.drill_of_id is not None:
        return frozenset()
    sensible = {
        Lifecycle.RUNNING: {"suspend", "revoke-access", "resize", "settings", "delete"},
        Lifecycle.SUSPENDED: {"resume", "revoke-access", "resize", "settings", "delete"},
        Lifecycle.DELETED: {"restore"} if view.phase is Phase.DELETION_SCHEDULED else set(),
    }[lifecycle]
    if row.is_on_trial or row.former_release_id is not None:
        sensible -= {"suspend", "resume", "revoke-access", "resize"}
    if view.upgrades and view.is_available and lifecycle is Lifecycle.RUNNING:
        sensible.add("upgrade")
    if "resize" in sensible and not selectors.sizes_for(row):
        sensible.remove("resize")
    needs = {name: change.permission for name, change in (CHANGES | CHOICES).items()} | {
        "settings": Permission.CLUSTERS_WRITE,
        "delete": Permission.CLUSTERS_DELETE,
    }
    return frozenset(name for name in sensible if needs[name] in actor.permissions)
