"""Clusters, their operations and their backups: looked at by operators, changed by their owners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from common.errors import Temporary
from provisioning import conditions, planner, reconciler, selectors, wakeups
from provisioning.models import Backup, Cluster, Operation, OperationStep
from provisioning.services import installation
from provisioning.spec import DesiredCluster
from provisioning.states import STEP_TITLES, ConditionType, Hold, Phase, Truth
from tenants import audit
from tenants.admin import OperatorAdmin, ReadOnlyInline, operator_of

# Never rendered: a licence key is the operator's own secret.
_HIDDEN_WISHES = ("license_key",)


class ConditionFilter(admin.SimpleListFilter):
    """Clusters by one condition's status."""

    condition: ConditionType

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """The three truth values."""
        return [(truth.value, truth.value) for truth in Truth]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> QuerySet[Cluster]:
        """Those whose condition has the chosen status."""
        if not self.value():
            return queryset
        return queryset.filter(conditions__contains=[{"type": self.condition.value, "status": self.value()}])


class AvailableFilter(ConditionFilter):
    """By whether the engine says it is healthy."""

    title = "available"
    parameter_name = "available"
    condition = ConditionType.AVAILABLE


class StalledFilter(ConditionFilter):
    """By whether a person has to act."""

    title = "stalled"
    parameter_name = "stalled"
    condition = ConditionType.STALLED


class GoneFilter(admin.SimpleListFilter):
    """Tombstones are kept for history, and out of sight."""

    title = "gone"
    parameter_name = "gone"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Only the exception needs a name."""
        return [("yes", "Only clusters that are gone")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> QuerySet[Cluster]:
        """Those that are gone, or (by default) those that are not; one object's own page finds both."""
        if "/change/" in request.path:
            return queryset
        return queryset.exclude(deleted_at=None) if self.value() else queryset.filter(deleted_at=None)


