"""What can be had: regions, sizes, releases and channels, changed by operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import F, Model, QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from common.errors import Conflict
from provisioning.models import Channel, Cluster, PlanType, Region, Release
from provisioning.placement import KUBERNETES_CAP, minute
from provisioning.reconciler import LEASE_TTL
from provisioning.services import regions
from provisioning.states import RegionState
from tenants.admin import OperatorAdmin, operator_of


class CatalogueAdmin(OperatorAdmin):
    """A page of the catalogue: rows may be added and changed; their keys stay, because clusters point at them."""

    may_add = may_change = True
    fixed: tuple[str, ...] = ("slug",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What must not change under the clusters that use it."""
        return self.fixed if obj else ()


# The region's page about what is there shows so many at once.
DEPARTURES = 500


class StateFilter(admin.SimpleListFilter):
    """By what operators have said, and by whether it answers."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """The states, and silence."""
        return [*((state.value, state.value) for state in RegionState), ("silent", "does not answer")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Region]) -> QuerySet[Region]:
        """Those of one state."""
        rested = queryset.filter(maintenance_since=None)
        chosen = {
            "silent": queryset.filter(silent_since__isnull=False),
            RegionState.MAINTENANCE.value: queryset.filter(maintenance_since__isnull=False),
            RegionState.DRAINING.value: rested.filter(draining_since__isnull=False),
            RegionState.OPEN.value: rested.filter(draining_since=None, is_open=True),
            RegionState.CLOSED.value: rested.filter(draining_since=None, is_open=False),
        }
        return chosen.get(self.value() or "", queryset)


@admin.register(Region)
class RegionAdmin(CatalogueAdmin):
    """Places for clusters: how full each is, what was said of it, and whether it answers."""

    list_display = ("name", "slug", "backend", "state", "fill", "last_answer", "labels", "domain")
    list_filter = (StateFilter, "backend")
    fixed = ("slug", "backend", "domain")
    _acts: ClassVar[dict[str, tuple[Callable[..., Region], str]]] = {
        "begin-maintenance": (
            regions.begin_maintenance,
            "{} is in maintenance. Turns that were begun before come to their end within {:.0f} s; see below.",
        ),
        "end-maintenance": (regions.end_maintenance, "The maintenance of {} is over: what has waited goes on."),
        "begin-draining": (regions.begin_draining, "{} takes no new clusters. See how those that are there can leave."),
        "end-draining": (
            regions.end_draining,
            "{} is not being emptied any more. It is open or closed as it was before.",
        ),
    }

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What is seen of a region is for nobody to write."""
        return (*super().get_readonly_fields(request, obj), *(("state", "fill", "last_answer") if obj else ()))

    def get_urls(self) -> list[URLPattern]:
        """The acts and the page about what is there, before the catch-all of the row's own page."""
        wrap = self.admin_site.admin_view
        return [
            path("<slug:slug>/departures/", wrap(self.show_departures), name="provisioning_region_departures"),
            path("<slug:slug>/act/<slug:name>/", wrap(require_POST(self.act)), name="provisioning_region_act"),
            *super().get_urls(),
        ]

    def save_model(self, request: HttpRequest, obj: Model, form: ModelForm[Any], change: bool) -> None:
        """A new Kubernetes region of which nobody has said how much it holds gets what one is good for."""
        assert isinstance(obj, Region)
        if not change and obj.backend == "kubernetes" and obj.max_clusters is None:
            obj.max_clusters = KUBERNETES_CAP
        super().save_model(request, obj, form, change)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With how many turns are under way that were begun before the maintenance."""
        begun_before = Cluster.objects.under_way().filter(claimed_at__lt=F("region__maintenance_since"))
        under_way = begun_before.filter(region_id=object_id).count()
        return super().change_view(request, object_id, form_url, (extra_context or {}) | {"under_way": under_way})

    def act(self, request: HttpRequest, slug: str, name: str) -> HttpResponse:
        """Begin or end maintenance or draining."""
        if name not in self._acts or not Region.objects.filter(pk=slug).exists():
            raise Http404
        change, sentence = self._acts[name]
        note = {"note": request.POST.get("note", "")} if name == "begin-maintenance" else {}
        try:
            region = change(actor=operator_of(request), slug=slug, **note)
        except Conflict as error:
            messages.info(request, error.message)
        else:
            messages.success(request, sentence.format(region.name, LEASE_TTL.total_seconds()))
        return redirect("admin:provisioning_region_change", slug)

    def show_departures(self, request: HttpRequest, slug: str) -> HttpResponse:
        """What is in a region, and how each cluster can leave."""
        region = Region.objects.filter(pk=slug).first()
        if region is None:
            raise Http404
        context = self.admin_site.each_context(request) | {
            "title": f"What is in {region.name}",
            "region": region,
            "departures": regions.departures(region, DEPARTURES),
        }
        return TemplateResponse(request, "admin/provisioning/region/departures.html", context)

    @admin.display(ordering="is_open")
    def state(self, region: Region) -> str:
        """The one word, and since when."""
        since = region.maintenance_since or region.draining_since
        return f"{region.state} since {minute(since)}" if since else region.state.value

    @admin.display(description="clusters", ordering="placed")
    def fill(self, region: Region) -> str:
        """How many are there, of how many that may be."""
        if region.max_clusters is None:
            return f"{region.placed}"
        return f"{region.placed} of {region.max_clusters} ({100 * region.placed // max(region.max_clusters, 1)} %)"

    @admin.display(ordering="answered_at")
    def last_answer(self, region: Region) -> str:
        """When it answered the clock, or since when it does not, and why."""
        if region.silent_since is not None:
            return f"None since {minute(region.silent_since)}. {region.silence}"
        return minute(region.answered_at) if region.answered_at else "Not asked yet"


@admin.register(PlanType)
class PlanTypeAdmin(CatalogueAdmin):
    """Sizes of clusters."""

    list_display = (
        "name", "slug", "brokers", "partitions", "memory_mib", "heap_mib", "disk_mib", "gateway", "is_offered",
    )  # fmt: skip
    list_filter = ("is_offered", "gateway")
    fixed = ("slug", "brokers", "partitions", "replication_factor", "gateway")


@admin.register(Release)
class ReleaseAdmin(CatalogueAdmin):
    """Engine releases."""

    list_display = ("version", "licence", "serves_rest", "upgrades_from", "rolls_from", "coordinates", "is_offered")
    list_filter = ("is_offered", "licence")
    fixed = ("version", "coordinates", "sha256", "main_class", "restore_class")


@admin.register(Channel)
class ChannelAdmin(CatalogueAdmin):
    """Lines of releases."""

    list_display = ("name", "slug", "default_release")
    list_select_related = ("default_release",)
    filter_horizontal = ("releases",)
