"""Roles and what each may do: permissions as data."""

from __future__ import annotations

from enum import StrEnum


class Permission(StrEnum):
    """A single thing that a role allows, `noun:verb`."""

    ORGANIZATION_READ = "organization:read"
    ORGANIZATION_UPDATE = "organization:update"
    ORGANIZATION_TRANSFER = "organization:transfer"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    CLUSTERS_READ = "clusters:read"
    CLUSTERS_WRITE = "clusters:write"
    CLUSTERS_DELETE = "clusters:delete"
    CREDENTIALS_READ = "credentials:read"
    CREDENTIALS_WRITE = "credentials:write"
    API_CREDENTIALS_WRITE = "api_credentials:write"
    AUDIT_READ = "audit:read"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"


class Role(StrEnum):
    """What a person is in one organization."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


_VIEWER = frozenset(
    {
        Permission.ORGANIZATION_READ,
        Permission.MEMBERS_READ,
        Permission.CLUSTERS_READ,
        Permission.CREDENTIALS_READ,
    }
)
_DEVELOPER = _VIEWER | {Permission.CLUSTERS_WRITE, Permission.CREDENTIALS_WRITE}
_BILLING = frozenset(
    {
        Permission.ORGANIZATION_READ,
        Permission.MEMBERS_READ,
        Permission.CLUSTERS_READ,
        Permission.BILLING_READ,
        Permission.BILLING_WRITE,
    }
)
_ADMIN = (
    _DEVELOPER
    | _BILLING
    | {
        Permission.ORGANIZATION_UPDATE,
        Permission.MEMBERS_WRITE,
        Permission.CLUSTERS_DELETE,
        Permission.API_CREDENTIALS_WRITE,
        Permission.AUDIT_READ,
    }
)

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.OWNER: _ADMIN | {Permission.ORGANIZATION_TRANSFER},
    Role.ADMIN: _ADMIN,
    Role.DEVELOPER: _DEVELOPER,
    Role.BILLING: _BILLING,
    Role.VIEWER: _VIEWER,
}

# What an API credential's scopes may be: each is a permission that the REST door really checks.
API_SCOPES: frozenset[Permission] = frozenset(
    {
        Permission.ORGANIZATION_READ,
        Permission.MEMBERS_READ,
        Permission.CLUSTERS_READ,
        Permission.CLUSTERS_WRITE,
        Permission.CLUSTERS_DELETE,
        Permission.CREDENTIALS_READ,
        Permission.CREDENTIALS_WRITE,
        Permission.AUDIT_READ,
    }
)


def permissions_of(role: Role) -> frozenset[Permission]:
    """All that a role may do in its own organization."""
    return PERMISSIONS[role]


def grantable_with(permissions: frozenset[Permission]) -> frozenset[Role]:
    """The roles that a member with these permissions may hand out: never the owner's, and none that allows more."""
    if Permission.MEMBERS_WRITE not in permissions:
        return frozenset()
    return frozenset(role for role in Role if role is not Role.OWNER and PERMISSIONS[role] <= permissions)
