"""The shapes of bodies and answers. Names are judged by the services, whose sentences say what is wrong with them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tenants.api.base import StrictSerializer
from tenants.roles import Role

Shape = serializers.Serializer[Any]
_ROLES = [role.value for role in Role]


class _NameField(serializers.CharField):
    """A name as typed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, allow_blank=True, **options)


# --- Bodies -----------------------------------------------------------------------------------------------------------


class OrganizationBody(StrictSerializer):
    """A new organization, or a new name for one."""

    name = _NameField()


class RoleBody(StrictSerializer):
    """A member's new role."""

    role = serializers.CharField()


class TransferBody(StrictSerializer):
    """Who is to be the owner."""

    member_id = serializers.UUIDField()


class InvitationBody(StrictSerializer):
    """Whom to invite, and as what."""

    email = serializers.CharField(max_length=254)
    role = serializers.CharField()


class AcceptBody(StrictSerializer):
    """The token of an invitation's link."""

    token = serializers.CharField(max_length=200)


class ApiCredentialBody(StrictSerializer):
    """A new credential for this API."""

    name = _NameField()
    scopes = serializers.ListField(child=serializers.CharField(max_length=40), max_length=40)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class CredentialChangeBody(StrictSerializer):
    """What changes about a credential; what is left out stays. `expires_at` null: never."""

    name = _NameField(required=False)
    is_disabled = serializers.BooleanField(required=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class EmptyBody(StrictSerializer):
    """No fields at all."""


# --- Answers ----------------------------------------------------------------------------------------------------------


class MeShape(Shape):
    """Who is asking, and what it may do."""

    kind = serializers.ChoiceField(["person", "credential", "operator", "system"])
    label = serializers.CharField()  # type: ignore[assignment]  # every field of the framework has a label, too
    organization_id = serializers.UUIDField(allow_null=True)
    permissions = serializers.ListField(child=serializers.CharField())


class PlanShape(Shape):
    """What the organization may have."""

    slug = serializers.CharField()
    name = serializers.CharField()
    max_clusters = serializers.IntegerField()
    max_members = serializers.IntegerField()
    max_credentials_per_cluster = serializers.IntegerField()


class OrganizationEntryShape(Shape):
    """One of the person's organizations; `role` is empty for a credential."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    role = serializers.CharField()
    created_at = serializers.DateTimeField()


class OrganizationShape(Shape):
    """The organization acted in."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    plan = PlanShape()
    created_at = serializers.DateTimeField()


class MemberShape(Shape):
    """A member of the organization."""

    id = serializers.UUIDField()
    email = serializers.EmailField(source="user.email")
    role = serializers.ChoiceField(_ROLES)
    created_at = serializers.DateTimeField()


class InvitationShape(Shape):
    """An open invitation. Its token is in the mail only."""

    id = serializers.UUIDField()
    email = serializers.EmailField()
    role = serializers.ChoiceField(_ROLES)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class AuditActorShape(Shape):
    """Who did it."""

    kind = serializers.CharField(source="actor_kind")
    id = serializers.CharField(source="actor_id")
    label = serializers.CharField(source="actor_label")  # type: ignore[assignment]  # as above


class AuditTargetShape(Shape):
    """To what it was done."""

    kind = serializers.CharField(source="target_kind")
    id = serializers.CharField(source="target_id")


class AuditEventShape(Shape):
    """Something that was done. `changes` maps a field to its value before and after."""

    id = serializers.UUIDField()
    at = serializers.DateTimeField()
    actor = AuditActorShape(source="*")
    source_address = serializers.CharField()
    request_id = serializers.CharField()
    action = serializers.CharField()
    target = AuditTargetShape(source="*")
    changes = serializers.DictField(child=serializers.ListField(child=serializers.JSONField(allow_null=True)))


class SecretShape(Shape):
    """A live secret, by the first characters that it is recognized by."""

    id = serializers.UUIDField()
    prefix = serializers.CharField()
    created_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True)


class CredentialShape(Shape):
    """A credential without its secrets' text."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    client_id = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()
    expires_at = serializers.DateTimeField(allow_null=True)
    is_disabled = serializers.SerializerMethodField()
    last_used_at = serializers.DateTimeField(allow_null=True)
    last_used_address = serializers.CharField()
    secrets = SecretShape(source="live_secrets", many=True)

    def get_is_disabled(self, credential: Any) -> bool:
        """Whether it gets no tokens until it is enabled again."""
        return credential.disabled_at is not None


class NewSecretShape(Shape):
    """A secret, shown this once."""

    id = serializers.UUIDField(source="secret_row.id")
    client_id = serializers.CharField(source="credential.client_id")
    client_secret = serializers.CharField(source="secret", allow_null=True)
    secret_prefix = serializers.CharField(source="secret_row.prefix")
    created_at = serializers.DateTimeField(source="secret_row.created_at")


class NewCredentialShape(CredentialShape):
    """A new credential with its secret, shown this once."""

    client_secret = serializers.CharField(allow_null=True)
    secret_prefix = serializers.CharField()
