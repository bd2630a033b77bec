"""The operator site's pages about plans and who is on which."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from billing.models import Plan, Subscription
from tenants.admin import OperatorAdmin


@admin.register(Plan)
class PlanAdmin(OperatorAdmin):
    """What organizations may have."""

    list_display = ("name", "slug", "max_clusters", "max_members", "max_credentials_per_cluster")
    ordering = ("max_clusters",)
    may_add = may_change = True

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> tuple[str, ...]:
        """The key stays: rows point at it."""
        return ("slug",) if obj else ()


@admin.register(Subscription)
class SubscriptionAdmin(OperatorAdmin):
    """An organization without a row here is on the free plan."""

    list_display = ("organization", "plan", "created_at")
    list_filter = ("plan",)
    list_select_related = ("organization", "plan")
    search_fields = ("organization__name",)
    autocomplete_fields = ("organization",)
    may_add = may_change = may_delete = True

    def get_readonly_fields(self, request: HttpRequest, obj: Subscription | None = None) -> tuple[str, ...]:
        """A subscription does not move to another organization."""
        return ("organization", "created_at") if obj else ("created_at",)
