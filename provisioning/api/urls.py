"""Addresses of clusters, backups, operations and the catalogue, under /api/v1/."""

from __future__ import annotations

from django.urls import path

from provisioning.api import backups, views

_CLUSTER = "clusters/<uuid:cluster_id>"
_CREDENTIAL = f"{_CLUSTER}/credentials/<uuid:credential_id>"

urlpatterns = [
    path("catalogue", views.CatalogueView.as_view(), name="catalogue"),
    path("clusters", views.ClustersView.as_view(), name="clusters"),
    path(_CLUSTER, views.ClusterView.as_view(), name="cluster"),
    path(f"{_CLUSTER}/suspend", views.SuspendView.as_view(), name="cluster-suspend"),
    path(f"{_CLUSTER}/resume", views.ResumeView.as_view(), name="cluster-resume"),
    path(f"{_CLUSTER}/restore", views.RestoreView.as_view(), name="cluster-restore"),
    path(f"{_CLUSTER}/revoke-access", views.RevokeAccessView.as_view(), name="cluster-revoke-access"),
    path(f"{_CLUSTER}/resize", views.ResizeView.as_view(), name="cluster-resize"),
    path(f"{_CLUSTER}/upgrade", views.UpgradeView.as_view(), name="cluster-upgrade"),
    path(f"{_CLUSTER}/backups", backups.ClusterBackupsView.as_view(), name="cluster-backups"),
    path(f"{_CLUSTER}/restore-backup", backups.RestoreBackupView.as_view(), name="cluster-restore-backup"),
    path(f"{_CLUSTER}/operations", views.ClusterOperationsView.as_view(), name="cluster-operations"),
    path(f"{_CLUSTER}/env-file", views.EnvironmentFileView.as_view(), name="cluster-env-file"),
    path(f"{_CLUSTER}/credentials", views.CredentialsView.as_view(), name="cluster-credentials"),
    path(_CREDENTIAL, views.CredentialView.as_view(), name="cluster-credential"),
    path(f"{_CREDENTIAL}/secrets", views.SecretsView.as_view(), name="cluster-credential-secrets"),
    path(f"{_CREDENTIAL}/secrets/<uuid:secret_id>", views.SecretView.as_view(), name="cluster-credential-secret"),
    path("backups", backups.BackupsView.as_view(), name="backups"),
    path("backups/<uuid:backup_id>", backups.BackupView.as_view(), name="backup"),
    path("backups/<uuid:backup_id>/drill", backups.DrillView.as_view(), name="backup-drill"),
    path("operations", views.OperationsView.as_view(), name="operations"),
    path("operations/<uuid:operation_id>", views.OperationView.as_view(), name="operation"),
    path("operations/<uuid:operation_id>/retry", views.RetryView.as_view(), name="operation-retry"),
    path("operations/<uuid:operation_id>/cancel", views.CancelView.as_view(), name="operation-cancel"),
    path("operations/<uuid:operation_id>/force", views.ForceView.as_view(), name="operation-force"),
]
