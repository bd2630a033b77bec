"""The REST door of people, organizations, members and API credentials: translation only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tenants import selectors, services
from tenants.api import serializers as shapes
from tenants.api.base import actor_in, page_in, page_response, page_shape, read_body
from tenants.api.idempotency import idempotent
from tenants.services import NewSecret

PAGE_PARAMETERS = [
    OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 100; 50 unless told."),
    OpenApiParameter("cursor", OpenApiTypes.STR, description="`next_cursor` of the page before."),
]


class PlanTerms(Protocol):
    """What a plan allows. Plans live one floor up, so whoever mounts these views brings the way to ask for one."""

    slug: Any
    name: Any
    max_clusters: Any
    max_members: Any
    max_credentials_per_cluster: Any


PlanOf = Callable[[UUID], PlanTerms]


def _not_mounted(organization_id: UUID) -> PlanTerms:
    raise ImproperlyConfigured("mount these views with tenants.api.urls.routes(plan_of=...)")


class Plans:
    """How the views that have to know an organization's plan ask for it."""

    def __init__(self, plan_of: PlanOf) -> None:
        self.plan_of = plan_of

    def member_limit(self, organization_id: UUID) -> int:
        """How many members the plan in force includes."""
        return int(self.plan_of(organization_id).max_members)


class PlanView(APIView):
    """A view that has to know the organization's plan."""

    plans = Plans(_not_mounted)


class MeView(APIView):
    """Who is asking."""

    @extend_schema(operation_id="get_me", responses=shapes.MeShape)
    def get(self, request: Request) -> Response:
        """The person or credential, the organization acted in, and what is permitted there."""
        actor = actor_in(request)
        return Response(
            {
                "kind": actor.kind.value,
                "label": actor.label,
                "organization_id": actor.organization_id,
                "permissions": sorted(actor.permissions),
            }
        )


class OrganizationsView(APIView):
    """The person's organizations."""

    @extend_schema(
        operation_id="list_organizations", responses=page_shape("OrganizationEntry", shapes.OrganizationEntryShape)
    )
    def get(self, request: Request) -> Response:
        """All of them, by name: a person is in few, so there is one page."""
        entries = selectors.organizations_of(actor_in(request))
        return Response({"items": shapes.OrganizationEntryShape(entries, many=True).data, "next_cursor": None})

    @extend_schema(
        operation_id="create_organization",
        request=shapes.OrganizationBody,
        responses={201: shapes.OrganizationEntryShape},
    )
    @idempotent(is_personal=True)
    def post(self, request: Request) -> Response:
        """Make one; the person becomes its owner."""
        body = read_body(shapes.OrganizationBody, request)
        made = services.create_organization(actor=actor_in(request), name=body["name"])
        entry = selectors.OrganizationEntry(made.pk, made.name, "owner", made.created_at)
        return Response(shapes.OrganizationEntryShape(entry).data, status=status.HTTP_201_CREATED)


class CurrentOrganizationView(PlanView):
    """The organization acted in."""

    @extend_schema(operation_id="get_organization", responses=shapes.OrganizationShape)
    def get(self, request: Request) -> Response:
        """Its name and plan."""
        return self._show(selectors.organization(actor_in(request)))

    @extend_schema(
        operation_id="rename_organization", request=shapes.OrganizationBody, responses=shapes.OrganizationShape
    )
    @idempotent()
    def patch(self, request: Request) -> Response:
        """Give it another name."""
        body = read_body(shapes.OrganizationBody, request)
        return self._show(services.rename_organization(actor=actor_in(request), name=body["name"]))

    def _show(self, organization: Any) -> Response:
        shown = {
            "id": organization.pk,
            "name": organization.name,
            "plan": self.plans.plan_of(organization.pk),
            "created_at": organization.created_at,
        }
        return Response(shapes.OrganizationShape(shown).data)


class TransferView(APIView):
    """The ownership of the organization acted in."""

    @extend_schema(operation_id="transfer_organization", request=shapes.TransferBody, responses={204: None})
    @idempotent()
    def post(self, request: Request) -> Response:
        """Make another member the owner; the old one becomes an admin."""
        body = read_body(shapes.TransferBody, request)
        services.transfer_ownership(actor=actor_in(request), membership_id=body["member_id"])
        return _nothing()


