"""The installation's own certificate authority, and the web server's certificate from it."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from embedded.errors import SetupError
from embedded.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from embedded.home import Home

AUTHORITY_LIFETIME = timedelta(days=3650)
# Clients refuse server certificates that live longer than 398 days.
SERVER_LIFETIME = timedelta(days=397)
# Clocks of two containers on one machine differ by less.
CLOCK_SKEW = timedelta(minutes=5)
SERVER_NAMES = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


def authority_key_file(home: Home) -> Path:
    return home.secrets / "ca.key"


def server_certificate_file(home: Home) -> Path:
    return home.secrets / "web.pem"


def server_key_file(home: Home) -> Path:
    return home.secrets / "web.key"


def ensure_certificates(home: Home, *, now: datetime | None = None) -> None:
    """Make the authority once, and the web server's certificate whenever less than a third of its life is left.

    Raises:
        SetupError: only one half of the authority is there; clients trust the lost half, so we do not replace it.
    """
    moment = now or datetime.now(UTC)
    certificate, key = _ensure_authority(home, moment)
    if not _is_server_certificate_good(home, certificate, moment):
        _issue_server_certificate(home, certificate, key, moment)


def _ensure_authority(home: Home, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    # The certificate is written last: while it is missing nobody trusts the key, and both may be made anew.
    if not home.certificate.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_whole(authority_key_file(home), _key_text(key), mode=0o600)
        write_whole(home.certificate, _certificate_text(_build_authority(key, now)))
    try:
        stored_key = serialization.load_pem_private_key(authority_key_file(home).read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(home.certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise SetupError(
            f"The authority's key {authority_key_file(home)} and certificate {home.certificate} must both be there and "
            f"whole ({error}). Restore them, or start afresh with `make demo-down PURGE=1`."
        ) from error
    if not isinstance(stored_key, ec.EllipticCurvePrivateKey) or stored_key.public_key() != certificate.public_key():
        raise SetupError(f"The key {authority_key_file(home)} does not belong to the certificate {home.certificate}.")
    return certificate, stored_key


def _build_authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Flowplane installation {os.urandom(4).hex()}")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _issue_server_certificate(
    home: Home, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: datetime
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer_key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName(SERVER_NAMES), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    write_whole(server_key_file(home), _key_text(key), mode=0o600)
    write_whole(server_certificate_file(home), _certificate_text(certificate))


def _is_server_certificate_good(home: Home, authority: x509.Certificate, now: datetime) -> bool:
    """Tell whether certificate and key are there, belong together, are of this authority, and last a while yet."""
    try:
        certificate = x509.load_pem_x509_certificate(server_certificate_file(home).read_bytes())
        key = serialization.load_pem_private_key(server_key_file(home).read_bytes(), password=None)
        certificate.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    lasts = certificate.not_valid_after_utc - now > SERVER_LIFETIME / 3
    return lasts and isinstance(key, rsa.RSAPrivateKey) and key.public_key() == certificate.public_key()


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _certificate_text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
