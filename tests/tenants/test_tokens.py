"""The token endpoint, as stock clients speak to it, and the keys behind it."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta
from io import StringIO
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.utils import timezone
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tenants import services, tokens
from tenants.actor import SYSTEM
from tenants.errors import InvalidToken
from tenants.models import Audience, AuditEvent, Credential, CredentialSecret, SigningKey
from tenants.services import NewSecret
from tests.conftest import RestClient, WebClient, web_role
from tests.factories import Person, expire, make_audience, make_credential

pytestmark = pytest.mark.django_db

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(autouse=True)
def signing_key(db: None, system_role: None) -> None:
    tokens.ensure_signing_key()


@pytest.fixture
def audience(alice: Person) -> Audience:
    return make_audience(alice.organization)


@pytest.fixture
def worker(alice: Person, audience: Audience) -> NewSecret:
    """A credential of one cluster."""
    return make_credential(alice, audience_id=audience.pk)


def grant(new: NewSecret, **overrides: str) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_id": new.credential.client_id,
        "client_secret": new.secret,
        **overrides,
    }


def ask(client: WebClient, fields: dict[str, str], **headers: str) -> Any:
    return client.post("/oauth/token", urlencode(fields), content_type=FORM, headers=headers)


def claims_of(token: str) -> dict[str, Any]:
    """What an engine would read, verified with the published keys only."""
    return dict(jwt.decode(token, KeySet.import_key_set(cast(Any, tokens.public_jwks())), algorithms=["RS256"]).claims)


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()).decode()


def test_a_form_buys_a_token_for_the_one_cluster(
    client: WebClient, worker: NewSecret, audience: Audience, settings: Any
) -> None:
    answer = ask(client, grant(worker, audience=str(audience.pk)))
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    body = answer.json()
    assert (body["token_type"], body["expires_in"]) == ("Bearer", settings.TOKEN_LIFETIME_SECONDS)
    claims = claims_of(body["access_token"])
    assert claims["iss"] == settings.API_URL
    assert claims["aud"] == [f"{audience.pk}/1"]
    assert claims["sub"] == claims["client_id"] == claims["azp"] == worker.credential.client_id
    assert claims["exp"] - claims["iat"] == settings.TOKEN_LIFETIME_SECONDS
    assert claims["jti"]


def test_json_and_basic_are_understood_too(client: WebClient, worker: NewSecret) -> None:
    assert client.post("/oauth/token", grant(worker), content_type="application/json").status_code == 200
    header = basic(worker.credential.client_id, worker.secret)
    answer = ask(client, {"grant_type": "client_credentials"}, Authorization=header)
    assert answer.status_code == 200


def test_every_token_differs(client: WebClient, worker: NewSecret) -> None:
    assert len({ask(client, grant(worker)).json()["access_token"] for _ in range(3)}) == 3


def test_an_audience_is_asked_for_by_the_same_name_after_access_was_revoked(
    client: WebClient, worker: NewSecret, audience: Audience
) -> None:
    services.advance_audience(audience.pk)
    answer = ask(client, grant(worker, audience=str(audience.pk)))
    assert claims_of(answer.json()["access_token"])["aud"] == [f"{audience.pk}/2"]


def refuse_wrong_secret(new: NewSecret) -> dict[str, str]:
    return grant(new, client_secret=new.secret + "x")


def refuse_unknown_client(new: NewSecret) -> dict[str, str]:
    return grant(new, client_id="fpc_nobody")


def refuse_odd_client(new: NewSecret) -> dict[str, str]:
    return grant(new, client_id="nul\x00' OR 1=1 --")


def refuse_odd_secret(new: NewSecret) -> dict[str, str]:
    return grant(new, client_secret="nul\x00")


def refuse_expired(new: NewSecret) -> dict[str, str]:
    expire(new.credential)
    return grant(new)


def refuse_disabled(new: NewSecret) -> dict[str, str]:
    Credential.objects.filter(pk=new.credential.pk).update(disabled_at=timezone.now())
    return grant(new)


def refuse_revoked(new: NewSecret) -> dict[str, str]:
    Credential.objects.filter(pk=new.credential.pk).update(revoked_at=timezone.now())
    return grant(new)


def refuse_revoked_secret(new: NewSecret) -> dict[str, str]:
    CredentialSecret.objects.filter(pk=new.secret_row.pk).update(revoked_at=timezone.now())
    return grant(new)


def test_whatever_is_wrong_with_a_client_it_hears_the_same(
    client: WebClient, alice: Person, audience: Audience
) -> None:
    answers = []
    for spoil in (
        refuse_wrong_secret,
        refuse_unknown_client,
        refuse_odd_client,
        refuse_odd_secret,
        refuse_expired,
        refuse_disabled,
        refuse_revoked,
        refuse_revoked_secret,
    ):
        answer = ask(client, spoil(make_credential(alice, audience_id=audience.pk)))
        assert answer.status_code == 401, spoil
        assert answer["WWW-Authenticate"] == 'Basic realm="Flowplane"'
        answers.append(answer.content)
    assert len(set(answers)) == 1
    assert b'"error": "invalid_client"' in answers[0]


def test_another_clusters_audience_is_refused(
    client: WebClient, worker: NewSecret, charlie: Person, settings: Any
) -> None:
    others = (str(make_audience(charlie.organization).pk), str(uuid4()), settings.API_AUDIENCE, "zeebe.camunda.io")
    for other in others:
        answer = ask(client, grant(worker, audience=other))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_a_deleted_clusters_clients_get_nothing(client: WebClient, worker: NewSecret, audience: Audience) -> None:
    services.close_audience(audience.pk)
    answer = ask(client, grant(worker))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"client_id": ""}, "invalid_request"),
        ({"client_secret": ""}, "invalid_request"),
    ],
)
def test_a_request_that_is_not_the_grant_is_refused_by_rfc_words(
    client: WebClient, worker: NewSecret, change: dict[str, str], error: str
) -> None:
    answer = ask(client, grant(worker, **change))
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.json()["error_description"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"grant_type": 1}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(client: WebClient, body: bytes) -> None:
    answer = client.post("/oauth/token", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"no-colon").decode(), "Basic /w=="]
)
def test_a_broken_basic_header_is_refused(client: WebClient, header: str) -> None:
    answer = ask(client, {"grant_type": "client_credentials"}, Authorization=header)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_half_a_character_is_no_secret(client: WebClient, worker: NewSecret) -> None:
    body = json.dumps(grant(worker, client_secret="\ud800", audience="\ud800"))
    answer = client.post("/oauth/token", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_field_given_twice_is_refused(client: WebClient, worker: NewSecret) -> None:
    doubled = urlencode([*grant(worker).items(), ("audience", "a"), ("audience", "b")])
    answer = client.post("/oauth/token", doubled, content_type=FORM)
    assert "more than once" in answer.json()["error_description"]


def test_the_token_endpoint_takes_posts_only(client: WebClient) -> None:
    assert client.get("/oauth/token").status_code == 405


def test_last_use_is_noted_at_most_once_a_minute(client: WebClient, worker: NewSecret) -> None:
    ask(client, grant(worker))
    first = Credential.objects.get(pk=worker.credential.pk)
    assert first.last_used_address == "127.0.0.1"
    assert first.last_used_at is not None
    ask(client, grant(worker))
    assert Credential.objects.get(pk=worker.credential.pk).last_used_at == first.last_used_at
    Credential.objects.filter(pk=worker.credential.pk).update(last_used_at=first.last_used_at - timedelta(minutes=2))
    ask(client, grant(worker))
    noted = Credential.objects.get(pk=worker.credential.pk).last_used_at
    assert noted is not None
    assert noted >= first.last_used_at
    secret = CredentialSecret.objects.get(pk=worker.secret_row.pk)
    assert secret.last_used_at is not None
    assert secret.last_used_at < noted, "each row keeps its own minute"


def test_both_live_secrets_buy_tokens_during_a_rotation(client: WebClient, alice: Person, worker: NewSecret) -> None:
    second = services.add_secret(actor=alice.actor, credential_id=worker.credential.pk)
    assert [ask(client, grant(one)).status_code for one in (worker, second)] == [200, 200]
    services.revoke_secret(actor=alice.actor, credential_id=worker.credential.pk, secret_id=worker.secret_row.pk)
    assert [ask(client, grant(one)).status_code for one in (worker, second)] == [401, 200]


# --- The REST door's own tokens ---------------------------------------------------------------------------------------


def test_an_api_token_acts_with_the_credentials_scopes(alice: Person, bearer: Any) -> None:
    body = bearer(alice, "clusters:read", "members:read").get("/api/v1/me").json()
    assert body["kind"] == "credential"
    assert body["organization_id"] == str(alice.organization.pk)
    assert body["permissions"] == ["clusters:read", "members:read"]


def test_a_revoked_credentials_token_is_refused_at_once(alice: Person, bearer: Any) -> None:
    client = bearer(alice, "members:read")
    assert client.get("/api/v1/members").status_code == 200
    credential = Credential.objects.latest("created_at")
    services.update_credential(actor=alice.actor, credential_id=credential.pk, is_disabled=True)
    answer = client.get("/api/v1/members")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="Flowplane"'
    services.update_credential(actor=alice.actor, credential_id=credential.pk, is_disabled=False)
    assert client.get("/api/v1/members").status_code == 200


def test_a_token_ends_with_the_very_secret_that_bought_it(alice: Person, bearer: Any) -> None:
    client = bearer(alice, "members:read")
    secret = CredentialSecret.objects.latest("created_at")
    services.add_secret(actor=alice.actor, credential_id=secret.credential_id)
    services.revoke_secret(actor=alice.actor, credential_id=secret.credential_id, secret_id=secret.pk)
    assert client.get("/api/v1/members").status_code == 401


def test_an_engines_token_does_not_open_the_rest_door(client: WebClient, worker: NewSecret) -> None:
    token = ask(client, grant(worker)).json()["access_token"]
    with pytest.raises(InvalidToken, match="for something else"):
        tokens.verify_api_token(token)


def forged(claims: dict[str, Any], header: dict[str, Any], key: RSAKey) -> str:
    return str(jwt.encode(header, claims, key, algorithms=["RS256"]))


def test_a_token_does_not_outlive_its_credential(client: WebClient, worker: NewSecret) -> None:
    Credential.objects.filter(pk=worker.credential.pk).update(expires_at=timezone.now() + timedelta(minutes=5))
    answer = ask(client, grant(worker)).json()
    assert 290 <= answer["expires_in"] <= 300
    claims = json.loads(base64.urlsafe_b64decode(answer["access_token"].split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] == answer["expires_in"]


def test_forged_expired_and_foreign_tokens_are_refused(alice: Person, settings: Any, anonymous: RestClient) -> None:
    new = make_credential(alice)
    with web_role():
        issued = tokens.issue_token(
            client_id=new.credential.client_id, client_secret=new.secret, audience="", source_address=""
        )
    claims = claims_of(issued.access_token)
    key = SigningKey.objects.latest("activates_at")
    ours = tokens._private_key(key.kid)
    foreign = RSAKey.generate_key(2048)
    head, body, signature = issued.access_token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    bad = [
        "",
        "x",
        "a.b.c",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{unsigned}.{body}.",
        forged(claims, {"alg": "RS256", "kid": key.kid}, foreign),
        forged(claims, {"alg": "RS256", "kid": "unknown"}, ours),
        forged(claims, {"alg": "RS256"}, ours),
        forged({**claims, "exp": 1}, {"alg": "RS256", "kid": key.kid}, ours),
        forged({**claims, "iss": "https://elsewhere"}, {"alg": "RS256", "kid": key.kid}, ours),
        forged({**claims, "aud": ["elsewhere"]}, {"alg": "RS256", "kid": key.kid}, ours),
        forged({**claims, "aud": f"{settings.API_AUDIENCE}.elsewhere"}, {"alg": "RS256", "kid": key.kid}, ours),
        forged({k: v for k, v in claims.items() if k != "exp"}, {"alg": "RS256", "kid": key.kid}, ours),
        forged({**claims, "sid": str(uuid4())}, {"alg": "RS256", "kid": key.kid}, ours),
    ]
    bad += [
        forged({**claims, name: value}, {"alg": "RS256", "kid": key.kid}, ours)
        for name in ("org", "sid", "scope", "client_id")
        for value in ("x\0", ["a"], 5, 1.5, {"a": 1})
        if (name, value) != ("scope", "x\0")  # a text, that names no scope
    ]
    critical = base64.urlsafe_b64encode(b'{"alg":"RS256","crit":5}').decode().rstrip("=")
    bad.append(f"{critical}.{body}.AAAA")
    for token in bad:
        answer = anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
    plain = forged({**claims, "aud": settings.API_AUDIENCE}, {"alg": "RS256", "kid": key.kid}, ours)
    for token in (issued.access_token, plain):
        assert anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_host_whose_clock_is_off_issues_tokens_of_the_databases_time(
    alice: Person, anonymous: RestClient, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    new = make_credential(alice)
    right, wrong = time.time, timezone.now() + timedelta(hours=hours)
    monkeypatch.setattr(time, "time", lambda: right() + 3600 * hours)
    monkeypatch.setattr(timezone, "now", lambda: wrong)
    with web_role():
        issued = tokens.issue_token(
            client_id=new.credential.client_id, client_secret=new.secret, audience="", source_address=""
        )
    assert abs(claims_of(issued.access_token)["iat"] - right()) < 60
    answer = anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {issued.access_token}"})
    assert answer.status_code == 200, answer.content


def test_a_token_that_does_not_name_its_organization_is_looked_up_by_its_client(
    alice: Person, anonymous: RestClient
) -> None:
    new = make_credential(alice)
    with web_role():
        issued = tokens.issue_token(
            client_id=new.credential.client_id, client_secret=new.secret, audience="", source_address=""
        )
    key = SigningKey.objects.latest("activates_at")
    claims = claims_of(issued.access_token)
    assert claims.pop("org") == str(alice.organization.pk)
    older = forged(claims, {"alg": "RS256", "kid": key.kid}, tokens._private_key(key.kid))
    answer = anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {older}"})
    assert answer.status_code == 200, answer.content
    other = forged({**claims, "org": str(uuid4())}, {"alg": "RS256", "kid": key.kid}, tokens._private_key(key.kid))
    answer = anonymous.get("/api/v1/me", headers={"Authorization": f"Bearer {other}"})
    assert answer.status_code == 401, answer.content


def test_nobody_gets_in_without_a_token(anonymous: RestClient) -> None:
    answer = anonymous.get("/api/v1/me")
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_the_public_keys_are_public_only(client: WebClient) -> None:
    answer = client.get("/.well-known/jwks.json")
    assert answer["Cache-Control"] == "public, max-age=60"
    keys = answer.json()["keys"]
    assert keys
    for key in keys:
        assert set(key) == {"kty", "kid", "use", "alg", "n", "e"}
        assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS256")


def test_the_private_half_is_sealed_and_any_master_key_opens_it(settings: Any) -> None:
    key = SigningKey.objects.latest("activates_at")
    assert b'"d"' not in bytes(key.private_sealed)
    settings.MASTER_KEYS = (Fernet.generate_key().decode(), *settings.MASTER_KEYS)
    tokens._private_key.cache_clear()
    assert tokens._private_key(key.kid).as_dict(private=True)["kid"] == key.kid


def test_making_sure_of_a_key_makes_one_only() -> None:
    before = SigningKey.objects.count()
    tokens.ensure_signing_key()
    assert SigningKey.objects.count() == before


def test_a_host_whose_clock_is_ahead_makes_one_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    SigningKey.objects.all().delete()
    ahead = timezone.now() + timedelta(hours=1)
    monkeypatch.setattr(timezone, "now", lambda: ahead)
    for _ in range(2):
        tokens.ensure_signing_key()
    assert SigningKey.objects.count() == 1


def test_rotating_before_there_is_a_key_leaves_one_that_signs(client: WebClient, worker: NewSecret) -> None:
    SigningKey.objects.all().delete()
    tokens.rotate_signing_key()
    assert ask(client, grant(worker)).status_code == 200


def test_a_database_whose_clock_has_gone_back_behind_every_key_signs_with_the_first(
    client: WebClient, worker: NewSecret
) -> None:
    first = SigningKey.objects.get(kid=signer_of(client, worker))
    second = tokens.rotate_signing_key()
    for hours, key in enumerate((first, second), start=1):
        SigningKey.objects.filter(pk=key.pk).update(activates_at=timezone.now() + timedelta(hours=hours))
    assert signer_of(client, worker) == first.kid
    assert SigningKey.objects.count() == 2


def test_a_new_key_is_published_at_once_and_signs_later(client: WebClient, worker: NewSecret) -> None:
    old = SigningKey.objects.filter(activates_at__lte=timezone.now(), retires_at=None).latest("activates_at")
    services.rotate_signing_key(actor=SYSTEM)
    new = SigningKey.objects.latest("activates_at")
    assert {old.kid, new.kid} <= {key["kid"] for key in tokens.public_jwks()["keys"]}
    assert signer_of(client, worker) == old.kid
    assert AuditEvent.objects.filter(action="signing_key.rotated", target_id=new.kid).exists()

    SigningKey.objects.filter(pk=new.pk).update(activates_at=timezone.now())
    assert signer_of(client, worker) == new.kid
    assert old.kid in {key["kid"] for key in tokens.public_jwks()["keys"]}, "its last tokens are still about"


def test_a_key_retires_after_its_last_token(settings: Any) -> None:
    old = SigningKey.objects.filter(retires_at=None).latest("activates_at")
    new = tokens.rotate_signing_key()
    old.refresh_from_db()
    assert old.retires_at is not None
    assert old.retires_at > new.activates_at + timedelta(seconds=settings.TOKEN_LIFETIME_SECONDS)
    SigningKey.objects.filter(pk=old.pk).update(retires_at=timezone.now())
    assert old.kid not in {key["kid"] for key in tokens.public_jwks()["keys"]}


def test_withdrawn_keys_are_published_no_more_and_the_new_one_signs_at_once(
    client: WebClient, worker: NewSecret
) -> None:
    old = tokens.public_jwks()["keys"]
    call_command("rotate_signing_key", withdraw=True, stdout=StringIO())
    (only,) = tokens.public_jwks()["keys"]
    assert only not in old
    token = ask(client, grant(worker)).json()["access_token"]
    assert json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))["kid"] == only["kid"]
    assert AuditEvent.objects.get(action="signing_key.rotated").changes["withdraw"] == [None, True]


def test_without_a_key_the_client_is_told_to_come_back(client: WebClient, worker: NewSecret) -> None:
    SigningKey.objects.all().delete()
    answer = ask(client, grant(worker))
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert int(answer["Retry-After"]) > 0


def signer_of(client: WebClient, worker: NewSecret) -> str:
    token = ask(client, grant(worker)).json()["access_token"]
    header = token.split(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


def test_a_token_of_a_withdrawn_key_is_refused_at_once(alice: Person) -> None:
    made = make_credential(alice, scopes=["clusters:read"])
    token = tokens.issue_token(
        client_id=made.credential.client_id, client_secret=made.secret, audience="", source_address=""
    ).access_token
    assert tokens.verify_api_token(token).principal_id == str(made.credential.pk)
    SigningKey.objects.update(retires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(InvalidToken):
        tokens.verify_api_token(token)