class MembersView(APIView):
    """Who is in the organization."""

    @extend_schema(
        operation_id="list_members", parameters=PAGE_PARAMETERS, responses=page_shape("Member", shapes.MemberShape)
    )
    def get(self, request: Request) -> Response:
        """Members, newest first."""
        found = selectors.members_of(actor_in(request), page_in(request))
        return page_response(found, lambda member: dict(shapes.MemberShape(member).data))


class MemberView(APIView):
    """One member."""

    @extend_schema(operation_id="change_role", request=shapes.RoleBody, responses=shapes.MemberShape)
    @idempotent()
    def patch(self, request: Request, member_id: UUID) -> Response:
        """Give the member another role."""
        body = read_body(shapes.RoleBody, request)
        changed = services.change_role(actor=actor_in(request), membership_id=member_id, role=body["role"])
        return Response(shapes.MemberShape(changed).data)

    @extend_schema(operation_id="remove_member", request=None, responses={204: None})
    @idempotent()
    def delete(self, request: Request, member_id: UUID) -> Response:
        """Take the member out; one's own membership: leave."""
        services.remove_member(actor=actor_in(request), membership_id=member_id)
        return _nothing()


class InvitationsView(PlanView):
    """Open invitations."""

    @extend_schema(
        operation_id="list_invitations",
        parameters=PAGE_PARAMETERS,
        responses=page_shape("Invitation", shapes.InvitationShape),
    )
    def get(self, request: Request) -> Response:
        """Open invitations, newest first."""
        found = selectors.invitations_of(actor_in(request), page_in(request))
        return page_response(found, lambda invitation: dict(shapes.InvitationShape(invitation).data))

    @extend_schema(operation_id="invite_member", request=shapes.InvitationBody, responses={201: shapes.InvitationShape})
    @idempotent()
    def post(self, request: Request) -> Response:
        """Offer membership to an address; the link goes there by mail and nowhere else."""
        body = read_body(shapes.InvitationBody, request)
        made = services.invite_member(actor=actor_in(request), member_limit=self.plans.member_limit, **body)
        return Response(shapes.InvitationShape(made).data, status=status.HTTP_201_CREATED)


class InvitationView(APIView):
    """One open invitation."""

    @extend_schema(operation_id="revoke_invitation", request=None, responses={204: None})
    @idempotent()
    def delete(self, request: Request, invitation_id: UUID) -> Response:
        """Make its link worthless."""
        services.revoke_invitation(actor=actor_in(request), invitation_id=invitation_id)
        return _nothing()


class ResendInvitationView(APIView):
    """The mail of an open invitation."""

    @extend_schema(operation_id="resend_invitation", request=shapes.EmptyBody, responses={200: shapes.InvitationShape})
    @idempotent()
    def post(self, request: Request, invitation_id: UUID) -> Response:
        """Mail a new link; the old one becomes worthless."""
        read_body(shapes.EmptyBody, request)
        sent = services.resend_invitation(actor=actor_in(request), invitation_id=invitation_id)
        return Response(shapes.InvitationShape(sent).data)


class AcceptInvitationView(PlanView):
    """The way into an organization, for a person with a session."""

    @extend_schema(operation_id="accept_invitation", request=shapes.AcceptBody, responses=shapes.OrganizationEntryShape)
    @idempotent(is_personal=True)
    def post(self, request: Request) -> Response:
        """Become a member by showing the link's token."""
        body = read_body(shapes.AcceptBody, request)
        actor = actor_in(request)
        joined = services.accept_invitation(actor=actor, token=body["token"], member_limit=self.plans.member_limit)
        entry = next(one for one in selectors.organizations_of(actor) if one.id == joined.pk)
        return Response(shapes.OrganizationEntryShape(entry).data)


