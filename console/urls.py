"""The console's addresses."""

from __future__ import annotations

from django.urls import path

from console.views import account, backups, changes, clusters, credentials, mailbox, operations, organization

app_name = "console"

_CLUSTER = "clusters/<uuid:cluster_id>"
_CREDENTIALS = f"{_CLUSTER}/credentials"
_CREDENTIAL = "<uuid:credential_id>"
_BACKUP = "backups/<uuid:backup_id>"

urlpatterns = [
    path("", account.home, name="home"),
    path("organizations/new", account.organization_new, name="organization_new"),
    path("organizations/switch", account.organization_switch, name="organization_switch"),
    path("invitations/<str:token>", account.invitation, name="invitation"),
    path("invitations/<str:token>/accept", account.invitation_accept, name="invitation_accept"),
    path("mailbox", mailbox.mailbox, name="mailbox"),
    path("clusters", clusters.cluster_list, name="clusters"),
    path("clusters/new", clusters.cluster_new, name="cluster_new"),
    path("clusters/new/plan", clusters.cluster_plan, name="cluster_plan"),
    path(_CLUSTER, clusters.cluster_page, name="cluster"),
    path(f"{_CLUSTER}/live", clusters.cluster_live, name="cluster_live"),
    path(f"{_CLUSTER}/settings", clusters.cluster_settings, name="cluster_settings"),
    path(f"{_CLUSTER}/delete", clusters.cluster_delete, name="cluster_delete"),
    path(f"{_CLUSTER}/connect", credentials.connect, name="cluster_connect"),
    *(
        path(f"{_CLUSTER}/{name}", changes.cluster_change, {"change_name": name}, name=f"cluster_{name}")
        for name in changes.CHANGES
    ),
    *(
        path(f"{_CLUSTER}/{name}", changes.cluster_choice, {"choice_name": name}, name=f"cluster_{name}")
        for name in changes.CHOICES
    ),
    *(
        path(f"{_CLUSTER}/{name}/plan", changes.cluster_choice_plan, {"choice_name": name}, name=f"cluster_{name}_plan")
        for name in changes.CHOICES
    ),
    path(f"{_CLUSTER}/backups", backups.cluster_backups, name="cluster_backups"),
    path(f"{_CLUSTER}/backups/now", backups.cluster_back_up, name="cluster_back_up"),
    path(f"{_CLUSTER}/backups/schedule", backups.cluster_schedule, name="cluster_schedule"),
    path(_CREDENTIALS, credentials.credential_list, name="credentials"),
    path(f"{_CREDENTIALS}/{_CREDENTIAL}", credentials.credential, name="credential"),
    path(f"{_CREDENTIALS}/{_CREDENTIAL}/secrets", credentials.secret_add, name="secret_add"),
    path(
        f"{_CREDENTIALS}/{_CREDENTIAL}/secrets/<uuid:secret_id>/revoke", credentials.secret_revoke, name="secret_revoke"
    ),
    path(f"{_CREDENTIALS}/{_CREDENTIAL}/disable", credentials.credential_disable, name="credential_disable"),
    path(f"{_CREDENTIALS}/{_CREDENTIAL}/revoke", credentials.credential_revoke, name="credential_revoke"),
    path("api-credentials", credentials.credential_list, name="api_credentials"),
    path(f"api-credentials/{_CREDENTIAL}", credentials.credential, name="api_credential"),
    path(f"api-credentials/{_CREDENTIAL}/secrets", credentials.secret_add, name="api_secret_add"),
    path(
        f"api-credentials/{_CREDENTIAL}/secrets/<uuid:secret_id>/revoke",
        credentials.secret_revoke,
        name="api_secret_revoke",
    ),
    path(f"api-credentials/{_CREDENTIAL}/disable", credentials.credential_disable, name="api_credential_disable"),
    path(f"api-credentials/{_CREDENTIAL}/revoke", credentials.credential_revoke, name="api_credential_revoke"),
    path("backups", backups.backup_list, name="backups"),
    path(_BACKUP, backups.backup_page, name="backup"),
    path(f"{_BACKUP}/live", backups.backup_live, name="backup_live"),
    path(f"{_BACKUP}/drill", backups.backup_drill, name="backup_drill"),
    path(f"{_BACKUP}/restore", backups.backup_restore, name="backup_restore"),
    path(f"{_BACKUP}/delete", backups.backup_delete, name="backup_delete"),
    path("operations", operations.operation_list, name="operations"),
    path("operations/<uuid:operation_id>", operations.operation_page, name="operation"),
    path("operations/<uuid:operation_id>/live", operations.operation_live, name="operation_live"),
    path("operations/<uuid:operation_id>/retry", operations.operation_retry, name="operation_retry"),
    path("operations/<uuid:operation_id>/cancel", operations.operation_cancel, name="operation_cancel"),
    path("operations/<uuid:operation_id>/force", operations.operation_force, name="operation_force"),
    path("organization", organization.organization, name="organization"),
    path("members", organization.members, name="members"),
    path("members/<uuid:membership_id>/role", organization.member_role, name="member_role"),
    path("members/<uuid:membership_id>/remove", organization.member_remove, name="member_remove"),
    path("members/<uuid:membership_id>/transfer", organization.ownership_transfer, name="ownership_transfer"),
    path("member-invitations/<uuid:invitation_id>/resend", organization.invitation_resend, name="invitation_resend"),
    path("member-invitations/<uuid:invitation_id>/revoke", organization.invitation_revoke, name="invitation_revoke"),
    path("audit", organization.audit, name="audit"),
]
