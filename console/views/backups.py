"""Backups: a cluster's and the organization's, what each is worth, and what can be done with it."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import ControlPlaneError, NotFound
from console.forms import RestoreForm, ScheduleForm
from console.views.doors import act_and_return, attempt, foresee, organization_page, renew_generation, status_of
from provisioning import selectors, services
from provisioning.selectors import BackupView, ClusterView
from provisioning.spec import Lifecycle
from tenants.actor import Actor
from tenants.paging import parse_page
from tenants.roles import Permission


@require_GET
@organization_page
def backup_list(request: HttpRequest, actor: Actor) -> HttpResponse:
    """All backups of the organization, those of clusters that are gone among them."""
    context = _listed(request, actor) | {"with_cluster": True, "rows_url": reverse("console:backups")}
    template = "console/parts/backup_rows.html" if "rows" in request.GET else "console/backups.html"
    return render(request, template, context)


@require_GET
@organization_page
def cluster_backups(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """One cluster's backups, what the last drill measured, and the schedule."""
    view = selectors.cluster(actor, cluster_id)
    context = _listed(request, actor, cluster_id) | {"rows_url": reverse("console:cluster_backups", args=[cluster_id])}
    if "rows" in request.GET:
        return render(request, "console/parts/backup_rows.html", context)
    return render(request, "console/cluster_backups.html", context | _cluster_context(view, actor, _schedule(view)))


@require_POST
@organization_page
def cluster_back_up(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """Take one now."""
    selectors.cluster(actor, cluster_id)
    take = partial(services.back_up_cluster, actor=actor, cluster_id=cluster_id)
    success = "The backup is being taken. The engine goes on serving meanwhile."
    return act_and_return(request, take, success, "console:cluster_backups", cluster_id)


@require_POST
@organization_page
def cluster_schedule(request: HttpRequest, actor: Actor, cluster_id: UUID) -> HttpResponse:
    """Set when backups and drills come round by themselves."""
    actor.require(Permission.CLUSTERS_WRITE)
    view = selectors.cluster(actor, cluster_id)
    form = _schedule(view, request)
    if form.is_valid():
        wish = dict(form.cleaned_data)
        generation = wish.pop("generation")
        change = partial(
            services.update_cluster, actor=actor, cluster_id=cluster_id, expected_generation=generation, **wish
        )
        if attempt(form, change):
            messages.success(request, "Saved.")
            return redirect("console:cluster_backups", cluster_id)
        renew_generation(form, view.row.spec_generation)
    context = _listed(request, actor, cluster_id) | {"rows_url": reverse("console:cluster_backups", args=[cluster_id])}
    context |= _cluster_context(view, actor, form)
    return render(request, "console/cluster_backups.html", context, status=status_of(form))


@require_GET
@organization_page
def backup_page(request: HttpRequest, actor: Actor, backup_id: UUID) -> HttpResponse:
    """One backup, and what can be done with it."""
    return render(request, "console/backup.html", _backup_context(actor, backup_id))


@require_GET
@organization_page
def backup_live(request: HttpRequest, actor: Actor, backup_id: UUID) -> HttpResponse:
    """The moving part of a backup's page."""
    return render(request, "console/parts/backup_live.html", _backup_context(actor, backup_id))


@require_POST
@organization_page
def backup_drill(request: HttpRequest, actor: Actor, backup_id: UUID) -> HttpResponse:
    """Prove it, and show how that goes."""
    selectors.backup(actor, backup_id)
    try:
        operation = services.drill_backup(actor=actor, backup_id=backup_id)
    except NotFound:
        raise
    except ControlPlaneError as error:
        messages.error(request, error.message)
        return redirect("console:backup", backup_id)
    return redirect("console:operation", operation.pk)


@require_http_methods(["GET", "POST"])
@organization_page
def backup_restore(request: HttpRequest, actor: Actor, backup_id: UUID) -> HttpResponse:
    """Put it in place of its own cluster's data: the name must be typed, and the plan stands there first."""
    actor.require(Permission.CLUSTERS_DELETE)
    backup = selectors.backup(actor, backup_id)
    view = selectors.cluster(actor, backup.row.cluster_id)
    row = view.row
    form = RestoreForm(request.POST or None, initial={"generation": row.spec_generation}, expected_name=row.name)
    named: dict[str, Any] = {"actor": actor, "cluster_id": row.pk, "backup_id": backup_id}
    if form.is_valid():
        restore = partial(services.restore_backup, expected_generation=form.cleaned_data["generation"], **named)
        if attempt(form, restore):
            return redirect("console:cluster", row.pk)
        renew_generation(form, row.spec_generation)
    preview, refusal = foresee(services.restore_backup, **named)
    context = {"backup": backup, "cluster": view, "form": form, "preview": preview, "refusal": refusal}
    return render(request, "console/backup_restore.html", context, status=status_of(form))


@require_http_methods(["GET", "POST"])
@organization_page
def backup_delete(request: HttpRequest, actor: Actor, backup_id: UUID) -> HttpResponse:
    """Remove it from the store, after asking."""
    actor.require(Permission.CLUSTERS_DELETE)
    backup = selectors.backup(actor, backup_id)
    if request.method == "GET":
        return render(request, "console/backup_delete.html", {"backup": backup})
    delete = partial(services.delete_backup, actor=actor, backup_id=backup_id)
    return act_and_return(request, delete, "The backup is being removed from the store.", "console:backup", backup_id)


def _listed(request: HttpRequest, actor: Actor, cluster_id: UUID | None = None) -> dict[str, Any]:
    page = parse_page("20", request.GET.get("cursor", ""))
    found = selectors.backups_of(actor, page, cluster_id)
    return {
        "backups": found.items,
        "next_cursor": found.next_cursor,
        # A later page is history: it does not ask again.
        "is_moving": not page.cursor and any(backup.is_moving for backup in found.items),
    }


def _schedule(view: ClusterView, request: HttpRequest | None = None) -> ScheduleForm:
    row = view.row
    names = ("backup_every_hours", "backups_kept", "drill_every_days")
    initial = {name: getattr(row, name) for name in names} | {"generation": row.spec_generation}
    return ScheduleForm(request.POST if request else None, initial=initial)


def _cluster_context(view: ClusterView, actor: Actor, form: ScheduleForm) -> dict[str, Any]:
    is_open = view.row.lifecycle != Lifecycle.DELETED and view.row.drill_of_id is None
    may_write = is_open and Permission.CLUSTERS_WRITE in actor.permissions
    return {"cluster": view, "form": form if may_write else None, "may_take": may_write and view.is_available}


def _backup_context(actor: Actor, backup_id: UUID) -> dict[str, Any]:
    view = selectors.backup(actor, backup_id)
    return {"backup": view, "offers": _offers(view, actor)}


def _offers(view: BackupView, actor: Actor) -> frozenset[str]:
    """What makes sense now and the actor may do."""
    may_write = Permission.CLUSTERS_WRITE in actor.permissions
    may_delete = Permission.CLUSTERS_DELETE in actor.permissions
    sensible = {
        "drill": view.is_usable and view.drill_id is None and may_write,
        "copy": view.is_usable and may_write,
        "restore": view.is_usable and may_delete and view.row.cluster.lifecycle != Lifecycle.DELETED,
        "delete": view.is_deletable and may_delete,
    }
    return frozenset(name for name, holds in sensible.items() if holds)
