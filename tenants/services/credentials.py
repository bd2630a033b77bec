"""What programs sign in with: clients of the REST API, and clients of one engine cluster.

`audience_id` says which: None for the REST API, a cluster's audience for its clients. A door that knows where the
credential must be names it, and it is only found there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from common.errors import EntitlementExceeded, InvalidRequest, NotFound
from tenants import audit, tokens
from tenants.actor import Actor
from tenants.audit import Changes
from tenants.clock import database_now
from tenants.errors import CredentialLimit, NameTaken
from tenants.models import Audience, Credential, CredentialSecret
from tenants.naming import clean_name
from tenants.roles import API_SCOPES, Permission
from tenants.scoping import OrganizationQuerySet
from tenants.selectors import UNSET, Unset
from tenants.services.organizations import lock_organization

# Rotation needs the old secret and the new one side by side, and no third.
MAX_LIVE_SECRETS = 2
MAX_API_CREDENTIALS = 20


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret, in the only moment in which it can be read."""

    credential: Credential
    secret: str = field(repr=False)
    secret_row: CredentialSecret


@transaction.atomic
def create_credential(
    *,
    actor: Actor,
    name: str,
    audience_id: UUID | None = None,
    scopes: Iterable[str] = (),
    expires_at: datetime | None = None,
    limit: int | None = None,
) -> NewSecret:
    """Make a credential with its first secret.

    Args:
        scopes: for the REST API only: permissions that the actor has itself.
        limit: how many live credentials the plan allows for a cluster; None means `MAX_API_CREDENTIALS` for the
            REST API, and no limit for a cluster.

    Raises:
        InvalidName, InvalidRequest: the name, a scope, or an expiry that has passed.
        NameTaken: another live credential for the same thing has the name.
        EntitlementExceeded: the limit is reached.
        NotFound: the actor's organization has no such cluster, or it is deleted.
        NotPermitted.
    """
    _require_writer(actor, audience_id)
    cleaned = clean_name(name)
    granted = _clean_scopes(actor, audience_id, scopes)
    _require_future(expires_at)
    _lock_place(actor, audience_id)
    _require_room(actor, audience_id, limit)
    _refuse_taken(actor, audience_id, cleaned)
    credential = Credential.objects.create(
        organization_id=actor.organization,
        audience_id=audience_id,
        name=cleaned,
        client_id=tokens.new_client_id(),
        scopes=granted,
        created_by=actor.label,
        expires_at=expires_at,
    )
    audit.record(
        actor,
        action="credential.created",
        target=credential,
        changes={"name": (None, cleaned), "scopes": (None, granted), "expires_at": (None, expires_at)},
    )
    return _make_secret(credential)


@transaction.atomic
def add_secret(*, actor: Actor, credential_id: UUID, audience_id: UUID | Unset | None = UNSET) -> NewSecret:
    """Give a credential a second secret, so that its programs can change over before the first is revoked.

    Raises:
        CredentialLimit: two are live already.
        NotFound, NotPermitted.
    """
    credential = _lock_live(actor, credential_id, audience_id)
    if credential.secrets.filter(revoked_at=None).count() >= MAX_LIVE_SECRETS:
        raise CredentialLimit(
            f"This credential has {MAX_LIVE_SECRETS} live secrets, which is the most. Revoke the older one first.",
            limit=MAX_LIVE_SECRETS,
        )
    made = _make_secret(credential)
    audit.record(
        actor,
        action="credential.secret_added",
        target=credential,
        changes={"secret_prefix": (None, made.secret_row.prefix)},
    )
    return made


