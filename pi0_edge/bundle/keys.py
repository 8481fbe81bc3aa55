"""Ed25519 keys and signatures, through the package `cryptography` (the extra `signing`).

Keys are PEM files and a signature is its 64 bytes, so that other tools can check one as well:

    openssl pkeyutl -verify -pubin -inkey robot.pub.pem -rawin -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pi0_edge.errors import BundleError, MissingDependencyError
from pi0_edge.synced_files import create_synced

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def write_key_pair(private: Path, public: Path) -> None:
    """Makes a key pair; the private file is readable by its owner only and has no password.

    Raises:
        BundleError: If one of the files exists already or cannot be written.
        MissingDependencyError: If `cryptography` is not installed.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for path in (private, public):
        if os.path.lexists(path):
            raise BundleError(f"{path} exists already, and a key is never overwritten; name another file")
    for path, content, mode in ((private, private_pem, 0o600), (public, public_pem, 0o644)):
        try:
            create_synced(path, content, mode)
        except OSError as error:
            raise BundleError(f"the key {path} cannot be written ({error.strerror})") from error


def make_signature(content: bytes, private_key: Path) -> bytes:
    """The 64 bytes of the signature.

    Raises:
        BundleError: If the file is not an Ed25519 private key without a password.
        MissingDependencyError: If `cryptography` is not installed.
    """
    return _load_private(private_key).sign(content)


def check_signature(content: bytes, signature: bytes, public_key: Path) -> None:
    """Returns if the signature of `content` was made with the private half of `public_key`.

    Raises:
        BundleError: If it was not, or the file is not an Ed25519 public key.
        MissingDependencyError: If `cryptography` is not installed.
    """
    key = _load_public(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature as error:
        raise BundleError(
            f"the signature is not of {public_key} ({fingerprint(public_key)}): the bundle was signed with another "
            "key, or changed by somebody without this one"
        ) from error


def fingerprint(public_key: Path) -> str:
    """A short name of a public key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes.

    Raises:
        BundleError: If the file is not an Ed25519 public key.
        MissingDependencyError: If `cryptography` is not installed.
    """
    return hashlib.sha256(_load_public(public_key).public_bytes_raw()).hexdigest()[:16]


def _load_private(path: Path) -> Ed25519PrivateKey:
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path} is not a private key in PEM without a password ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path} is a {type(key).__name__}, expected an Ed25519 key from `pi0-edge bundle keygen`")
    return key


def _load_public(path: Path) -> Ed25519PublicKey:
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path} is not a public key in PEM ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path} is a {type(key).__name__}, expected an Ed25519 key from `pi0-edge bundle keygen`")
    return key


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need the package cryptography: pip install 'pi0-edge[signing]'"
        ) from error
