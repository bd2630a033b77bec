"""What our REST door is compared with: the same rows behind bare views of REST framework, as lean as they can be.

The same authentication and the same table; no services, no permissions of a role, no operation, no audit event, no
wake-up, and nothing in the answer that is not a column of the row.
"""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.urls import path
from rest_framework import generics, serializers
from rest_framework.pagination import PageNumberPagination

from config.urls import urlpatterns as ours
from provisioning.models import Cluster, PlanType, Region, Release
from tenants.api.base import actor_in
from tenants.models import Audience

PAGE_ROWS = 50


class BareCluster(serializers.ModelSerializer[Cluster]):
    """The columns that our answer shows, too; of these the first six are chosen by the caller."""

    region = serializers.PrimaryKeyRelatedField(queryset=Region.objects.filter(is_open=True))
    plan_type = serializers.PrimaryKeyRelatedField(queryset=PlanType.objects.filter(is_offered=True))
    release = serializers.PrimaryKeyRelatedField(queryset=Release.objects.filter(is_offered=True))

    class Meta:
        model = Cluster
        chosen = ("name", "stage", "region", "plan_type", "channel", "release")
        read_only_fields = (
            "id",
            "partitions",
            "lifecycle",
            "is_protected",
            "delete_after",
            "spec_generation",
            "observed_generation",
            "conditions",
            "endpoint_grpc",
            "endpoint_rest",
            "backup_every_hours",
            "backups_kept",
            "drill_every_days",
            "backup_due_at",
            "drill_due_at",
            "data_source",
            "drill_of",
            "created_at",
        )
        fields = (*chosen, *read_only_fields)


class Numbered(PageNumberPagination):
    """Pages by number: a count, and an offset."""

    page_size = PAGE_ROWS


class BareView(generics.GenericAPIView[Cluster]):
    """What both views below share: the organization's rows."""

    serializer_class = BareCluster

    def get_queryset(self) -> QuerySet[Cluster]:
        """The organization's clusters, newest first."""
        rows = Cluster.objects.filter(organization_id=actor_in(self.request).organization, deleted_at=None)
        return rows.order_by("-created_at", "-pk")


class BareClusters(BareView, generics.ListCreateAPIView[Cluster]):
    """A list by page number, and a creation that writes the row and the audience it cannot be without."""

    pagination_class = Numbered

    def perform_create(self, serializer: serializers.BaseSerializer[Cluster]) -> None:
        """Two rows."""
        place: dict[str, Any] = {"organization_id": actor_in(self.request).organization}
        chosen: dict[str, Any] = serializer.validated_data
        serializer.save(audience=Audience.objects.create(**place), partitions=chosen["plan_type"].partitions, **place)


class BareClusterView(BareView, generics.RetrieveAPIView[Cluster]):
    """One row."""


urlpatterns = [
    *ours,
    path("bare/clusters", BareClusters.as_view()),
    path("bare/clusters/<uuid:pk>", BareClusterView.as_view()),
]
