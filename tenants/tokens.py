"""Access tokens for programs: the keys that sign them, issuing, verifying, and the secrets they are bought with.

Engines verify tokens on their own, with the public keys only; so whoever holds a private half could open every
engine. It is kept sealed with the installation's master key, and every key is ours alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, F, Q, QuerySet
from django.db.models.functions import Greatest, Now
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from common.errors import Temporary
from tenants.actor import Actor, PrincipalKind
from tenants.clock import database_now
from tenants.errors import InvalidClient, InvalidTarget, InvalidToken
from tenants.models import Audience, Credential, CredentialSecret, SigningKey
from tenants.roles import API_SCOPES, Permission
from tenants.scoping import scope

ALGORITHM = "RS256"
KEY_BITS = 2048
# A new key is in every mirror within seconds, which is looked after a minute and again five minutes later. Engines read
# their mirror again on an unknown key.
ACTIVATION_DELAY = timedelta(minutes=10)
# Clocks of engine hosts may be behind ours: a key stays published this much longer than its last token lives.
RETIREMENT_SLACK = timedelta(minutes=10)
# "Last used" is for people: once a minute keeps a busy client from rewriting its row at every token.
LAST_USE_RESOLUTION = timedelta(minutes=1)

_ALPHABET = string.ascii_letters + string.digits
_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_KEY_ID = re.compile(r"[0-9a-f]{32}")
SECRET_PREFIX_LENGTH = 12


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What the token endpoint hands out."""

    access_token: str = field(repr=False)
    expires_in: int


# --- Secrets -------------------------------------------------------------------------------------------------------


def new_client_id() -> str:
    """A fresh client id; it is public."""
    return "fpc_" + _random(20)


def new_secret() -> str:
    """A fresh secret of 40 random characters (238 bits): no dictionary reaches it, so a fast keyed hash keeps it."""
    return "fps_" + _random(40)


def digest(text: str) -> str:
    """The keyed hash under which a secret or an invitation's token is kept and found."""
    # Whatever a caller types is hashed, half a surrogate pair too; it just matches nothing.
    return hmac.new(
        settings.CREDENTIAL_PEPPER.encode(), text.encode(errors="surrogatepass"), hashlib.sha256
    ).hexdigest()


def invitation_token(invitation_id: UUID, expires_at: datetime) -> str:
    """The token in an invitation's mail. It follows from the row and our key, so it need not be stored to be mailed.

    A new expiry makes a new token, and the old one worthless.
    """
    return digest(f"invitation {invitation_id} {expires_at.timestamp():.6f}")


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


# --- Signing keys --------------------------------------------------------------------------------------------------


def ensure_signing_key() -> None:
    """Make the first signing key if there is none. One statement when there is; needs the system role."""
    if _signing_keys().exists():
        return
    with transaction.atomic():
        _serialize_key_changes()
        if not _signing_keys().exists():
            _make_signing_key(database_now())


@transaction.atomic
def rotate_signing_key(*, withdraw: bool = False) -> SigningKey:
    """Publish a new key at once, let it sign after `ACTIVATION_DELAY`; its predecessors retire after their last token.

    With `withdraw`, for keys that somebody else may hold: the new key signs at once and all others are published no
    more, so their tokens are worthless here at once, and for an engine from its next start on. Needs the system role.
    """
    ensure_signing_key()
    _serialize_key_changes()
    key = _make_signing_key(database_now() + (timedelta() if withdraw else ACTIVATION_DELAY))
    others = SigningKey.objects.exclude(pk=key.pk)
    if withdraw:
        others.filter(_not_retired()).update(retires_at=Now())
    else:
        last_token_expires = key.activates_at + timedelta(seconds=settings.TOKEN_LIFETIME_SECONDS)
        others.filter(retires_at=None).update(retires_at=last_token_expires + RETIREMENT_SLACK)
    return key


def public_jwks() -> dict[str, Any]:
    """Every public key that a valid token may be signed with, now or soon, as a JWK set. One query."""
    published = SigningKey.objects.filter(_not_retired()).order_by("activates_at", "kid")
    return {"keys": list(published.values_list("public_jwk", flat=True))}


def _make_signing_key(activates_at: datetime) -> SigningKey:
    kid = uuid.uuid4().hex
    pair = RSAKey.generate_key(KEY_BITS, parameters={"kid": kid, "use": "sig", "alg": ALGORITHM})
    return SigningKey.objects.create(
        kid=kid,
        public_jwk=pair.as_dict(private=False),
        private_sealed=_seal().encrypt(json.dumps(pair.as_dict(private=True)).encode()),
        activates_at=activates_at,
    )