class HoldFilter(admin.SimpleListFilter):
    """By what keeps the loop from acting."""

    title = "hold"
    parameter_name = "hold"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Any hold, or one of them."""
        return [("any", "Any hold"), *((hold.value, hold.value) for hold in Hold if hold)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> QuerySet[Cluster]:
        """Those that are held."""
        if not self.value():
            return queryset
        return queryset.exclude(hold="") if self.value() == "any" else queryset.filter(hold=self.value())


@admin.register(Cluster)
class ClusterAdmin(OperatorAdmin):
    """Engine clusters: looked at here, changed by their owners; an operator can see the plan and wake the loop."""

    list_display = ("name", "organization", "phase", "facts", "hold", "region", "release", "generations", "due_at")
    list_filter = (
        "lifecycle",
        AvailableFilter,
        StalledFilter,
        HoldFilter,
        "is_on_trial",
        ("drill_of", admin.EmptyFieldListFilter),
        "region",
        "release",
        "stage",
        GoneFilter,
    )
    search_fields = ("name", "id", "organization__name")
    list_select_related = ("organization", "region", "plan_type", "release")
    ordering = ("-created_at",)
    readonly_fields = ("id", "created_at", "phase", "condition_table", "generations")
    fieldsets = (
        (None, {"fields": ("id", "organization", "name", "phase", "condition_table")}),
        (
            "Wished",
            {"fields": ("lifecycle", "stage", "region", "plan_type", "channel", "release", "partitions")},
        ),
        (
            "On trial, and where its data came from",
            {"fields": ("former_release", "is_on_trial", "trial_ends_at", "data_epoch", "data_source", "drill_of")},
        ),
        (
            "Backups and drills",
            {
                "fields": (
                    "backup_every_hours",
                    "backups_kept",
                    "backup_due_at",
                    "drill_every_days",
                    "drill_due_at",
                )
            },
        ),
        ("Deletion", {"fields": ("is_protected", "delete_after", "deleted_at")}),
        ("Seen", {"fields": ("generations", "seen_at", "was_healthy", "endpoint_grpc", "endpoint_rest")}),
        (
            "The loop",
            {
                "fields": (
                    "hold",
                    "due_at",
                    "claimed_at",
                    "lease_epoch",
                    "lease_expires_at",
                    "deaths",
                    "failures",
                    "start_attempts",
                    "start_after",
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Cluster]:
        """With what the phase is derived from."""
        rows: QuerySet[Cluster] = super().get_queryset(request)
        return selectors.with_operation(rows)

    def get_urls(self) -> list[URLPattern]:
        """The object's actions, before the catch-all of the object's own page."""
        wrap = self.admin_site.admin_view
        return [
            path("<uuid:cluster_id>/plan/", wrap(self.show_plan), name="provisioning_cluster_plan"),
            path(
                "<uuid:cluster_id>/reconcile/",
                wrap(require_POST(self.reconcile_now)),
                name="provisioning_cluster_reconcile",
            ),
            path(
                "<uuid:cluster_id>/release/",
                wrap(require_POST(self.release_hold)),
                name="provisioning_cluster_release",
            ),
            *super().get_urls(),
        ]

    @admin.display
    def phase(self, row: Cluster) -> Phase:
        """The one word for people."""
        return selectors.phase_of(row)

    @admin.display(description="conditions")
    def facts(self, row: Cluster) -> str:
        """The conditions that hold, and those that should and do not."""
        held = {fact.type: fact.status for fact in conditions.from_json(row.conditions)}
        shown = (ConditionType.AVAILABLE, ConditionType.UP_TO_DATE, ConditionType.STALLED)
        return ", ".join(f"{kind} {held[kind]}" for kind in shown if kind in held) or "never seen"

    @admin.display(description="seen / wished")
    def generations(self, row: Cluster) -> str:
        """How far the sight is behind the wish."""
        return f"{row.observed_generation} / {row.spec_generation}"

    @admin.display(description="conditions")
    def condition_table(self, row: Cluster) -> SafeString:
        """All conditions with their reasons."""
        facts = conditions.from_json(row.conditions)
        lines = format_html_join(
            "",
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            ((f.type, f.status, f.reason, f.message, f.last_transition_at) for f in facts),
        )
        return format_html("<table>{}</table>", lines)

    def show_plan(self, request: HttpRequest, cluster_id: UUID) -> HttpResponse:
        """What a turn would do now, without doing it. Calls the region."""
        row = self._row(cluster_id)
        context = self.admin_site.each_context(request) | {"title": f"Plan of {row.name}", "cluster": row}
        try:
            subject, observed, action = reconciler.show_plan(cluster_id)
        except Temporary as error:
            return TemplateResponse(
                request, "admin/provisioning/cluster/plan.html", context | {"refusal": error.message}
            )
        context |= {
            "next_action": STEP_TITLES[action.step] if action else "",
            "steps": [STEP_TITLES[step] for step in planner.foresee(subject.desired, observed)],
            "tables": [("Wished", _wished(subject.desired)), ("Seen", sorted(asdict(observed).items()))],
        }
        return TemplateResponse(request, "admin/provisioning/cluster/plan.html", context)

    def reconcile_now(self, request: HttpRequest, cluster_id: UUID) -> HttpResponse:
        """Make the cluster due; the loop does the rest."""
        row = self._row(cluster_id)
        wakeups.wake(cluster_id, is_by_hand=True)
        audit.record(operator_of(request), action="operator.cluster.woken", target=row)
        messages.success(request, f"{row.name} is due now. A worker takes its turn within seconds.")
        return redirect("admin:provisioning_cluster_change", cluster_id)

    def release_hold(self, request: HttpRequest, cluster_id: UUID) -> HttpResponse:
        """Say that somebody has looked: what is wished of the cluster is done from here on."""
        row = self._row(cluster_id)
        if row.hold:
            installation.release_hold(actor=operator_of(request), cluster=row)
            messages.success(request, f"{row.name} is not held any more. A worker takes its turn within seconds.")
        else:
            messages.info(request, f"{row.name} was not held.")
        return redirect("admin:provisioning_cluster_change", cluster_id)

    def _row(self, cluster_id: UUID) -> Cluster:
        row = Cluster.objects.filter(pk=cluster_id).first()
        if row is None:
            raise Http404
        return row


def _wished(desired: DesiredCluster) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in asdict(desired).items() if name not in _HIDDEN_WISHES)


class StepInline(ReadOnlyInline):
    """An operation's steps."""

    model = OperationStep
    fields = readonly_fields = ("position", "kind", "state", "waits_for", "attempts", "started_at", "finished_at")


@admin.register(Operation)
class OperationAdmin(OperatorAdmin):
    """What was asked for, and how it went."""

    list_display = (
        "kind",
        "cluster",
        "organization",
        "state",
        "actor_label",
        "created_at",
        "finished_at",
        "error_code",
    )
    list_filter = ("state", "kind", "error_code")
    search_fields = ("id", "cluster__name", "cluster__id", "organization__name")
    list_select_related = ("cluster", "organization")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    inlines = (StepInline,)


@admin.register(Backup)
class BackupAdmin(OperatorAdmin):
    """What is known of backups; what they hold lies in the regions' stores."""

    list_display = (
        "number",
        "cluster",
        "organization",
        "state",
        "reason",
        "release",
        "created_at",
        "finished_at",
        "verified_at",
        "recovery_seconds",
        "loss_seconds",
    )
    list_filter = ("state", "reason", ("verified_at", admin.EmptyFieldListFilter), "cluster__region", "release")
    search_fields = ("id", "number", "cluster__name", "cluster__id", "organization__name")
    list_select_related = ("cluster", "organization", "release")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
