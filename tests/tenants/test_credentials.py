"""What programs sign in with: secrets shown once, rotation, expiry, limits, and who may do what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from common.errors import EntitlementExceeded, InvalidRequest, NotFound, NotPermitted
from tenants import selectors, services
from tenants.errors import CredentialLimit, InvalidName, NameTaken
from tenants.models import Audience, AuditEvent, Credential, CredentialSecret
from tenants.roles import Role
from tests.factories import Person, make_audience, make_credential, make_person

pytestmark = pytest.mark.django_db


@pytest.fixture
def audience(alice: Person) -> Audience:
    return make_audience(alice.organization)


def test_a_secret_is_shown_once_and_kept_as_a_keyed_hash(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk)
    row = CredentialSecret.objects.get(pk=made.secret_row.pk)
    assert made.secret.startswith(row.prefix)
    assert len(made.secret) - len(row.prefix) >= 30, "what is shown of it opens nothing"
    stored = str(list(CredentialSecret.objects.values())) + str(list(AuditEvent.objects.values()))
    assert made.secret not in stored
    (event,) = AuditEvent.objects.for_organization(alice.organization.pk).filter(action="credential.created")
    assert event.changes["name"] == [None, made.credential.name]


def test_two_secrets_live_side_by_side_and_no_third(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk)
    second = services.add_secret(actor=alice.actor, credential_id=made.credential.pk)
    with pytest.raises(CredentialLimit, match="Revoke the older one first"):
        services.add_secret(actor=alice.actor, credential_id=made.credential.pk)
    services.revoke_secret(actor=alice.actor, credential_id=made.credential.pk, secret_id=made.secret_row.pk)
    shown = selectors.credential(alice.actor, made.credential.pk)
    assert [secret.pk for secret in shown.live_secrets] == [second.secret_row.pk]  # type: ignore[attr-defined]
    services.add_secret(actor=alice.actor, credential_id=made.credential.pk)


def test_revoking_a_secret_twice_is_one_event(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk)
    for _ in range(2):
        services.revoke_secret(actor=alice.actor, credential_id=made.credential.pk, secret_id=made.secret_row.pk)
    assert (
        AuditEvent.objects.for_organization(alice.organization.pk).filter(action="credential.secret_revoked").count()
        == 1
    )


def test_changes_are_audited_field_by_field(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk, name="before")
    until = timezone.now() + timedelta(days=1)
    services.update_credential(
        actor=alice.actor, credential_id=made.credential.pk, name="after", is_disabled=True, expires_at=until
    )
    (event,) = AuditEvent.objects.for_organization(alice.organization.pk).filter(action="credential.changed")
    assert event.changes == {
        "name": ["before", "after"],
        "is_disabled": [False, True],
        "expires_at": [None, until.isoformat()],
    }
    services.update_credential(actor=alice.actor, credential_id=made.credential.pk, is_disabled=False, expires_at=None)
    row = Credential.objects.get(pk=made.credential.pk)
    assert (row.name, row.disabled_at, row.expires_at) == ("after", None, None)


def test_what_is_not_named_stays_and_leaves_no_event(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk)
    services.update_credential(actor=alice.actor, credential_id=made.credential.pk, name=made.credential.name)
    assert not AuditEvent.objects.for_organization(alice.organization.pk).filter(action="credential.changed").exists()


def test_a_revoked_credential_is_gone_and_its_name_free(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk, name="worker")
    services.revoke_credential(actor=alice.actor, credential_id=made.credential.pk)
    with pytest.raises(NotFound):
        selectors.credential(alice.actor, made.credential.pk)
    with pytest.raises(NotFound):
        services.add_secret(actor=alice.actor, credential_id=made.credential.pk)
    make_credential(alice, audience_id=audience.pk, name="worker")


def test_a_name_is_used_once_for_each_cluster(alice: Person, audience: Audience) -> None:
    make_credential(alice, audience_id=audience.pk, name="worker")
    with pytest.raises(NameTaken) as refused:
        make_credential(alice, audience_id=audience.pk, name=" worker ")
    assert refused.value.details == {"field": "name"}
    other = make_credential(alice, audience_id=audience.pk, name="other").credential
    with pytest.raises(NameTaken):
        services.update_credential(actor=alice.actor, credential_id=other.pk, name="worker")
    make_credential(alice, audience_id=make_audience(alice.organization).pk, name="worker")
    make_credential(alice, name="worker")


@pytest.mark.parametrize("name", ["", "x" * 51, "a\u200eb", "tab\there"])
def test_a_bad_name_is_refused_and_nothing_is_made(alice: Person, audience: Audience, name: str) -> None:
    with pytest.raises(InvalidName):
        make_credential(alice, audience_id=audience.pk, name=name)
    assert not Credential.objects.filter(audience=audience).exists()


def test_the_plans_limit_holds(alice: Person, audience: Audience) -> None:
    for _ in range(2):
        make_credential(alice, audience_id=audience.pk, limit=2)
    with pytest.raises(EntitlementExceeded) as refused:
        make_credential(alice, audience_id=audience.pk, limit=2)
    assert refused.value.details == {"limit": 2, "used": 2}


def test_an_expiry_in_the_past_is_refused(alice: Person, audience: Audience) -> None:
    past = timezone.now() - timedelta(seconds=1)
    with pytest.raises(InvalidRequest, match="future"):
        make_credential(alice, audience_id=audience.pk, expires_at=past)
    made = make_credential(alice, audience_id=audience.pk)
    with pytest.raises(InvalidRequest, match="future"):
        services.update_credential(actor=alice.actor, credential_id=made.credential.pk, expires_at=past)


@pytest.mark.parametrize("scopes", [(), ("members:write",), ("nonsense",), ("billing:read",)])
def test_only_scopes_that_are_enforced_are_given(alice: Person, scopes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_credential(alice, scopes=scopes)
    assert refused.value.details["field"] == "scopes"


def test_a_clusters_credential_takes_no_scopes(alice: Person, audience: Audience) -> None:
    with pytest.raises(InvalidRequest):
        make_credential(alice, audience_id=audience.pk, scopes=("clusters:read",))


def test_a_developer_makes_cluster_credentials_and_no_api_credentials(bob: Person, audience: Audience) -> None:
    made = make_credential(bob, audience_id=audience.pk)
    assert made.credential.created_by == bob.user.email
    with pytest.raises(NotPermitted):
        make_credential(bob)


def test_a_developer_cannot_touch_an_api_credential(alice: Person, bob: Person) -> None:
    made = make_credential(alice)
    for change in (
        lambda: services.add_secret(actor=bob.actor, credential_id=made.credential.pk),
        lambda: services.update_credential(actor=bob.actor, credential_id=made.credential.pk, is_disabled=True),
        lambda: services.revoke_credential(actor=bob.actor, credential_id=made.credential.pk),
    ):
        with pytest.raises(NotPermitted):
            change()


def test_a_viewer_sees_credentials_and_changes_none(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk)
    viewer = make_person(alice.organization, role=Role.VIEWER)
    assert [one.pk for one in selectors.credentials_of(viewer.actor, audience.pk)] == [made.credential.pk]
    with pytest.raises(NotPermitted):
        services.revoke_credential(actor=viewer.actor, credential_id=made.credential.pk)


def test_another_organizations_credential_or_cluster_does_not_exist(charlie: Person, alice: Person) -> None:
    theirs = make_credential(charlie)
    audience = make_audience(charlie.organization)
    calls: list[Any] = [
        lambda: selectors.credential(alice.actor, theirs.credential.pk),
        lambda: services.add_secret(actor=alice.actor, credential_id=theirs.credential.pk),
        lambda: services.update_credential(actor=alice.actor, credential_id=theirs.credential.pk, name="mine"),
        lambda: services.revoke_credential(actor=alice.actor, credential_id=theirs.credential.pk),
        lambda: make_credential(alice, audience_id=audience.pk),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_credential_is_found_only_where_it_is_said_to_be(alice: Person, audience: Audience) -> None:
    made = make_credential(alice, audience_id=audience.pk).credential
    for elsewhere in (None, uuid4()):
        with pytest.raises(NotFound):
            selectors.credential(alice.actor, made.pk, elsewhere)
        with pytest.raises(NotFound):
            services.revoke_credential(actor=alice.actor, credential_id=made.pk, audience_id=elsewhere)
    services.revoke_credential(actor=alice.actor, credential_id=made.pk, audience_id=audience.pk)


def test_a_closed_audience_takes_no_credentials(alice: Person, audience: Audience) -> None:
    services.close_audience(audience.pk)
    with pytest.raises(NotFound):
        make_credential(alice, audience_id=audience.pk)
