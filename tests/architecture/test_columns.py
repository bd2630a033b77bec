"""No workflow state: each column that could hold some has a reason why it does not.

A column of text, JSON, array or binary kind that is not listed here fails the test, until somebody writes down what
it holds and why that is nothing of what an engine works on.
"""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models

OURS = ("tenants", "billing", "provisioning")
ROOMY = (models.CharField, models.TextField, models.JSONField, models.BinaryField, ArrayField, models.FileField)

# Column -> what stands in it.
REASONS = {
    "tenants.User.email": "the person's login",
    "tenants.User.password": "hash of the person's password",
    "tenants.Organization.name": "typed by a member when naming the organization",
    "tenants.Membership.role": "one of the roles",
    "tenants.Invitation.email": "whom the invitation is for",
    "tenants.Invitation.role": "one of the roles",
    "tenants.Invitation.token_digest": "keyed hash of the link's token",
    "tenants.Credential.name": "typed by a member when naming the credential",
    "tenants.Credential.client_id": "made by us",
    "tenants.Credential.scopes": "permissions of our own API",
    "tenants.Credential.created_by": "label of the member who made it",
    "tenants.Credential.last_used_address": "network address that asked for the last token",
    "tenants.CredentialSecret.prefix": "the first characters of a secret of our making",
    "tenants.CredentialSecret.digest": "keyed hash of the secret",
    "tenants.SigningKey.kid": "made by us",
    "tenants.SigningKey.public_jwk": "public half of a key of our making",
    "tenants.SigningKey.private_sealed": "sealed private half of it",
    "tenants.AuditEvent.actor_kind": "one of the kinds of principals",
    "tenants.AuditEvent.actor_id": "id of a person or credential",
    "tenants.AuditEvent.actor_label": "e-mail address or name of the principal",
    "tenants.AuditEvent.source_address": "network address of the request",
    "tenants.AuditEvent.request_id": "made by us, or the caller's if plain",
    "tenants.AuditEvent.action": "word of ours",
    "tenants.AuditEvent.target_kind": "word of ours",
    "tenants.AuditEvent.target_id": "id of one of our rows",
    "tenants.AuditEvent.changes": "named fields of our own rows, before and after",
    "tenants.IdempotencyRecord.principal_id": "id of a person or credential",
    "tenants.IdempotencyRecord.key": "made up by the caller for one request to our own API",
    "tenants.IdempotencyRecord.fingerprint": "hash of a request to our own API",
    "tenants.IdempotencyRecord.body": "our own API's answer, which holds our own rows only and no secret",
    "tenants.IdempotencyRecord.headers": "Location and ETag of that answer",
    "tenants.OutgoingMail.kind": "one of the kinds of mail",
    "tenants.OutgoingMail.address": "where the mail goes",
    "tenants.OutgoingMail.subject_id": "id of one of our rows",
    "billing.Plan.slug": "written by an operator",
    "billing.Plan.name": "written by an operator",
    "provisioning.Region.slug": "written by an operator",
    "provisioning.Region.name": "written by an operator",
    "provisioning.Region.backend": "one of the backends",
    "provisioning.Region.domain": "written by an operator",
    "provisioning.Region.labels": "written by an operator",
    "provisioning.Region.maintenance_note": "written by an operator",
    "provisioning.Region.silence": "a sentence of ours about an API server or a store that does not answer",
    "provisioning.PlanType.gateway": "one of the two kinds",
    "provisioning.PlanType.slug": "written by an operator",
    "provisioning.PlanType.name": "written by an operator",
    "provisioning.Release.version": "written by an operator",
    "provisioning.Release.coordinates": "written by an operator",
    "provisioning.Release.sha256": "written by an operator",
    "provisioning.Release.main_class": "written by an operator",
    "provisioning.Release.licence": "one of the licences",
    "provisioning.Release.restore_class": "written by an operator",
    "provisioning.Release.upgrades_from": "versions, written by an operator",
    "provisioning.Release.rolls_from": "versions, written by an operator",
    "provisioning.Channel.slug": "written by an operator",
    "provisioning.Channel.name": "written by an operator",
    "provisioning.Cluster.name": "typed by a member when naming the cluster",
    "provisioning.Cluster.stage": "one of the stages",
    "provisioning.Cluster.lifecycle": "one of the wishes",
    "provisioning.Cluster.conditions": "derived by us from the health of processes and partitions; sentences of ours",
    "provisioning.Cluster.endpoint_grpc": "address that we gave to the engine",
    "provisioning.Cluster.endpoint_rest": "address that we gave to the engine",
    "provisioning.Cluster.hold": "one of the reasons for doing nothing",
    "provisioning.Operation.kind": "one of the kinds of operations",
    "provisioning.Operation.state": "one of their states",
    "provisioning.Operation.changes": "named fields of the cluster's row, before and after",
    "provisioning.Operation.receipt": "kinds and names of objects, folders and ports of ours; numbers of backups",
    "provisioning.Operation.actor_kind": "one of the kinds of principals",
    "provisioning.Operation.actor_label": "e-mail address or name of the principal",
    "provisioning.Operation.error_code": "word of ours",
    "provisioning.Operation.error_message": "sentence of ours, never an engine's log line",
    "provisioning.OperationStep.kind": "one of the kinds of steps",
    "provisioning.OperationStep.state": "one of their states",
    "provisioning.OperationStep.waits_for": "sentence of ours, never an engine's log line",
    "provisioning.Backup.reason": "one of the reasons for a backup",
    "provisioning.Backup.state": "one of its states; what it holds lies in the region's store",
    "provisioning.Backup.error_message": "sentence of ours, never an engine's log line",
    "provisioning.Leftover.kind": "cluster or backup",
    "provisioning.Leftover.reference": "number of a backup, made by us",
    "provisioning.Leftover.state": "one of its states",
    "provisioning.Leftover.reason": "sentence of ours",
    "provisioning.Leftover.card": "names and ids of our own rows, as we laid them beside the engine",
    "provisioning.Leftover.found": "words of ours for processes, folders, ports and their sizes, never their content",
    "provisioning.Leftover.error_message": "sentence of ours, never an engine's log line",
    "provisioning.Installation.report": "client ids and names of credentials that this database does not know",
}

