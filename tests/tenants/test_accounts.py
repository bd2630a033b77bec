"""People: sign-up, confirmation, sign-in, reset, sessions; through the console's own addresses, as the web's role."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.usersessions.models import UserSession
from django.test import override_settings
from django.utils import timezone

from common.errors import NotFound
from tenants import auth
from tenants.models import AuditEvent, MailKind, OutgoingMail, User
from tests.conftest import WebClient
from tests.factories import Person, make_user, unique
from tests.tenants.mailbox import deliver_all, link_in

pytestmark = pytest.mark.django_db

PASSWORD = "a-Very-l0ng-passphrase"


def sign_up(client: WebClient, email: str, password: str = PASSWORD) -> Any:
    return client.post("/accounts/signup/", {"email": email, "password1": password})


def sign_in(client: WebClient, email: str, password: str = PASSWORD) -> Any:
    return client.post("/accounts/login/", {"login": email, "password": password})


def actions_of(user: User) -> list[str]:
    events = AuditEvent.objects.filter(target_kind="user", target_id=str(user.pk)).order_by("at", "id")
    return sorted(events.values_list("action", flat=True))


def test_a_newcomer_signs_up_confirms_and_signs_in(client: WebClient) -> None:
    email = f"{unique('new')}@example.com"

    assert sign_up(client, email.upper()).status_code == 302
    user = User.objects.get(email=email)
    (message,) = deliver_all()
    assert message.to == [email]
    link = link_in(message, "confirm-email")

    assert client.get(link).status_code == 200
    assert not EmailAddress.objects.get(user=user).verified, "opening the link alone confirms nothing"
    assert client.post(link).status_code == 302
    assert EmailAddress.objects.get(user=user).verified

    assert sign_in(client, email).status_code == 302
    assert client.session["_auth_user_id"] == str(user.pk)
    assert actions_of(user) == ["account.address_confirmed", "account.created", "account.signed_in"]
    assert UserSession.objects.filter(user=user).count() == 1


def test_sign_in_before_the_confirmation_sends_the_link_again_and_opens_nothing(client: WebClient) -> None:
    user = make_user(is_verified=False, password=PASSWORD)
    sign_in(client, user.email)
    assert "_auth_user_id" not in client.session
    assert OutgoingMail.objects.get(user=user).kind == MailKind.CONFIRM_ADDRESS


def test_a_taken_address_looks_like_any_other_and_its_owner_gets_a_mail(client: WebClient) -> None:
    taken = make_user()
    free = sign_up(client, f"{unique('free')}@example.com")
    answer = sign_up(WebClient(), taken.email.upper())
    assert (answer.status_code, answer["Location"]) == (free.status_code, free["Location"])
    assert User.objects.filter(email__iexact=taken.email).count() == 1
    assert OutgoingMail.objects.get(address=taken.email).kind == MailKind.ALREADY_REGISTERED


@pytest.mark.parametrize(
    "email", ["", "no-at-sign", "two@@example.com", "a@b", f"{'x' * 250}@example.com", "n\x00l@example.com"]
)
def test_an_invalid_address_is_refused_with_a_sentence(client: WebClient, email: str) -> None:
    people = User.objects.count()
    answer = sign_up(client, email)
    assert answer.status_code == 200
    assert answer.context["form"].errors["email"]
    assert User.objects.count() == people


@pytest.mark.parametrize(
    ("password", "sentence"),
    [("short", "at least 10 characters"), ("password123", "too common"), ("83710465928374", "entirely numeric")],
)
def test_a_weak_password_is_refused_with_a_sentence(client: WebClient, password: str, sentence: str) -> None:
    email = f"{unique('weak')}@example.com"
    answer = sign_up(client, email, password)
    assert sentence in " ".join(answer.context["form"].errors["password1"])
    assert not User.objects.filter(email=email).exists()


def test_a_password_like_the_address_is_refused(client: WebClient) -> None:
    answer = sign_up(client, "marguerite.dupont@example.com", "marguerite.dupont")
    assert "too similar" in " ".join(answer.context["form"].errors["password1"])


def test_a_confirmation_link_works_once_and_only_for_some_days(client: WebClient) -> None:
    user = make_user(is_verified=False)
    address = EmailAddress.objects.get(user=user)
    link = f"/accounts/confirm-email/{EmailConfirmationHMAC(address).key}/"
    with override_settings(ACCOUNT_EMAIL_CONFIRMATION_EXPIRE_DAYS=0):
        expired = client.get(link)
    assert expired.context["confirmation"] is None
    client.post(link)
    again = client.get(link)
    assert again.context["confirmation"] is None
    assert client.get("/accounts/confirm-email/forged/").context["confirmation"] is None


def test_a_forgotten_password_is_replaced_by_a_link_that_works_once(client: WebClient) -> None:
    user = make_user(password="the-Old-0ne-that-was-lost")
    assert client.post("/accounts/password/reset/", {"email": user.email}).status_code == 302
    (message,) = deliver_all()
    link = link_in(message, "password/reset/key")
    form = client.get(link, follow=True)
    client.post(form.request["PATH_INFO"], {"password1": PASSWORD, "password2": PASSWORD})
    user.refresh_from_db()
    assert user.check_password(PASSWORD)
    assert "account.password_reset" in actions_of(user)
    (notice,) = deliver_all()
    assert "your password was reset" in str(notice.body)
    assert WebClient().get(link, follow=True).context["token_fail"]


def test_a_changed_password_is_audited_and_its_owner_told(client: WebClient) -> None:
    user = make_user(password=PASSWORD)
    sign_in(client, user.email)
    fields = {"oldpassword": PASSWORD, "password1": PASSWORD + "2", "password2": PASSWORD + "2"}
    assert client.post("/accounts/password/change/", fields).status_code == 302
    assert "account.password_changed" in actions_of(user)
    (notice,) = deliver_all()
    assert notice.to == [user.email]
    assert "your password was changed" in str(notice.body)


def test_a_reset_for_an_unknown_address_tells_that_address_only(client: WebClient) -> None:
    stranger = f"{unique('nobody')}@example.com"
    known = client.post("/accounts/password/reset/", {"email": make_user().email})
    answer = client.post("/accounts/password/reset/", {"email": stranger})
    assert (answer.status_code, answer["Location"]) == (known.status_code, known["Location"])
    assert OutgoingMail.objects.get(address=stranger).kind == MailKind.UNKNOWN_ACCOUNT


def test_a_lost_race_for_an_address_looks_like_a_taken_one(client: WebClient, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = make_user()
    # The other request commits between this one's look and its insert.
    monkeypatch.setattr(
        "allauth.account.internal.flows.manage_email.email_already_exists", lambda email: (email, False)
    )
    answer = sign_up(client, taken.email)
    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/confirm-email/"
    assert User.objects.filter(email__iexact=taken.email).count() == 1


def test_too_many_wrong_passwords_close_the_door_for_a_while(client: WebClient) -> None:
    user = make_user(password=PASSWORD)
    for _ in range(5):
        sign_in(client, user.email, "wrong")
    answer = sign_in(client, user.email)
    assert "_auth_user_id" not in client.session
    assert answer.context is None or "Too many" in str(answer.context["form"].errors)


def test_a_session_that_is_ended_elsewhere_is_over(api: Any, alice: Person) -> None:
    here, there = api(alice), api(alice)
    assert [client.get("/api/v1/me").status_code for client in (here, there)] == [200, 200]
    UserSession.objects.get(session_key=there.session.session_key).end()
    assert [client.get("/api/v1/me").status_code for client in (here, there)] == [200, 401]


def test_an_account_that_was_closed_is_nobody(alice: Person, api: Any) -> None:
    client = api(alice)
    assert client.get("/api/v1/me").status_code == 200
    User.objects.filter(pk=alice.user.pk).update(is_active=False)
    assert client.get("/api/v1/me").status_code == 401


def test_the_session_chooses_the_organization_and_only_among_ones_own(
    alice: Person, charlie: Person, rf: Any, django_assert_num_queries: Any
) -> None:
    request = rf.get("/")
    request.user, request.session = alice.user, {}
    with django_assert_num_queries(3):
        assert auth.actor_of(request).organization_id == alice.organization.pk
    request.session[auth.ORGANIZATION_KEY] = str(charlie.organization.pk)
    assert auth.actor_of(request).organization_id is None, "what was meant for one must not land in another"
    with pytest.raises(NotFound):
        auth.switch_organization(request, charlie.organization.pk)
    assert request.session[auth.ORGANIZATION_KEY] == str(charlie.organization.pk), "nothing was changed"
    auth.switch_organization(request, alice.organization.pk)
    assert request.session[auth.ORGANIZATION_KEY] == str(alice.organization.pk)


def test_confirmation_mails_are_due_until_they_are_sent(client: WebClient) -> None:
    email = f"{unique('due')}@example.com"
    sign_up(client, email)
    row = OutgoingMail.objects.get(address=email)
    assert row.due_at is not None
    assert row.due_at <= timezone.now() + timedelta(seconds=1)
    deliver_all()
    row.refresh_from_db()
    assert [row.due_at, row.attempts] == [None, 1]
    assert row.sent_at is not None
