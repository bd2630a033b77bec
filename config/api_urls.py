"""Everything under /api/v1/: each app lists its own addresses."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularJSONAPIView

from billing.entitlements import plan_of
from tenants.api.urls import routes

urlpatterns = [
    *routes(plan_of=plan_of),
    path("", include("provisioning.api.urls")),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
]
