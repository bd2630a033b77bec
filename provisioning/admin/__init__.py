"""The operator site's pages about clusters, backups, what is left over, and the catalogue."""

from __future__ import annotations

from provisioning.admin import catalogue, clusters, ledger

__all__ = ["catalogue", "clusters", "ledger"]
