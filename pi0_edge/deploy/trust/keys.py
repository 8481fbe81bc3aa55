"""Ed25519 keys as PEM files, and as python-tuf takes them.

The ID of a key is the SHA-256 of its 32 public bytes; the first 16 digits are its fingerprint, the same that
`pi0_edge.bundle.keys` shows. The root metadata holds the name of each key too, such as root-1, so that people can say
which one they mean.
"""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from pi0_edge.errors import DeployError
from pi0_edge.synced_files import create_synced

RELEASE_KEY = "release"
"""Name of the key that signs targets, snapshot and timestamp."""

_NAME_FIELD = "x-pi0-edge-name"
_FINGERPRINT_LENGTH = 16


def root_key_names(count: int) -> tuple[str, ...]:
    """The names root-1, root-2 and so on."""
    return tuple(f"root-{number}" for number in range(1, count + 1))


def generate_key(name: str) -> CryptoSigner:
    """A new key, in memory only."""
    private = Ed25519PrivateKey.generate()
    return CryptoSigner(private, _named(private.public_key(), name))


def write_private_key(path: Path, signer: CryptoSigner) -> None:
    """Writes a private key, on the disk when this returns; only its owner can read the file.

    Raises:
        DeployError: If the file exists already or cannot be written.
    """
    try:
        create_synced(path, signer.private_bytes, mode=0o600)
    except OSError as error:
        raise DeployError(f"the key {path} cannot be written ({error.strerror}); a key is never overwritten") from error


def load_signer(path: Path) -> CryptoSigner:
    """The private key in a PEM file.

    Raises:
        DeployError: If it is no Ed25519 private key without a password.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise DeployError(f"{path} is not a private key in PEM without a password ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise DeployError(f"{path} is a {type(key).__name__}, expected an Ed25519 key from `pi0-edge keys init`")
    return CryptoSigner(key, _named(key.public_key(), path.stem))


def load_public_key(path: Path, name: str) -> SSlibKey:
    """The public key in a PEM file, under the name that it will have.

    Raises:
        DeployError: If it is no Ed25519 public key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise DeployError(f"{path} is not a public key in PEM ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise DeployError(f"{path} is a {type(key).__name__}, expected an Ed25519 key from `pi0-edge bundle keygen`")
    return _named(key, name)


def key_name(key: Key) -> str:
    """The name of a key in root metadata."""
    return str(key.unrecognized_fields.get(_NAME_FIELD, "key"))


def fingerprint(key_id: str) -> str:
    """What people compare: the first 16 digits of a key's ID."""
    return key_id[:_FINGERPRINT_LENGTH]


def _named(key: Ed25519PublicKey, name: str) -> SSlibKey:
    found = SSlibKey.from_crypto(key, keyid=hashlib.sha256(key.public_bytes_raw()).hexdigest())
    found.unrecognized_fields[_NAME_FIELD] = name
    return found
