"""Rows about people, organizations, credentials and what was done."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now

from tenants.naming import MAX_NAME_LENGTH
from tenants.roles import Role
from tenants.scoping import OrganizationQuerySet


class UserManager(BaseUserManager["User"]):
    """Makes people; the e-mail address is the login."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Insert a person; the address is normalized, the password hashed."""
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Insert an operator."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. Belongs to organizations through memberships; `is_staff` opens the operator site."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    date_joined = models.DateTimeField(db_default=Now(), editable=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_any_case")]

    def __str__(self) -> str:
        return self.email


class Organization(models.Model):
    """Our customer. Every customer-owned row points here."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=MAX_NAME_LENGTH)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    def __str__(self) -> str:
        return self.name


class OwnedByOrganization(models.Model):
    """What every customer-owned row has: its organization, and the query set that asks for it."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")

    objects = OrganizationQuerySet.as_manager()

    class Meta:
        abstract = True


class Membership(OwnedByOrganization):
    """A person's role in an organization."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "user"], name="membership_once"),
            models.UniqueConstraint(
                fields=["organization"], condition=Q(role=Role.OWNER.value), name="membership_one_owner"
            ),
        ]


class Invitation(OwnedByOrganization):
    """An offer of membership, bound to one e-mail address. The token itself is only in the mail."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField()
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    token_digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                F("organization"),
                Lower("email"),
                condition=Q(accepted_at=None, revoked_at=None),
                name="invitation_pending_once",
            )
        ]


class Audience(OwnedByOrganization):
    """Something that tokens can be asked for: one row for each engine cluster, under the cluster's own id.

    A token's `aud` is `<id>/<epoch>`; adding one to the epoch makes every token issued so far worthless to an engine
    started since, while clients go on asking for the unchanging id.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    epoch = models.PositiveIntegerField(default=1)
    closed_at = models.DateTimeField(null=True, blank=True)

    @property
    def value(self) -> str:
        """What a token for this audience carries as `aud`."""
        return f"{self.id}/{self.epoch}"


class Credential(OwnedByOrganization):
    """What a program signs in with: for our REST API (`audience` is null) or for one engine cluster."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    audience = models.ForeignKey(Audience, null=True, blank=True, on_delete=models.PROTECT, related_name="credentials")
    name = models.CharField(max_length=MAX_NAME_LENGTH)
    client_id = models.CharField(max_length=40, unique=True)
    scopes = ArrayField(models.CharField(max_length=40), default=list)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.CharField(max_length=254)
    expires_at = models.DateTimeField(null=True, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_address = models.CharField(max_length=45, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "audience", "name"],
                condition=Q(revoked_at=None),
                nulls_distinct=False,
                name="credential_name_once",
            )
        ]


class CredentialSecret(OwnedByOrganization):
    """One of at most two live secrets of a credential, kept as a keyed HMAC."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    credential = models.ForeignKey(Credential, on_delete=models.CASCADE, related_name="secrets")
    prefix = models.CharField(max_length=12)
    digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)


class SigningKey(models.Model):
    """A key pair that access tokens are signed with. The private half is sealed with the installation's master key.

    It is published (JWKS and every region's mirror) from creation, signs from `activates_at` (earlier only while
    the database's clock is behind all of them), and stays published
    until `retires_at`, when the last token that a predecessor signed has expired.
    """

    kid = models.CharField(max_length=40, primary_key=True)
    public_jwk = models.JSONField()
    private_sealed = models.BinaryField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    activates_at = models.DateTimeField()
    retires_at = models.DateTimeField(null=True, blank=True)


class AuditEvent(models.Model):
    """Who did what, written in the transaction of the change. Never updated, never deleted.

    `changes` maps a field's name to `[before, after]`; secrets and workflow data never stand in it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(db_default=Now(), editable=False)
    organization = models.ForeignKey(Organization, null=True, on_delete=models.PROTECT, related_name="+")
    actor_kind = models.CharField(max_length=12)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_label = models.CharField(max_length=254)
    source_address = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64)
    target_kind = models.CharField(max_length=32)
    target_id = models.CharField(max_length=64)
    changes = models.JSONField(default=dict)

    objects = OrganizationQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["organization", "-at", "-id"], name="audit_newest_first"),
            models.Index(fields=["at"], name="audit_at"),
        ]


class IdempotencyRecord(models.Model):
    """The first answer to a request that carried an idempotency key. Secrets are left out of `body`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, null=True, on_delete=models.CASCADE, related_name="+")
    principal_id = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True)
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "principal_id", "key"], nulls_distinct=False, name="idempotency_key_once"
            )
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_oldest")]


class MailKind(models.TextChoices):
    """What a mail is about; its text is rendered when it is sent."""

    CONFIRM_ADDRESS = "confirm_address"
    ALREADY_REGISTERED = "already_registered"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - the kind of a mail
    UNKNOWN_ACCOUNT = "unknown_account"
    INVITATION = "invitation"
    SECURITY_NOTICE = "security_notice"


class OutgoingMail(models.Model):
    """A mail to be sent: ids only, so no link and no body stands in a row or a message.

    `due_at` is null once it was sent or given up; the clock sweeps due rows, so a lost message loses no mail.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=24, choices=MailKind.choices)
    user = models.ForeignKey(User, null=True, on_delete=models.CASCADE, related_name="+")
    address = models.EmailField()
    invitation = models.ForeignKey(Invitation, null=True, on_delete=models.CASCADE, related_name="+")
    subject_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    due_at = models.DateTimeField(null=True, db_default=Now())
    attempts = models.PositiveSmallIntegerField(default=0)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="mail_due")]