@transaction.atomic
def revoke_secret(
    *, actor: Actor, credential_id: UUID, secret_id: UUID, audience_id: UUID | Unset | None = UNSET
) -> None:
    """Make one secret worthless at once. Doing it again changes nothing. Raises `NotFound`, `NotPermitted`."""
    credential = _lock_live(actor, credential_id, audience_id)
    secret = credential.secrets.filter(pk=secret_id).first()
    if secret is None:
        raise NotFound("This credential has no such secret.")
    if secret.revoked_at is None:
        credential.secrets.filter(pk=secret_id).update(revoked_at=Now())
        audit.record(
            actor,
            action="credential.secret_revoked",
            target=credential,
            changes={"secret_prefix": (secret.prefix, None)},
        )


@transaction.atomic
def update_credential(
    *,
    actor: Actor,
    credential_id: UUID,
    audience_id: UUID | Unset | None = UNSET,
    name: str | None = None,
    is_disabled: bool | None = None,
    expires_at: datetime | Unset | None = UNSET,
) -> Credential:
    """Rename, disable or enable a credential, or set another expiry (None: never).

    Raises:
        InvalidName, InvalidRequest, NameTaken, NotFound, NotPermitted.
    """
    credential = _lock_live(actor, credential_id, audience_id)
    changes: dict[str, tuple[object, object]] = {}
    if name is not None and (cleaned := clean_name(name)) != credential.name:
        _lock_place(actor, credential.audience_id)
        _refuse_taken(actor, credential.audience_id, cleaned)
        changes["name"], credential.name = (credential.name, cleaned), cleaned
    if is_disabled is not None and is_disabled != (credential.disabled_at is not None):
        changes["is_disabled"] = (not is_disabled, is_disabled)
        credential.disabled_at = database_now() if is_disabled else None
    if not isinstance(expires_at, Unset) and expires_at != credential.expires_at:
        _require_future(expires_at)
        changes["expires_at"], credential.expires_at = (credential.expires_at, expires_at), expires_at
    _save_changes(actor, credential, changes)
    return credential


@transaction.atomic
def revoke_credential(*, actor: Actor, credential_id: UUID, audience_id: UUID | Unset | None = UNSET) -> None:
    """End a credential for good: it gets no token any more. Raises `NotFound`, `NotPermitted`.

    Tokens for the REST API end with it; an engine honours those it was given until they expire or access to the
    cluster is revoked.
    """
    credential = _lock_live(actor, credential_id, audience_id)
    credential.secrets.filter(revoked_at=None).update(revoked_at=Now())
    credential.revoked_at = database_now()
    credential.save(update_fields=["revoked_at"])
    audit.record(actor, action="credential.revoked", target=credential, changes={"name": (credential.name, None)})


# --- Audiences: for provisioning, which has asked the actor already ---------------------------------------------------


def open_audience(*, organization_id: UUID, audience_id: UUID | None = None, epoch: int = 1) -> Audience:
    """Let tokens be asked for a new cluster: by `audience_id`, the cluster's own id, or by a fresh one.

    `epoch` is another than the first for a cluster that was found and adopted: its engine expects that one.
    """
    return Audience.objects.create(pk=audience_id or uuid4(), organization_id=organization_id, epoch=epoch)


@transaction.atomic
def advance_audience(audience_id: UUID) -> int:
    """Make all tokens issued so far worthless to an engine that is started with the epoch returned."""
    Audience.objects.filter(pk=audience_id).update(epoch=F("epoch") + 1)
    return Audience.objects.values_list("epoch", flat=True).get(pk=audience_id)


def close_audience(audience_id: UUID) -> None:
    """Issue no more tokens for a cluster that is deleted. Twice is as good as once."""
    Audience.objects.filter(pk=audience_id, closed_at=None).update(closed_at=Now())


# --- Signing keys -----------------------------------------------------------------------------------------------------


def ensure_signing_key() -> None:
    """Make the installation's first signing key unless there is one. Needs the system role."""
    tokens.ensure_signing_key()


