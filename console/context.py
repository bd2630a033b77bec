"""What every page shows around its content: who is signed in, in which organization, and where one can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from tenants import selectors
from tenants.auth import actor_of
from tenants.roles import Permission


@dataclass(frozen=True, slots=True)
class Destination:
    """A line of the navigation."""

    title: str
    icon: str
    url: str
    is_current: bool


# Title, icon, page, permission it needs, and the words its pages' names begin with.
_NAVIGATION = (
    ("Clusters", "clusters", "console:clusters", Permission.CLUSTERS_READ, ("cluster", "credential", "secret")),
    ("Backups", "backups", "console:backups", Permission.CLUSTERS_READ, ("backup",)),
    ("Operations", "operations", "console:operations", Permission.CLUSTERS_READ, ("operation",)),
    ("Members", "members", "console:members", Permission.MEMBERS_READ, ("member", "ownership", "invitation_")),
    ("API credentials", "key", "console:api_credentials", Permission.CREDENTIALS_READ, ("api_",)),
    ("Audit", "audit", "console:audit", Permission.AUDIT_READ, ("audit",)),
    ("Settings", "settings", "console:organization", Permission.ORGANIZATION_READ, ("organization",)),
)


class Frame:
    """Asks for what surrounds a page only when a template uses it: fragments and the operator site ask nothing."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        # allauth's pages are rendered after the request's transaction has ended, and with it who asks.
        with transaction.atomic():
            self.actor = actor_of(request)
            self.organizations = list(selectors.organizations_of(self.actor))

    @property
    def organization(self) -> Any:
        """The organization the person acts in, or None."""
        return next((row for row in self.organizations if row.id == self.actor.organization_id), None)

    @property
    def navigation(self) -> Sequence[Destination]:
        """The pages this person's role opens."""
        match = self._request.resolver_match
        here = match.url_name or "" if match and match.namespace == "console" else ""
        return [
            Destination(title, icon, reverse(page), here.startswith(prefixes))
            for title, icon, page, permission, prefixes in _NAVIGATION
            if permission in self.actor.permissions
        ]


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `frame` for signed-in people, the time, and whether second factors and a mailbox are on."""
    user = getattr(request, "user", None)
    return {
        "frame": SimpleLazyObject(lambda: Frame(request)) if user and user.is_authenticated else None,
        "moment": timezone.now(),
        "has_mfa": bool(settings.MFA_SUPPORTED_TYPES),
        "has_mailbox": settings.MAILBOX_DIR is not None,
    }
