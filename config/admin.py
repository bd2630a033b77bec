"""The operator site: one admin site on which our own apps register their rows, and nobody else does."""

from __future__ import annotations

from importlib import import_module

from django.contrib.admin.apps import SimpleAdminConfig

# Not "whatever is installed": a third party's page may show what must never be rendered, such as second factors.
_REGISTERING = ("tenants.admin", "billing.admin", "provisioning.admin")


class OperatorAdminConfig(SimpleAdminConfig):
    """Django's admin, with our site as the default one."""

    default_site = "config.operator_site.OperatorSite"

    def ready(self) -> None:
        """Load what our apps registered."""
        super().ready()
        for module in _REGISTERING:
            import_module(module)
