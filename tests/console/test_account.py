"""The way in: sign-up, confirmation, sign-in and reset, in our own look and words."""

from __future__ import annotations

import pytest
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from django.urls import reverse

from tenants.models import User
from tests.conftest import WebClient
from tests.factories import make_user

PASSWORD = "a quiet harbour 7"


def test_signing_up_leads_to_the_mailbox_and_the_link_to_sign_in(client: WebClient) -> None:
    assert "Create your account" in client.get(reverse("account_signup")).content.decode()
    wish = {"email": "ada@example.com", "password1": PASSWORD}
    text = client.post(reverse("account_signup"), wish, follow=True).content.decode()
    assert "Look into your mail" in text
    assert reverse("console:mailbox") in text
    key = EmailConfirmationHMAC(EmailAddress.objects.get(email="ada@example.com")).key
    link = reverse("account_confirm_email", args=[key])
    assert "Is this your address?" in client.get(link).content.decode()
    assert "Sign in" in client.post(link, follow=True).content.decode()
    answer = client.post(reverse("account_login"), {"login": "ada@example.com", "password": PASSWORD}, follow=True)
    assert answer.redirect_chain[-1][0] == reverse("console:organization_new")
    assert "This link does not work any more" in client.get(link).content.decode()


@pytest.mark.parametrize(
    ("email", "password", "sentence"),
    [
        ("not an address", PASSWORD, "Enter a valid email address."),
        ("ada@example.com", "short", "This password is too short."),
        ("ada@example.com", "4857364857364", "This password is entirely numeric."),
        ("ada@example.com", "ada@example.com", "too similar to the"),
    ],
)
def test_bad_input_is_said_and_the_address_kept(client: WebClient, email: str, password: str, sentence: str) -> None:
    text = client.post(reverse("account_signup"), {"email": email, "password1": password}).content.decode()
    assert sentence in text
    assert f'value="{email}"' in text
    assert f'value="{password}"' not in text or password == email
    assert not User.objects.filter(email="ada@example.com").exists()


def test_a_taken_address_looks_like_any_other(client: WebClient) -> None:
    known = make_user()
    wish = {"email": known.email, "password1": PASSWORD}
    text = client.post(reverse("account_signup"), wish, follow=True).content.decode()
    assert "Look into your mail" in text
    assert User.objects.filter(email=known.email).count() == 1


def test_a_link_that_is_no_link_says_what_to_do(client: WebClient) -> None:
    text = client.get(reverse("account_confirm_email", args=["nonsense"])).content.decode()
    assert "This link does not work any more" in text


def test_a_wrong_password_keeps_the_address(client: WebClient) -> None:
    known = make_user(password=PASSWORD)
    text = client.post(reverse("account_login"), {"login": known.email, "password": "wrong"}).content.decode()
    assert "not correct" in text
    assert known.email in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("account_reset_password", "Forgotten your password?"),
        ("account_change_password", "Change your password"),
        ("usersessions_list", "Where you are signed in"),
        ("account_logout", "Sign out?"),
        ("mfa_index", "Two-Factor Authentication"),
        ("mfa_list_webauthn", "Security keys"),
    ],
)
def test_the_pages_of_the_account_wear_our_look(client: WebClient, name: str, words: str) -> None:
    client.post(reverse("account_login"), {"login": make_user(password=PASSWORD).email, "password": PASSWORD})
    person = make_user(password=PASSWORD)
    client.force_login(person)
    text = client.get(reverse(name)).content.decode()
    assert words in text
    assert "console/mark.svg" in text