# Third parties' tables, each as a whole: none of them is ever handed anything of an engine's.
THIRD_PARTY = {
    "account.EmailAddress": "allauth: addresses of people",
    "account.EmailConfirmation": "allauth: unused, confirmations are signed instead of stored",
    "admin.LogEntry": "Django: titles of rows that operators changed",
    "auth.Group": "Django: unused",
    "auth.Permission": "Django: names of our models",
    "contenttypes.ContentType": "Django: names of our models",
    "mfa.Authenticator": "allauth: second factors of people",
    "sessions.Session": "Django: who is signed in and in which organization",
    "usersessions.UserSession": "allauth: from where people are signed in",
}


def roomy_columns() -> set[str]:
    """Our columns that could hold anything at all."""
    return {
        f"{model._meta.label}.{field.name}"
        for app in OURS
        for model in apps.get_app_config(app).get_models(include_auto_created=True)
        for field in model._meta.local_fields
        if isinstance(field, ROOMY)
    }


def test_every_roomy_column_of_ours_says_what_it_holds() -> None:
    assert roomy_columns() - REASONS.keys() == set(), "write down what these hold, and why it is no workflow state"


def test_no_reason_outlives_its_column() -> None:
    assert REASONS.keys() - roomy_columns() == set()


def test_every_third_partys_table_is_accounted_for() -> None:
    models_of_others = {
        model._meta.label for model in apps.get_models() if model._meta.app_label not in OURS and model._meta.managed
    }
    assert models_of_others == THIRD_PARTY.keys()


@pytest.mark.django_db
def test_the_database_holds_no_table_that_no_model_knows() -> None:
    from_models = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    assert set(tables()) - from_models == {"django_migrations"}


def tables() -> list[str]:
    """Every table that the database really has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in cursor.fetchall()]
