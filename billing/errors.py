"""What can go wrong when a plan is asked."""

from __future__ import annotations

from common.errors import EntitlementExceeded


class LimitReached(EntitlementExceeded):
    """The plan's limit is used up; `limit` and `used` are in the details."""
