"""May an organization have one more of something?"""

from __future__ import annotations

from uuid import UUID

from billing.errors import LimitReached
from billing.models import Plan, Subscription
from billing.plans import FREE


def plan_of(organization_id: UUID) -> Plan:
    """The plan in force. One query; no subscription means the free plan."""
    subscription = Subscription.objects.for_organization(organization_id).select_related("plan").first()
    return subscription.plan if subscription else Plan.objects.get(slug=FREE.slug)


def require_below(limit: int, *, used: int, what: str) -> None:
    """Let one more pass, or raise `LimitReached`.

    The caller holds the lock that keeps `used` true until its own row is inserted.
    """
    if used >= limit:
        raise LimitReached(
            f"Your plan includes {limit} {what} and all of them are used. Delete one, or ask for a larger plan.",
            limit=limit,
            used=used,
        )
