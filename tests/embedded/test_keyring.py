from __future__ import annotations

from cryptography.fernet import Fernet

from embedded.home import Home, prepare
from embedded.keyring import SECRETS, Login, ensure_secrets, load_login, make_login, save_login, secret_file


def test_every_secret_is_a_file_for_the_owner_only(home: Home) -> None:
    prepare(home)
    ensure_secrets(home)
    for name in SECRETS:
        assert secret_file(home, name).stat().st_mode & 0o777 == 0o600


def test_a_secret_is_never_made_again(home: Home) -> None:
    prepare(home)
    ensure_secrets(home)
    before = {name: secret_file(home, name).read_text() for name in SECRETS}
    secret_file(home, "credential_pepper").unlink()
    ensure_secrets(home)
    after = {name: secret_file(home, name).read_text() for name in SECRETS}
    assert {name for name in SECRETS if before[name] != after[name]} == {"credential_pepper"}


def test_the_master_key_is_a_fernet_key(home: Home) -> None:
    prepare(home)
    ensure_secrets(home)
    Fernet(secret_file(home, "master_keys").read_text())


def test_a_login_is_found_again(home: Home) -> None:
    prepare(home)
    assert load_login(home) is None
    login = Login("ada@demo.example", "correct horse", "some-cluster")
    save_login(home, login)
    assert load_login(home) == login


def test_two_demos_have_different_passwords() -> None:
    assert make_login().password != make_login().password
