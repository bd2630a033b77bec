from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from embedded.certificates import (
    SERVER_LIFETIME,
    authority_key_file,
    ensure_certificates,
    server_certificate_file,
    server_key_file,
)
from embedded.errors import SetupError
from embedded.home import Home, prepare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def certificates(home: Home) -> None:
    prepare(home)
    ensure_certificates(home)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_strict_client_accepts_the_web_server_for_localhost(home: Home) -> None:
    verifier = PolicyBuilder().store(Store([load(home.certificate)])).build_server_verifier(x509.DNSName("localhost"))
    chain = verifier.verify(load(server_certificate_file(home)), [])
    assert len(chain) == 2


def test_the_web_server_can_be_reached_by_number_as_well(home: Home) -> None:
    names = load(server_certificate_file(home)).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_openssl_and_python_load_what_was_written(home: Home) -> None:
    ssl.create_default_context(cafile=str(home.certificate))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server_certificate_file(home), server_key_file(home))


def test_the_authority_may_sign_certificates_and_nothing_else(home: Home) -> None:
    authority = load(home.certificate)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert isinstance(authority.public_key(), ec.EllipticCurvePublicKey)


def test_keys_are_for_the_owner_only(home: Home) -> None:
    for path in (authority_key_file(home), server_key_file(home)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_replaced_while_it_is_good(home: Home) -> None:
    before = (home.certificate.read_bytes(), server_certificate_file(home).read_bytes())
    ensure_certificates(home, now=datetime.now(UTC) + SERVER_LIFETIME / 2)
    assert (home.certificate.read_bytes(), server_certificate_file(home).read_bytes()) == before


def test_the_web_server_gets_a_new_certificate_in_its_last_third_from_the_same_authority(home: Home) -> None:
    before = load(server_certificate_file(home))
    authority = home.certificate.read_bytes()
    ensure_certificates(home, now=datetime.now(UTC) + SERVER_LIFETIME * 2 / 3 + timedelta(days=1))
    after = load(server_certificate_file(home))
    assert after.serial_number != before.serial_number
    assert home.certificate.read_bytes() == authority
    after.verify_directly_issued_by(load(home.certificate))


@pytest.mark.parametrize("damage", ["", "not a certificate"])
def test_a_damaged_server_certificate_is_replaced(home: Home, damage: str) -> None:
    server_certificate_file(home).write_text(damage)
    ensure_certificates(home)
    load(server_certificate_file(home)).verify_directly_issued_by(load(home.certificate))


def test_a_lost_authority_key_stops_the_start_instead_of_breaking_every_client(home: Home) -> None:
    authority_key_file(home).unlink()
    with pytest.raises(SetupError, match=r"must both be there and whole.*start afresh with `make demo-down PURGE=1`"):
        ensure_certificates(home)


def test_an_authority_that_was_never_finished_is_made_anew(home: Home) -> None:
    home.certificate.unlink()
    ensure_certificates(home)
    verifier = PolicyBuilder().store(Store([load(home.certificate)])).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(load(server_certificate_file(home)), [])


def test_openssl_agrees(home: Home) -> None:
    argv = ["openssl", "verify", "-x509_strict", "-CAfile", str(home.certificate), str(server_certificate_file(home))]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
