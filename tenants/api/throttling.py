"""How much of a web process one organization may have: requests of the REST door beyond that are told to come later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.core.cache import caches
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from tenants.actor import Actor

if TYPE_CHECKING:
    # The framework imports its throttles first.
    from rest_framework.views import APIView

WINDOW_SECONDS = 10


class OrganizationThrottle(SimpleRateThrottle):
    """So many requests within ten seconds, by all members and programs of an organization together.

    Each web process counts for itself: what is shared out is its time, and counting goes on without Redis.
    """

    cache = caches["requests"]
    timer = staticmethod(time.monotonic)
    is_for_reads: ClassVar[bool]

    def get_rate(self) -> str | None:
        """The setting of this kind of request; None: no limit."""
        return str(settings.API_REQUESTS[str(self.scope)] or "") or None

    def parse_rate(self, rate: str | None) -> tuple[int | None, int | None]:
        """The setting's number, within our window."""
        return (int(rate), WINDOW_SECONDS) if rate else (None, None)

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """Whose request it is; None when it is of the other kind, or anybody may make it."""
        actor = request.auth
        if not isinstance(actor, Actor) or (request.method in SAFE_METHODS) is not self.is_for_reads:
            return None
        return f"{self.scope}:{actor.organization_id or actor.principal_id}"


class ReadThrottle(OrganizationThrottle):
    """Of what only reads."""

    scope = "reads"
    is_for_reads = True


class WriteThrottle(OrganizationThrottle):
    """Of what asks for a change."""

    scope = "writes"
    is_for_reads = False