@transaction.atomic
def rotate_signing_key(*, actor: Actor, withdraw: bool = False) -> None:
    """Publish a new signing key, which takes over when every engine has had time to learn it.

    With `withdraw` it takes over at once, and what its predecessors signed is worthless. Needs the system role.
    """
    key = tokens.rotate_signing_key(withdraw=withdraw)
    audit.record(
        actor,
        action="signing_key.rotated",
        target=key,
        changes={"activates_at": (None, key.activates_at), "withdraw": (None, withdraw)},
    )


# --- Rules ------------------------------------------------------------------------------------------------------------


def _require_writer(actor: Actor, audience_id: UUID | None) -> None:
    actor.require(Permission.API_CREDENTIALS_WRITE if audience_id is None else Permission.CREDENTIALS_WRITE)


def _clean_scopes(actor: Actor, audience_id: UUID | None, scopes: Iterable[str]) -> list[str]:
    wanted = sorted(set(scopes))
    if audience_id is not None:
        if wanted:
            raise InvalidRequest("A cluster's credential has no scopes: leave them out.", field="scopes")
        return []
    offered = sorted(API_SCOPES & actor.permissions)
    if refused := [name for name in wanted if name not in offered]:
        raise InvalidRequest(
            f"“{refused[0]}” is not a scope that you can give. Choose from: {', '.join(offered)}.", field="scopes"
        )
    if not wanted:
        raise InvalidRequest(
            f"Choose at least one scope, or the credential can do nothing: {', '.join(offered)}.", field="scopes"
        )
    return wanted


def _require_future(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= database_now():
        raise InvalidRequest("The expiry must lie in the future.", field="expires_at")


def _lock_place(actor: Actor, audience_id: UUID | None) -> None:
    """Hold what the credential is for until the transaction ends, so that a count of its credentials stays true."""
    if audience_id is None:
        lock_organization(actor.organization)
        return
    audiences = Audience.objects.for_organization(actor.organization).filter(closed_at=None)
    if not audiences.select_for_update().filter(pk=audience_id).exists():
        raise NotFound("There is no such cluster in this organization.")


def _require_room(actor: Actor, audience_id: UUID | None, limit: int | None) -> None:
    allowed = MAX_API_CREDENTIALS if limit is None and audience_id is None else limit
    if allowed is None:
        return
    used = _live(actor, audience_id).count()
    if used >= allowed:
        raise EntitlementExceeded(
            f"{allowed} credentials are the most here, and all are in use. Revoke one that is not needed any more.",
            limit=allowed,
            used=used,
        )


def _refuse_taken(actor: Actor, audience_id: UUID | None, name: str) -> None:
    if _live(actor, audience_id).filter(name=name).exists():
        raise NameTaken(f"Another credential here is called “{name}”. Choose another name.", field="name")


def _live(actor: Actor, audience_id: UUID | None) -> OrganizationQuerySet[Credential]:
    return Credential.objects.for_organization(actor.organization).filter(Q(audience_id=audience_id), revoked_at=None)


def _lock_live(actor: Actor, credential_id: UUID, audience_id: UUID | Unset | None) -> Credential:
    rows = Credential.objects.for_organization(actor.organization).filter(revoked_at=None)
    if not isinstance(audience_id, Unset):
        rows = rows.filter(Q(audience_id=audience_id))
    credential = rows.select_for_update().filter(pk=credential_id).first()
    if credential is None:
        raise NotFound("There is no such credential here.")
    _require_writer(actor, credential.audience_id)
    return credential


def _make_secret(credential: Credential) -> NewSecret:
    secret = tokens.new_secret()
    row = CredentialSecret.objects.create(
        id=uuid4(),
        organization_id=credential.organization_id,
        credential=credential,
        prefix=secret[: tokens.SECRET_PREFIX_LENGTH],
        digest=tokens.digest(secret),
    )
    return NewSecret(credential, secret, row)


def _save_changes(actor: Actor, credential: Credential, changes: Changes) -> None:
    if changes:
        credential.save(update_fields=["name", "disabled_at", "expires_at"])
        audit.record(actor, action="credential.changed", target=credential, changes=changes)
