"""An engine's certificate, signed by the installation's authority."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import Permanent

# The longest life that clients accept of a server certificate.
LIFETIME = timedelta(days=397)
RENEW_BELOW = LIFETIME / 3
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs: the authority's certificate and its private key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An engine's certificate chain and private key, as PEM."""

    chain: bytes
    key: bytes


def load_authority(certificate_file: Path, key_file: Path) -> Authority:
    """Read the installation's authority.

    Raises:
        Permanent: a file is missing or holds something else.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise Permanent(
            "The installation's certificate authority cannot be read, so no engine can be given a certificate. "
            "Check the files that FLOWPLANE_CA_CERT_FILE and FLOWPLANE_CA_KEY_FILE name.",
            internal=repr(error),
        ) from error
    # The loader's type also covers keys that cannot sign; a certificate never belongs to one of those.
    return Authority(certificate, key)  # type: ignore[arg-type]


def provide_certificate(found: KeyPair, authority: Authority, names: list[str]) -> KeyPair:
    """Return what was found while it is good, else a new pair; takes effect when the engine starts."""
    if is_good(found, authority, names):
        return found
    now = datetime.now(UTC)
    # An RSA key takes 56 ms of CPU to make, a third of all that a creation costs us; this one takes none to speak of.
    key = ec.generate_private_key(ec.SECP256R1())
    chain = (issue(key, names, authority, now), authority.certificate)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(b"".join(part.public_bytes(Encoding.PEM) for part in chain), pem)


def issue(key: ec.EllipticCurvePrivateKey, names: list[str], authority: Authority, now: datetime) -> x509.Certificate:
    """Return a server certificate for `names`; loopback's address is always among them."""
    expires = min(now + LIFETIME, authority.certificate.not_valid_after_utc)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _alternative_names(names: list[str]) -> list[x509.GeneralName]:
    loopback = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    return [*(x509.DNSName(name) for name in names), loopback]


def is_good(found: KeyPair, authority: Authority, names: list[str]) -> bool:
    """Tell whether certificate and key belong together, are this authority's, name the engine and last a while yet."""
    try:
        certificate = x509.load_pem_x509_certificate(found.chain)
        key = load_pem_private_key(found.key, password=None)
        certificate.verify_directly_issued_by(authority.certificate)
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BELOW
    return lasts and list(named) == _alternative_names(names) and key.public_key() == certificate.public_key()
