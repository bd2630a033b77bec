"""Addresses below /api/v1/ that people's and organizations' views answer."""

from __future__ import annotations

from django.urls import URLPattern, path

from tenants.api import views
from tenants.api.views import PlanOf, Plans


def routes(*, plan_of: PlanOf) -> list[URLPattern]:
    """The addresses. `plan_of` gives an organization's plan: plans live one floor up, the composition root has both."""
    plans = Plans(plan_of)
    credential = "api-credentials/<uuid:credential_id>"
    return [
        path("me", views.MeView.as_view()),
        path("organizations", views.OrganizationsView.as_view()),
        path("organizations/current", views.CurrentOrganizationView.as_view(plans=plans)),
        path("organizations/current/transfer", views.TransferView.as_view()),
        path("members", views.MembersView.as_view()),
        path("members/<uuid:member_id>", views.MemberView.as_view()),
        path("invitations", views.InvitationsView.as_view(plans=plans)),
        path("invitations/accept", views.AcceptInvitationView.as_view(plans=plans)),
        path("invitations/<uuid:invitation_id>", views.InvitationView.as_view()),
        path("invitations/<uuid:invitation_id>/resend", views.ResendInvitationView.as_view()),
        path("audit-events", views.AuditEventsView.as_view()),
        path("api-credentials", views.ApiCredentialsView.as_view()),
        path(credential, views.ApiCredentialView.as_view()),
        path(f"{credential}/secrets", views.ApiCredentialSecretsView.as_view()),
        path(f"{credential}/secrets/<uuid:secret_id>", views.ApiCredentialSecretView.as_view()),
    ]
