from __future__ import annotations

import pytest

from billing.entitlements import plan_of, require_below
from billing.errors import LimitReached
from billing.models import Plan, Subscription
from billing.plans import FREE
from tenants.models import Organization

pytestmark = pytest.mark.django_db


def test_no_subscription_means_the_free_plan(acorn: Organization) -> None:
    assert plan_of(acorn.pk).slug == FREE.slug


def test_a_subscription_names_the_plan_of_its_own_organization_only(acorn: Organization, birch: Organization) -> None:
    Subscription.objects.create(organization=acorn, plan=Plan.objects.get(slug="team"))
    assert plan_of(acorn.pk).slug == "team"
    assert plan_of(birch.pk).slug == FREE.slug


def test_a_limit_lets_exactly_so_many_pass() -> None:
    require_below(2, used=1, what="clusters")
    with pytest.raises(LimitReached, match="2 clusters") as caught:
        require_below(2, used=2, what="clusters")
    assert caught.value.details == {"limit": 2, "used": 2}
    assert caught.value.code == "entitlement_exceeded"
