"""The actor: what it may do, and where."""

from __future__ import annotations

from uuid import uuid4

import pytest

from common.errors import NotPermitted
from tenants.actor import SYSTEM, Actor, PrincipalKind
from tenants.roles import Permission


def test_a_missing_permission_is_named() -> None:
    actor = Actor(PrincipalKind.PERSON, "1", "a@example.com", uuid4(), frozenset({Permission.CLUSTERS_READ}))
    actor.require(Permission.CLUSTERS_READ)
    with pytest.raises(NotPermitted, match="does not include “clusters:write”") as refused:
        actor.require(Permission.CLUSTERS_WRITE)
    assert refused.value.details == {"permission": "clusters:write"}


def test_outside_all_organizations_there_is_none_to_act_in() -> None:
    with pytest.raises(NotPermitted, match="Choose an organization first"):
        _ = SYSTEM.organization
