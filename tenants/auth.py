"""Who is asking: sessions of people and tokens of programs become an `Actor`, and the database learns its scope."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.core.exceptions import ImmediateHttpResponse
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from common.errors import NotFound
from tenants import tokens
from tenants.actor import Actor, PrincipalKind
from tenants.errors import InvalidToken, SignInNeeded
from tenants.models import MailKind, Membership, User
from tenants.roles import Role, permissions_of
from tenants.scoping import scope
from tenants.services import queue_mail, record_account_change

if TYPE_CHECKING:
    # REST framework's views import this module by name, through the settings.
    from rest_framework.views import APIView

log = logging.getLogger(__name__)

ORGANIZATION_KEY = "organization_id"
ORGANIZATION_HEADER = "X-Organization"
MAX_ADDRESS_LENGTH = 254
REQUEST_ID_KEY = "flowplane.request_id"


# --- Requests ---------------------------------------------------------------------------------------------------------


def actor_of(request: HttpRequest | Request) -> Actor:
    """The actor of a request, its scope entered: of the REST door what was authenticated, else the session's person.

    A person acts in the organization that its session chose, or else in the one it joined first; in none before it
    has any. Needs a transaction; three statements at most.

    Raises:
        SignInNeeded: nobody is signed in.
    """
    authenticated = getattr(request, "auth", None)
    if isinstance(authenticated, Actor):
        return authenticated
    return _person(request, request.session.get(ORGANIZATION_KEY, ""))


def switch_organization(request: HttpRequest, organization_id: UUID) -> None:
    """Let the session act in another of the person's organizations from now on. Raises `NotFound`, `SignInNeeded`."""
    _person(request, str(organization_id), is_strict=True)
    request.session[ORGANIZATION_KEY] = str(organization_id)


def source_address_of(request: HttpRequest | Request) -> str:
    """The address of the peer that connected; a proxy in front has to be transparent, or it is the proxy's."""
    return str(request.META.get("REMOTE_ADDR", ""))


def request_id_of(request: HttpRequest | Request) -> str:
    """The id that joins this request's audit events and log lines; the middleware leaves it beside the headers."""
    return str(request.META.get(REQUEST_ID_KEY, ""))


def _person(request: HttpRequest | Request, organization: str, *, is_strict: bool = False) -> Actor:
    user = request.user
    if not isinstance(user, User) or not user.is_active:
        raise SignInNeeded("Sign in first.")
    scope(user_id=user.pk)
    membership = _membership(user, organization, is_strict=is_strict)
    if membership is None:
        return _actor(request, user)
    scope(organization_id=membership.organization_id)
    return _actor(request, user, membership)


def _membership(user: User, organization: str, *, is_strict: bool) -> Membership | None:
    """The membership to act by: in the organization asked for, or in the one joined first when none was.

    Whoever was removed from the organization of their session acts in none until they choose: what was meant for one
    organization must never be written into another.
    """
    own = list(Membership.objects.filter(user_id=user.pk).order_by("created_at", "pk"))
    for membership in own:
        if str(membership.organization_id) == organization.lower():
            return membership
    if is_strict:
        raise NotFound("There is no such organization among yours.")
    return own[0] if own and not organization else None


def _actor(request: HttpRequest | Request, user: User, membership: Membership | None = None) -> Actor:
    return Actor(
        kind=PrincipalKind.PERSON,
        principal_id=str(user.pk),
        label=user.email,
        organization_id=membership.organization_id if membership else None,
        permissions=permissions_of(Role(membership.role)) if membership else frozenset(),
        source_address=source_address_of(request),
        request_id=request_id_of(request),
    )


# --- The REST door ----------------------------------------------------------------------------------------------------


class BearerAuthentication(BaseAuthentication):
    """An access token of an API credential; `request.auth` is its actor."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, Actor] | None:
        """The credential's actor, or None when no token was sent."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            actor = tokens.verify_api_token(
                token.strip(), source_address=source_address_of(request), request_id=request_id_of(request)
            )
        except InvalidToken as error:
            raise AuthenticationFailed(error.message, code=error.code) from error
        return AnonymousUser(), actor

    def authenticate_header(self, request: Request) -> str:
        """What a 401 says about how to authenticate."""
        return 'Bearer realm="Flowplane"'