def _serialize_key_changes() -> None:
    """Let one process at a time change the signing keys, until its transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('flowplane.signing_keys'))")


def _signing_keys() -> Any:
    """The keys that may sign; first the one that does: the newest that is active.

    Should none be, the database's clock has gone back behind them all: then the first that will be.
    """
    keys = SigningKey.objects.filter(_not_retired()).annotate(active_from=Greatest(F("activates_at"), Now()))
    return keys.order_by("active_from", "-activates_at", "-kid")


def _not_retired() -> Q:
    return Q(retires_at=None) | Q(retires_at__gt=Now())


def _seal() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.MASTER_KEYS])


@lru_cache(maxsize=16)
def _private_key(kid: str) -> RSAKey:
    """Open a private key once for each process; a key never changes under its id."""
    sealed = SigningKey.objects.values_list("private_sealed", flat=True).get(pk=kid)
    return RSAKey.import_key(json.loads(_seal().decrypt(bytes(sealed))))


@lru_cache(maxsize=16)
def _public_key(kid: str) -> RSAKey:
    return RSAKey.import_key(SigningKey.objects.values_list("public_jwk", flat=True).get(pk=kid))


# --- Issuing -------------------------------------------------------------------------------------------------------


def issue_token(*, client_id: str, client_secret: str, audience: str, source_address: str) -> IssuedToken:
    """Exchange a client's id and secret for an access token. Needs a transaction.

    Args:
        audience: a cluster's id or the REST API's URL; "" for the only one that the credential is for.

    Raises:
        InvalidClient: unknown client, wrong secret, disabled, expired or revoked; always the same words.
        InvalidTarget: the client is not for this audience, or its cluster is gone.
        Temporary: the installation has no signing key yet.
    """
    secret = _authenticate(client_id, client_secret)
    credential = secret.credential
    target = _target(credential, audience)
    _note_use(secret, source_address)
    return _sign(credential, target, secret)


def _authenticate(client_id: str, client_secret: str) -> CredentialSecret:
    """Find the live secret that was shown. Compares as often for an unknown client as for a known one."""
    shown = digest(client_secret)
    found = None
    for candidate in _live_secrets(client_id):
        if hmac.compare_digest(candidate.digest, shown):
            found = candidate
    if found is None:
        hmac.compare_digest(shown, digest(client_id))
        raise InvalidClient("The client is not known, its secret is wrong, or it is disabled, expired or revoked.")
    scope(organization_id=found.organization_id)
    return found


def _live_secrets(client_id: str) -> list[CredentialSecret]:
    if not _CLIENT_ID.fullmatch(client_id):
        return []
    scope(presented=client_id)
    return list(_live(client_id))


def _live(client_id: str) -> QuerySet[CredentialSecret]:
    live = Q(credential__expires_at=None) | Q(credential__expires_at__gt=Now())
    return CredentialSecret.objects.select_related("credential").filter(
        live,
        revoked_at=None,
        credential__client_id=client_id,
        credential__revoked_at=None,
        credential__disabled_at=None,
    )


def _target(credential: Credential, audience: str) -> str:
    """What the token's `aud` is to be."""
    if credential.audience_id is None:
        if audience in ("", settings.API_AUDIENCE):
            return str(settings.API_AUDIENCE)
    elif audience in ("", str(credential.audience_id)):
        if value := _open_audience_value(credential.audience_id):
            return value
        raise InvalidTarget("The cluster that this client is for has been deleted.")
    raise InvalidTarget("This client gets no tokens for that audience. Leave the audience out, or name its own.")


def _open_audience_value(audience_id: UUID) -> str:
    audience = Audience.objects.filter(pk=audience_id, closed_at=None).first()
    return audience.value if audience else ""


def _note_use(secret: CredentialSecret, source_address: str) -> None:
    """Remember when and from where the secret was last used, at most once a minute for each row."""
    stale = Q(last_used_at=None) | Q(last_used_at__lt=Now() - LAST_USE_RESOLUTION)
    Credential.objects.filter(stale, pk=secret.credential_id).update(
        last_used_at=Now(), last_used_address=source_address
    )
    CredentialSecret.objects.filter(stale, pk=secret.pk).update(last_used_at=Now())


def _sign(credential: Credential, target: str, secret: CredentialSecret) -> IssuedToken:
    found = _signing_keys().annotate(now=Now()).values_list("kid", "now").first()
    if found is None:
        raise Temporary("No token can be issued yet: the installation is still making its signing key.")
    kid, now = found
    issued_at = int(now.timestamp())
    lifetime_seconds: int = settings.TOKEN_LIFETIME_SECONDS
    if credential.expires_at is not None:
        # An engine never asks us again: a token must not outlive what bought it.
        lifetime_seconds = max(1, min(lifetime_seconds, int(credential.expires_at.timestamp()) - issued_at))
    claims = {
        "iss": settings.API_URL,
        "sub": credential.client_id,
        "client_id": credential.client_id,
        "azp": credential.client_id,
        "aud": [target],
        "iat": issued_at,
        "exp": issued_at + lifetime_seconds,
        "jti": uuid.uuid4().hex,
        # Lets our own door refuse a token at once when the very secret that bought it is revoked.
        "sid": str(secret.pk),
    }
    if credential.audience_id is None:
        # Our own door then knows whose rows to look at; an engine has no use for it.
        claims["org"] = str(credential.organization_id)
    if credential.scopes:
        claims["scope"] = " ".join(credential.scopes)
    token = jwt.encode({"alg": ALGORITHM, "kid": kid, "typ": "JWT"}, claims, _private_key(kid), algorithms=[ALGORITHM])
    return IssuedToken(access_token=token, expires_in=lifetime_seconds)


