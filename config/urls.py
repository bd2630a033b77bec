"""Every address the web process answers."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from config import health

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("api/v1/", include("config.api_urls")),
    path("", include("tenants.api.token_urls")),
    path("operator/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    path("", include("console.urls")),
]

handler400 = "config.problems.on_400"
handler403 = "config.problems.on_403"
handler404 = "config.problems.on_404"
handler500 = "config.problems.on_500"
