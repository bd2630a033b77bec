"""What can be had: regions, sizes, releases and channels, changed by operators."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from provisioning.models import Channel, PlanType, Region, Release
from tenants.admin import OperatorAdmin


class CatalogueAdmin(OperatorAdmin):
    """A page of the catalogue: rows may be added and changed; their keys stay, because clusters point at them."""

    may_add = may_change = True
    fixed: tuple[str, ...] = ("slug",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What must not change under the clusters that use it."""
        return self.fixed if obj else ()


@admin.register(Region)
class RegionAdmin(CatalogueAdmin):
    """Places for clusters."""

    list_display = ("name", "slug", "backend", "domain", "is_open")
    list_filter = ("is_open", "backend")
    fixed = ("slug", "backend", "domain")


@admin.register(PlanType)
class PlanTypeAdmin(CatalogueAdmin):
    """Sizes of clusters."""

    list_display = ("name", "slug", "brokers", "partitions", "memory_mib", "heap_mib", "disk_mib", "is_offered")
    list_filter = ("is_offered",)
    fixed = ("slug", "brokers", "partitions", "replication_factor")


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