class ConsoleSessionAuthentication(SessionAuthentication):
    """The console's session with its CSRF token; `request.auth` is the person's actor."""

    def authenticate(self, request: Request) -> tuple[User, Actor] | None:
        """The person's actor in the organization that the header or the session names, or None without a session."""
        user = getattr(request._request, "user", None)
        if not isinstance(user, User) or not user.is_active:
            return None
        self.enforce_csrf(request)
        named = request.headers.get(ORGANIZATION_HEADER, "")
        chosen = named or request._request.session.get(ORGANIZATION_KEY, "")
        return user, _person(request._request, chosen, is_strict=bool(named))


class IsAuthenticatedActor(BasePermission):
    """Lets a request pass that has an actor; what the actor may do, services and selectors ask."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether somebody was authenticated."""
        return isinstance(request.auth, Actor)


# --- allauth ----------------------------------------------------------------------------------------------------------


class AccountAdapter(DefaultAccountAdapter):
    """allauth's hooks: mails are queued as ids, and every change of an account leaves an audit event."""

    def clean_email(self, email: str) -> str:
        """The address as it is kept. Longer ones would be cut to fit, and so become somebody else's."""
        if len(email) > MAX_ADDRESS_LENGTH:
            raise ValidationError(f"This address has {len(email)} characters; {MAX_ADDRESS_LENGTH} is the most.")
        cleaned: str = super().clean_email(email)
        return cleaned

    def save_user(self, request: HttpRequest, user: AbstractBaseUser, form: Any, commit: bool = True) -> User:
        """Insert a person who signs up.

        Whoever loses a race for one address sees the same page as for any address, and the winner's mail arrives.
        """
        try:
            with transaction.atomic():
                saved = cast(User, super().save_user(request, user, form, commit))
        except IntegrityError as error:
            answer = cast(HttpResponse, self.respond_email_verification_sent(request, None))
            raise ImmediateHttpResponse(answer) from error
        self._record(request, saved, "account.created", email=(None, saved.email))
        return saved

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        """Mark an address as its person's own."""
        is_confirmed: bool = super().confirm_email(request, email_address)
        if is_confirmed:
            self._record(request, email_address.user, "account.address_confirmed", email=(None, email_address.email))
        return is_confirmed

    def login(self, request: HttpRequest, user: AbstractBaseUser) -> None:
        """Begin a session."""
        super().login(request, user)
        self._record(request, cast(User, user), "account.signed_in")

    def send_confirmation_mail(
        self, request: HttpRequest, emailconfirmation: EmailConfirmationHMAC, signup: bool
    ) -> None:
        """Queue the mail with the confirmation link."""
        address = emailconfirmation.email_address
        queue_mail(kind=MailKind.CONFIRM_ADDRESS, address=address.email, user=address.user, subject_id=str(address.pk))

    def send_account_already_exists_mail(self, email: str) -> None:
        """Queue the mail that says so, to the address only: the page looks as for any other address, and takes as long.

        What takes time for a new address is the hash of its password, so one is made here, too.
        """
        make_password(email)
        queue_mail(kind=MailKind.ALREADY_REGISTERED, address=email)

    def send_password_reset_mail(self, user: AbstractBaseUser, email: str, context: dict[str, Any]) -> None:
        """Queue the mail with the reset link."""
        queue_mail(kind=MailKind.RESET_PASSWORD, address=email, user=cast(User, user))

    def send_notification_mail(
        self,
        template_prefix: str,
        user: AbstractBaseUser,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        """Record a change of how somebody signs in, and queue the mail that tells the person."""
        person, notice = cast(User, user), template_prefix.rpartition("/")[2]
        self._record(self.request, person, f"account.{notice}")
        queue_mail(kind=MailKind.SECURITY_NOTICE, address=email or person.email, user=person, subject_id=notice)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Queue what is left: the answer to a reset for an address without an account.

        Any other mail belongs to a feature of allauth that is not switched on here: it is dropped and logged.
        """
        if template_prefix.endswith("unknown_account"):
            queue_mail(kind=MailKind.UNKNOWN_ACCOUNT, address=email)
        else:
            log.error("mail %s is not sent: there is no text for it", template_prefix)

    def _record(self, request: HttpRequest, user: User, action: str, **changes: tuple[Any, Any]) -> None:
        record_account_change(actor=_actor(request, user), user=user, action=action, changes=changes)
