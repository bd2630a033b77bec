"""Addresses at the root of the host that programs ask for tokens and keys."""

from __future__ import annotations

from django.urls import path

from tenants.api.token_views import JwksView, TokenView

urlpatterns = [
    path("oauth/token", TokenView.as_view(), name="token"),
    path(".well-known/jwks.json", JwksView.as_view(), name="jwks"),
]