class AuditEventsView(APIView):
    """What was done in the organization."""

    @extend_schema(
        operation_id="list_audit_events",
        parameters=PAGE_PARAMETERS,
        responses=page_shape("AuditEvent", shapes.AuditEventShape),
    )
    def get(self, request: Request) -> Response:
        """Events, newest first."""
        found = selectors.audit_events_of(actor_in(request), page_in(request))
        return page_response(found, lambda event: dict(shapes.AuditEventShape(event).data))


class ApiCredentialsView(APIView):
    """Credentials for this API."""

    @extend_schema(
        operation_id="list_api_credentials",
        parameters=PAGE_PARAMETERS,
        responses=page_shape("Credential", shapes.CredentialShape),
    )
    def get(self, request: Request) -> Response:
        """Live credentials, newest first."""
        found = selectors.credentials_of(actor_in(request), None, page_in(request))
        return page_response(found, lambda credential: dict(shapes.CredentialShape(credential).data))

    @extend_schema(
        operation_id="create_api_credential",
        request=shapes.ApiCredentialBody,
        responses={201: shapes.NewCredentialShape},
    )
    @idempotent(secret_fields=("client_secret",))
    def post(self, request: Request) -> Response:
        """Make one; its secret is in this answer and never shown again."""
        body = read_body(shapes.ApiCredentialBody, request)
        made = services.create_credential(actor=actor_in(request), **body)
        return Response(show_new_credential(actor_in(request), made), status=status.HTTP_201_CREATED)


class ApiCredentialView(APIView):
    """One credential for this API."""

    @extend_schema(operation_id="get_api_credential", responses=shapes.CredentialShape)
    def get(self, request: Request, credential_id: UUID) -> Response:
        """The credential, without its secrets' text."""
        return _show_credential(request, credential_id)

    @extend_schema(
        operation_id="update_api_credential", request=shapes.CredentialChangeBody, responses=shapes.CredentialShape
    )
    @idempotent()
    def patch(self, request: Request, credential_id: UUID) -> Response:
        """Rename, disable, enable, or set another expiry."""
        body = read_body(shapes.CredentialChangeBody, request)
        services.update_credential(actor=actor_in(request), credential_id=credential_id, audience_id=None, **body)
        return _show_credential(request, credential_id)

    @extend_schema(operation_id="revoke_api_credential", request=None, responses={204: None})
    @idempotent()
    def delete(self, request: Request, credential_id: UUID) -> Response:
        """End it for good; its tokens end with it."""
        services.revoke_credential(actor=actor_in(request), credential_id=credential_id, audience_id=None)
        return _nothing()


class ApiCredentialSecretsView(APIView):
    """The secrets of one credential."""

    @extend_schema(
        operation_id="add_api_credential_secret", request=shapes.EmptyBody, responses={201: shapes.NewSecretShape}
    )
    @idempotent(secret_fields=("client_secret",))
    def post(self, request: Request, credential_id: UUID) -> Response:
        """Make a second live secret, shown this once, so that programs can change over."""
        read_body(shapes.EmptyBody, request)
        made = services.add_secret(actor=actor_in(request), credential_id=credential_id, audience_id=None)
        return Response(shapes.NewSecretShape(made).data, status=status.HTTP_201_CREATED)


class ApiCredentialSecretView(APIView):
    """One secret."""

    @extend_schema(operation_id="revoke_api_credential_secret", request=None, responses={204: None})
    @idempotent()
    def delete(self, request: Request, credential_id: UUID, secret_id: UUID) -> Response:
        """Make it worthless at once, with the tokens it bought."""
        services.revoke_secret(
            actor=actor_in(request), credential_id=credential_id, secret_id=secret_id, audience_id=None
        )
        return _nothing()


def show_new_credential(actor: Any, made: NewSecret) -> dict[str, Any]:
    """A credential just made, with its secret."""
    shown = selectors.credential(actor, made.credential.pk)
    return dict(shapes.CredentialShape(shown).data) | {
        "client_secret": made.secret,
        "secret_prefix": made.secret_row.prefix,
    }


def _show_credential(request: Request, credential_id: UUID) -> Response:
    found = selectors.credential(actor_in(request), credential_id, None)
    return Response(shapes.CredentialShape(found).data)


def _nothing() -> Response:
    return Response(status=status.HTTP_204_NO_CONTENT)
