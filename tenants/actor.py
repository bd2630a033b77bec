"""Who asks: the one value that every service and selector is handed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from common.errors import NotPermitted
from tenants.roles import Permission


class PrincipalKind(StrEnum):
    """What kind of principal acts; audit events carry it."""

    PERSON = "person"
    CREDENTIAL = "credential"
    OPERATOR = "operator"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """A principal inside one organization (None: outside all of them), with what it may do there.

    Attributes:
        principal_id: the person's or credential's id; "" for the system.
        label: how audit events and pages name it, such as an e-mail address.
        source_address: where the request came from, "" for the system.
        request_id: joins audit events and log lines of one request.
    """

    kind: PrincipalKind
    principal_id: str
    label: str
    organization_id: UUID | None = None
    permissions: frozenset[Permission] = field(default_factory=frozenset)
    source_address: str = ""
    request_id: str = ""

    def require(self, permission: Permission) -> None:
        """Let the actor pass, or raise `NotPermitted` naming what its role lacks."""
        if permission not in self.permissions:
            raise NotPermitted(
                f"Your role in this organization does not include “{permission}”. "
                "Ask an owner or admin of the organization for it.",
                permission=str(permission),
            )

    @property
    def organization(self) -> UUID:
        """The organization acted in; raises `NotPermitted` when none is chosen."""
        if self.organization_id is None:
            raise NotPermitted("Choose an organization first: this can only be done inside one.")
        return self.organization_id


SYSTEM = Actor(kind=PrincipalKind.SYSTEM, principal_id="", label="Flowplane")
