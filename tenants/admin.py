"""The operator site's pages about people, organizations, credentials and history; and what all its pages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import Count, Field, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.forms import ModelForm
from django.http import HttpRequest

from tenants import audit
from tenants.actor import Actor, PrincipalKind
from tenants.auth import request_id_of, source_address_of
from tenants.models import (
    AuditEvent,
    Credential,
    CredentialSecret,
    Invitation,
    Membership,
    Organization,
    OutgoingMail,
    SigningKey,
    User,
)

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:  # only the type stubs know that these are generic
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline


def operator_of(request: HttpRequest) -> Actor:
    """The operator, as audit events name it."""
    user = request.user
    return Actor(
        kind=PrincipalKind.OPERATOR,
        principal_id=str(user.pk),
        label=user.get_username(),
        source_address=source_address_of(request),
        request_id=request_id_of(request),
    )


class OperatorAdmin(ModelAdmin):
    """A page of the operator site: whoever is let into the site may use it, and each change leaves an audit event."""

    may_add: ClassVar[bool] = False
    may_change: ClassVar[bool] = False
    may_delete: ClassVar[bool] = False
    list_per_page = 50
    show_full_result_count = False
    actions = None

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The site has asked already."""
        return self.admin_site.has_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Operators see everything that is on a page."""
        return self.admin_site.has_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Where adding makes sense."""
        return self.may_add and self.admin_site.has_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Where changing by hand makes sense."""
        return self.may_change and self.admin_site.has_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Where removing makes sense."""
        return self.may_delete and self.admin_site.has_permission(request)

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        """With what it was when the page was opened: what moved meanwhile was not changed by the operator."""
        return super().formfield_for_dbfield(db_field, request, show_hidden_initial=True, **kwargs)

    def save_model(self, request: HttpRequest, obj: Model, form: ModelForm[Any], change: bool) -> None:
        """Save what the operator changed and nothing else, and record which fields changed from what to what."""
        obj.save(update_fields=_changed_columns(obj, form) if change else None)
        if change:
            # Django writes the lists that are left here, after this.
            form.cleaned_data = {name: form.cleaned_data[name] for name in form.changed_data}
        verb = "changed" if change else "added"
        action = f"operator.{obj._meta.model_name}.{verb}"
        audit.record(operator_of(request), action=action, target=obj, changes=_changes(form))

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Record, and remove."""
        action = f"operator.{obj._meta.model_name}.removed"
        audit.record(operator_of(request), action=action, target=obj, changes={"name": (str(obj), None)})
        super().delete_model(request, obj)


def _changed_columns(row: Model, form: ModelForm[Any]) -> list[str]:
    columns = {field.name for field in row._meta.concrete_fields}
    return [name for name in form.changed_data if name in columns]


def _changes(form: ModelForm[Any]) -> Mapping[str, tuple[object, object]]:
    return {name: (_shown(form.initial.get(name)), _shown(form.cleaned_data.get(name))) for name in form.changed_data}


def _shown(value: object) -> object:
    """Rows by their keys, on both sides."""
    if isinstance(value, QuerySet | list | tuple):
        return [_shown(item) for item in value]
    return value.pk if isinstance(value, Model) else value


class ReadOnlyInline(TabularInline):
    """Rows shown on the page of the row that they belong to."""

    extra = 0
    can_delete = False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """The page has asked already."""
        return True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nor changed."""
        return False


class MembershipInline(ReadOnlyInline):
    """Who belongs where; changed in the console, by the organization itself."""

    model = Membership
    fields = readonly_fields = ("organization", "user", "role", "created_at")


@admin.register(Organization)
class OrganizationAdmin(OperatorAdmin):
    """Our customers."""

    list_display = ("name", "id", "members", "created_at")
    search_fields = ("name", "id")
    readonly_fields = ("id", "created_at")
    fields = ("id", "name", "created_at")
    date_hierarchy = "created_at"
    inlines = (MembershipInline,)
    may_change = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        """With the number of members."""
        members = Membership.objects.filter(organization=OuterRef("pk")).order_by().values("organization")
        count = members.annotate(count=Count("pk")).values("count")
        rows: QuerySet[Organization] = super().get_queryset(request)
        return rows.annotate(member_count=Coalesce(Subquery(count), 0))

    @admin.display(ordering="member_count")
    def members(self, row: Organization) -> int:
        """How many people belong to it."""
        count: int = row.member_count  # type: ignore[attr-defined]
        return count


@admin.register(User)
class UserAdmin(OperatorAdmin):
    """People. Only superusers make operators."""

    list_display = ("email", "is_active", "is_staff", "date_joined", "last_login")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email",)
    ordering = ("email",)
    fields = ("email", "is_active", "is_staff", "is_superuser", "date_joined", "last_login")
    inlines = (MembershipInline,)
    may_change = True

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        """An operator who is no superuser can close an account, but raise none."""
        fixed = ("email", "date_joined", "last_login")
        return fixed if request.user.is_superuser else (*fixed, "is_staff", "is_superuser")


@admin.register(Invitation)
class InvitationAdmin(OperatorAdmin):
    """Offers of membership, without what would let somebody accept them."""

    list_display = ("email", "organization", "role", "created_at", "expires_at", "accepted_at", "revoked_at")
    list_filter = ("role",)
    search_fields = ("email", "organization__name")
    list_select_related = ("organization",)
    exclude = ("token_digest",)


class SecretInline(ReadOnlyInline):
    """A credential's secrets by their beginnings; there is nothing more of them to show."""

    model = CredentialSecret
    fields = readonly_fields = ("prefix", "created_at", "last_used_at", "revoked_at")


@admin.register(Credential)
class CredentialAdmin(OperatorAdmin):
    """What programs sign in with."""

    list_display = ("name", "client_id", "organization", "audience", "last_used_at", "disabled_at", "revoked_at")
    list_filter = (("audience", admin.EmptyFieldListFilter), ("revoked_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "client_id", "organization__name")
    list_select_related = ("organization", "audience")
    inlines = (SecretInline,)


@admin.register(AuditEvent)
class AuditEventAdmin(OperatorAdmin):
    """Who did what. Nobody changes it, operators included."""

    list_display = ("at", "organization", "actor_kind", "actor_label", "action", "target_kind", "target_id")
    list_filter = ("actor_kind", "target_kind", "action")
    search_fields = ("actor_label", "target_id", "request_id", "organization__name")
    list_select_related = ("organization",)
    date_hierarchy = "at"
    ordering = ("-at", "-id")


@admin.register(SigningKey)
class SigningKeyAdmin(OperatorAdmin):
    """Token keys by their ids and dates; the sealed half is never rendered."""

    list_display = fields = ("kid", "created_at", "activates_at", "retires_at")
    ordering = ("-activates_at",)


@admin.register(OutgoingMail)
class OutgoingMailAdmin(OperatorAdmin):
    """Mails, sent and unsent: what about and to whom, never what stood in them."""

    list_display = ("kind", "address", "created_at", "due_at", "attempts", "sent_at")
    list_filter = ("kind", ("sent_at", admin.EmptyFieldListFilter))
    search_fields = ("address",)
    ordering = ("-created_at",)