# --- Verifying, at our own door ------------------------------------------------------------------------------------


def verify_api_token(token: str, *, source_address: str = "", request_id: str = "") -> Actor:
    """The actor that an access token for the REST API stands for. One query, and one statement that sets the scope.

    The key, the credential and the very secret are looked up each time, so a revoked one is refused at once. Needs a
    transaction.

    Raises:
        InvalidToken: forged, expired, for another audience, or of a credential that is not live any more.
    """
    claims, kid = _verified_claims(token)
    secret = _enter(claims, kid)
    if secret is None or secret.credential.audience_id is not None:
        raise InvalidToken("The credential of this access token was revoked, disabled or has expired.")
    credential = secret.credential
    granted = set(claims.get("scope", "").split()) & set(credential.scopes)
    return Actor(
        kind=PrincipalKind.CREDENTIAL,
        principal_id=str(credential.pk),
        label=credential.name,
        organization_id=credential.organization_id,
        permissions=frozenset(Permission(name) for name in granted & API_SCOPES),
        source_address=source_address,
        request_id=request_id,
    )


# Times are compared with the database's, not with this host's: see `_enter`.
_CLAIMS = jwt.JWTClaimsRegistry(
    leeway=10**12,
    iss={"essential": True},
    aud={"essential": True},
    exp={"essential": True},
    client_id={"essential": True},
    sid={"essential": True},
)


def _enter(claims: Mapping[str, Any], kid: str) -> CredentialSecret | None:
    """Act in the token's organization from here on; the secret that bought it, or None when it is not live any more.

    Raises:
        InvalidToken: it has expired, or its key was withdrawn since: one that was stolen opens nothing.
    """
    if organization_id := claims.get("org"):
        scope(organization_id=UUID(str(organization_id)))
    else:
        scope(presented=claims["client_id"])  # it was issued by older code
    published = SigningKey.objects.filter(_not_retired(), pk=kid)
    rows = _live(claims["client_id"]).annotate(is_published=Exists(published), now=Now())
    found: Any = rows.filter(pk=claims["sid"]).first()  # the annotations are invisible to the type checker
    if found is None:
        return None
    if not found.is_published:
        raise InvalidToken(_NOT_VALID, internal="the key was withdrawn")
    if claims["exp"] <= found.now.timestamp():
        raise InvalidToken(_NOT_VALID, internal="expired")
    if not organization_id:
        scope(organization_id=found.organization_id)
    return cast(CredentialSecret, found)


_NOT_VALID = "This access token is not valid here, or has expired. Ask the token endpoint for a new one."


def _verified_claims(token: str) -> tuple[dict[str, Any], str]:
    """What a token says, signed by a key that we have made, and that key's id; whether it is published is not asked."""
    try:
        decoded = jwt.decode(token, _key_of, algorithms=[ALGORITHM])
        _CLAIMS.validate(decoded.claims)
    except (JoseError, ValueError, TypeError, SigningKey.DoesNotExist) as error:
        raise InvalidToken(_NOT_VALID, internal=type(error).__name__) from error
    if decoded.claims["iss"] != settings.API_URL or not _is_for_our_api(decoded.claims["aud"]):
        raise InvalidToken("This access token is for something else: ask for one whose audience is the REST API.")
    _require_well_formed(decoded.claims)
    return decoded.claims, str(decoded.header["kid"])


def _require_well_formed(claims: Mapping[str, Any]) -> None:
    """Whoever has a key that was withdrawn can sign anything, and is to read the same words as everybody else."""
    try:
        for name in ("sid", "org"):
            UUID(str(claims.get(name) or UUID(int=0)))
        if not (isinstance(claims.get("scope", ""), str) and _CLIENT_ID.fullmatch(claims["client_id"])):
            raise ValueError("a claim is not what it should be")
    except (ValueError, TypeError) as error:
        raise InvalidToken(_NOT_VALID, internal="claims") from error


def _is_for_our_api(audience: Any) -> bool:
    """Whether `aud`, a text or a list of texts, names the REST API; a longer text that contains it does not."""
    return bool(audience == settings.API_AUDIENCE or (isinstance(audience, list) and settings.API_AUDIENCE in audience))


def _key_of(token: Any) -> RSAKey:
    """The key that the token names. No query, but for the first token of each key."""
    kid = str(token.headers().get("kid", ""))
    if not _KEY_ID.fullmatch(kid):
        raise SigningKey.DoesNotExist
    return _public_key(kid)
