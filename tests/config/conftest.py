"""The pretended region, for tests of the doors."""

from __future__ import annotations

from tests.provisioning.conftest import region

__all__ = ["region"]
