"""A small certificate authority for mutual TLS, through the package `cryptography` (the extra `signing`).

The authority is a folder that stays at home: `authority.pem` and its key. Each server and each client gets a folder
of its own to carry away: `authority.pem`, `certificate.pem` and `key.pem`, as `pi0_edge.protos.rpc.tls` reads them. A
client's role is a URI among its certificate's subject alternative names; the keys are ECDSA over P-256 and have no
password.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pi0_edge.errors import ConfigError
from pi0_edge.protos.rpc.roles import Role
from pi0_edge.protos.rpc.tls_files import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE
from pi0_edge.synced_files import create_synced

AUTHORITY_KEY_FILE = "authority.key.pem"
AUTHORITY_DAYS = 3650
DAYS = 365

_CLOCKS_APART = timedelta(minutes=10)  # a robot's clock may be behind


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says.

    Attributes:
        name: Common name, which logs and owners of the arm are called by.
        kind: Authority, server or client.
        role: Of a client, in lower case; empty for others.
        hosts: Of a server.
        begins: UTC.
        ends: UTC.
        issuer: Common name of the authority.
    """

    name: str
    kind: str
    role: str
    hosts: tuple[str, ...]
    begins: datetime
    ends: datetime
    issuer: str


def make_authority(folder: Path, name: str = "pi0-edge", days: int = AUTHORITY_DAYS) -> None:
    """Makes an authority.

    Raises:
        ConfigError: If the folder holds one already or cannot be written.
    """
    key = _new_key()
    subject = _name(name)
    builder = (
        _builder(subject, subject, key, _now(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    _write(folder, {AUTHORITY_FILE: _pem(builder.sign(key, hashes.SHA256())), AUTHORITY_KEY_FILE: _key_pem(key)})


def issue_server(
    authority: Path, folder: Path, name: str, hosts: Sequence[str], days: int = DAYS, begins: datetime | None = None
) -> None:
    """Makes the folder of a server.

    Args:
        authority: Folder of the authority.
        folder: Where authority, certificate and key go.
        name: Of the server.
        hosts: Host names and addresses that clients reach it by.
        days: How long it is valid.
        begins: From when, UTC; now where None.

    Raises:
        ConfigError: If there is no host or no such authority, or the folder holds a certificate already.
    """
    if not hosts:
        raise ConfigError("a server needs at least one host name or address that clients reach it by")
    _issue(authority, folder, name, [_host(host) for host in hosts], server=True, days=days, begins=begins)


def issue_client(
    authority: Path, folder: Path, name: str, role: Role, days: int = DAYS, begins: datetime | None = None
) -> None:
    """Makes the folder of a client.

    Args:
        authority: Folder of the authority.
        folder: Where authority, certificate and key go.
        name: Of the client, different from all others: logs and limits go by it.
        role: What it may do.
        days: How long it is valid.
        begins: From when, UTC; now where None.

    Raises:
        ConfigError: If there is no such authority, or the folder holds a certificate already.
    """
    names = [x509.UniformResourceIdentifier(role.uri)]
    _issue(authority, folder, name, names, server=False, days=days, begins=begins)


def read_certificate(path: Path) -> CertificateFacts:
    """What a certificate says; its signature is not checked.

    Raises:
        ConfigError: If the file is no certificate.
    """
    certificate = _load_certificate(path)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = []
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    hosts = tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))
    role = next((role.name.lower() for role in Role if role.uri in uris), "")
    kind = "authority" if _is_authority(certificate) else "server" if hosts else "client"
    return CertificateFacts(
        name=_common_name(certificate.subject),
        kind=kind,
        role=role,
        hosts=hosts,
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        issuer=_common_name(certificate.issuer),
    )


def _issue(
    authority: Path,
    folder: Path,
    name: str,
    names: Sequence[x509.GeneralName],
    *,
    server: bool,
    days: int,
    begins: datetime | None,
) -> None:
    issuer, issuer_key = _load_certificate(authority / AUTHORITY_FILE), _load_key(authority / AUTHORITY_KEY_FILE)
    key = _new_key()
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(_name(name), issuer.subject, key, begins or _now(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(identifier, critical=False)
    )
    certificate = builder.sign(issuer_key, hashes.SHA256())
    _write(folder, {AUTHORITY_FILE: _pem(issuer), CERTIFICATE_FILE: _pem(certificate), KEY_FILE: _key_pem(key)})


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _CLOCKS_APART)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes new files; keys are for their owner only."""
    for name in files:
        if os.path.lexists(folder / name):
            raise ConfigError(f"{folder / name} exists already, and is never overwritten; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            mode = 0o600 if name in (KEY_FILE, AUTHORITY_KEY_FILE) else 0o644
            create_synced(folder / name, content, mode)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written ({error.strerror})") from error


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); expected a certificate in PEM") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); expected the key of the authority") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key in PEM without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an ECDSA key")
    return key


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"host {host!r} is neither an address nor a host name in ASCII") from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise ConfigError(f"name {common_name[:80]!r}; expected 1 to 64 characters") from error


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime:
    return datetime.now(timezone.utc)
