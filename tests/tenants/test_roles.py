"""Roles: permissions as data."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tenants.roles import API_SCOPES, PERMISSIONS, Permission, Role, grantable_with, permissions_of


def test_every_role_has_permissions_and_the_owner_has_all() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert permissions_of(Role.OWNER) == frozenset(Permission)


def test_only_the_owner_transfers() -> None:
    assert [role for role in Role if Permission.ORGANIZATION_TRANSFER in permissions_of(role)] == [Role.OWNER]


def test_a_viewer_changes_nothing() -> None:
    assert all(permission.endswith(":read") for permission in permissions_of(Role.VIEWER))


def test_roles_grow_from_viewer_to_owner() -> None:
    ladder = [permissions_of(role) for role in (Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.OWNER)]
    assert all(weaker < stronger for weaker, stronger in pairwise(ladder))


def test_a_program_is_never_given_power_over_people_or_other_programs() -> None:
    forbidden = {
        Permission.MEMBERS_WRITE,
        Permission.API_CREDENTIALS_WRITE,
        Permission.ORGANIZATION_TRANSFER,
        Permission.BILLING_WRITE,
    }
    assert not API_SCOPES & forbidden


@pytest.mark.parametrize(
    ("role", "grantable"),
    [
        (Role.OWNER, {Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER}),
        (Role.ADMIN, {Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER}),
        (Role.DEVELOPER, set()),
        (Role.BILLING, set()),
        (Role.VIEWER, set()),
    ],
)
def test_what_each_role_may_hand_out(role: Role, grantable: set[Role]) -> None:
    assert grantable_with(permissions_of(role)) == grantable
