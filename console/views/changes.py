"""Changes of a cluster that are shown as a plan before they are made: plain ones, and those that need a word first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from console.forms import ChoiceForm, ConfirmForm, ResizeForm, UpgradeForm, size_label
from console.views.doors import attempt, foresee, organization_page, renew_generation, status_of
from provisioning import selectors, services
from provisioning.selectors import ClusterView
from tenants.actor import Actor
from tenants.roles import Permission

if TYPE_CHECKING:
    from provisioning.models import Operation


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
        renew_generation(form, view.row.spec_generation)
    preview, refusal = foresee(change.act, actor=actor, cluster_id=cluster_id)
    context = {"cluster": view, "change": change, "form": form, "preview": preview, "refusal": refusal}
    return render(request, "console/cluster_change.html", context, status=status_of(form))


@dataclass(frozen=True, slots=True)
class Choice(Change):
    """A change that needs a word first: what there is to choose, and what to say when that is nothing."""

    form: type[ChoiceForm] = ChoiceForm
    choices: Callable[[ClusterView], Iterable[tuple[str, str]]] = lambda _view: ()
    none: str = ""


def _sizes(view: ClusterView) -> Iterable[tuple[str, str]]:
    return [(row.slug, size_label(row)) for row in selectors.sizes_for(view.row)]


def _releases(view: ClusterView) -> Iterable[tuple[str, str]]:
    return [(version, f"Zeebe {version}") for version in view.upgrades]


CHOICES = {
    "resize": Choice(
        "Resize", "Resize the cluster",
        "Partitions and their copies were fixed when the cluster was created; its brokers and their memory can change. "
        "The engine itself takes brokers in and lets them go, without an interruption.",
        Permission.CLUSTERS_WRITE, services.resize_cluster,
        form=ResizeForm, choices=_sizes,
        none="No other size on offer has this cluster’s partitions and copies. Start a new cluster on a backup of this "
        "one, which may have other copies, or create one of the size you need and move your processes to it.",
    ),
    "upgrade": Choice(
        "Upgrade", "Upgrade the cluster",
        "The cluster moves to a later release of the engine. Processes, instances and credentials stay.",
        Permission.CLUSTERS_WRITE, services.upgrade_cluster,
        form=UpgradeForm, choices=_releases,
        none="No release on this cluster’s channel can follow its own now.",
    ),
}  # fmt: skip


@require_http_methods(["GET", "POST"])
@organization_page
def cluster_choice(request: HttpRequest, actor: Actor, cluster_id: UUID, choice_name: str) -> HttpResponse:
    """Ask for the word, show what would happen, and make the change when it is confirmed."""
    choice = CHOICES[choice_name]
    view, form = _asked(request, actor, cluster_id, choice)
    if form.is_valid() and "foresee" not in request.POST:
        generation = form.cleaned_data["generation"]
        act = partial(choice.act, actor=actor, cluster_id=cluster_id, expected_generation=generation, **form.wish())
        if attempt(form, act):
            return redirect("console:cluster", cluster_id)
        renew_generation(form, view.row.spec_generation)
    context = {"cluster": view, "choice": choice, "name": choice_name, "form": form}
    context |= _foreseen(choice, actor, cluster_id, form)
    return render(request, "console/cluster_choice.html", context, status=status_of(form))


@require_POST
@organization_page
def cluster_choice_plan(request: HttpRequest, actor: Actor, cluster_id: UUID, choice_name: str) -> HttpResponse:
    """What the change would do; a fragment that follows the form."""
    choice = CHOICES[choice_name]
    view, form = _asked(request, actor, cluster_id, choice)
    form.is_valid()
    context = {"cluster": view, **_foreseen(choice, actor, cluster_id, form)}
    return render(request, "console/parts/choice_plan.html", context)


def _asked(request: HttpRequest, actor: Actor, cluster_id: UUID, choice: Choice) -> tuple[ClusterView, ChoiceForm]:
    actor.require(choice.permission)
    view = selectors.cluster(actor, cluster_id)
    initial = {"generation": view.row.spec_generation}
    return view, choice.form(request.POST or None, initial=initial, choices=choice.choices(view))


def _foreseen(choice: Choice, actor: Actor, cluster_id: UUID, form: ChoiceForm) -> dict[str, Any]:
    """The plan of what is chosen, or the sentence why it would be refused."""
    if not form.choices or (form.is_bound and form.errors):
        return {"preview": None, "refusal": ""}
    preview, refusal = foresee(choice.act, actor=actor, cluster_id=cluster_id, **form.wish())
    return {"preview": preview, "refusal": refusal}
