"""Another key in the place of one: a new root that the keys of the old root and its own sign.

Robots follow by themselves, because every release brings all roots with it. Bundles that a replaced release key signed
are refused from then on by every robot that has seen the new root: sign them again, with a higher sequence.
"""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from pi0_edge.deploy.trust.keys import (
    RELEASE_KEY,
    fingerprint,
    generate_key,
    key_name,
    load_public_key,
    load_signer,
    write_private_key,
)
from pi0_edge.deploy.trust.trust_folder import ROOT_YEARS, TrustFolder, later
from pi0_edge.errors import DeployError
from pi0_edge.synced_files import sync_folder


def rotate_key(
    folder: Path | str,
    replace: str | None,
    *,
    new_public_key: Path | None = None,
    root_keys: Sequence[Path] | None = None,
) -> int:
    """Writes the next root.

    The private file of the key that is replaced stays, as keys/NAME.retired-N.pem, where N is the last root that named
    it: no robot that has seen the new root believes it.

    Args:
        folder: The trust folder.
        replace: Name of the key, release or root-1, …; None only renews the expiry of the root.
        new_public_key: The new key, where its private half is made and kept elsewhere; else one is made in keys/.
        root_keys: Files of the root keys that sign; else those in keys/.

    Returns:
        The version of the new root.

    Raises:
        DeployError: If there is no key of that name, or too few root keys sign.
    """
    trust = TrustFolder(Path(folder).absolute())
    with trust.locked():
        return _rotate(trust, replace, new_public_key, root_keys)


def _rotate(
    trust: TrustFolder, replace: str | None, new_public_key: Path | None, root_keys: Sequence[Path] | None
) -> int:
    old = trust.root()
    _settle(trust, old.signed)
    signers = _root_signers(trust, old.signed, root_keys)
    root = deepcopy(old.signed)
    root.version += 1
    root.expires = later(datetime.now(timezone.utc), 12 * ROOT_YEARS)
    made: CryptoSigner | None = None
    if replace is not None:
        retired = _find(old.signed, replace)
        if new_public_key is None:
            made = generate_key(replace)
            new: Key = made.public_key
        else:
            new = load_public_key(new_public_key, replace)
        if new.keyid in old.signed.keys:
            raise DeployError(
                f"{new_public_key} is the key {key_name(old.signed.keys[new.keyid])} of this trust folder already; "
                "one key cannot stand for two"
            )
        _exchange(root, retired, new)
    elif new_public_key is not None:
        raise DeployError("a new key replaces one: say which with --replace")
    if made is not None and made.public_key.keyid in root.roles[Root.type].keyids:
        signers.append(made)
    content = _signed(root, old.signed, signers).to_bytes()
    if made is not None:  # before the root that needs it
        write_private_key(trust.keys / f"{replace}.pem.new", made)
    trust.write(f"{root.version}.root.json", content)
    _settle(trust, root)
    return root.version


def _find(root: Root, name: str) -> Key:
    for key in root.keys.values():
        if key_name(key) == name:
            return key
    names = ", ".join(sorted(map(key_name, root.keys.values())))
    raise DeployError(f"there is no key {name!r} in this trust folder; expected one of {names}")


def _exchange(root: Root, old: Key, new: Key) -> None:
    for name, role in root.roles.items():
        if old.keyid in role.keyids:
            root.add_key(new, name)
            root.revoke_key(old.keyid, name)


def _root_signers(trust: TrustFolder, root: Root, files: Sequence[Path] | None) -> list[CryptoSigner]:
    if files is not None:
        return [load_signer(path) for path in files]
    return [signer for signer in trust.signers() if signer.public_key.keyid in root.roles[Root.type].keyids]


def _signed(root: Root, old: Root, signers: Sequence[CryptoSigner]) -> Metadata[Root]:
    allowed = {*old.roles[Root.type].keyids, *root.roles[Root.type].keyids}
    metadata = Metadata(root)
    for signer in signers:
        if signer.public_key.keyid not in allowed:
            raise DeployError(
                f"the key {fingerprint(signer.public_key.keyid)} given with --root-key is no root key here"
            )
        metadata.sign(signer, append=True)
    payload, signatures = metadata.signed_bytes, metadata.signatures
    for version, judge in ((old.version, old), (root.version, root)):
        result = judge.get_verification_result(Root.type, payload, signatures)
        if not result:
            missing = ", ".join(f"{key_name(key)} {fingerprint(key_id)}" for key_id, key in result.unsigned.items())
            raise DeployError(
                f"{len(result.signed)} of the root keys of root {version} would sign, and {result.threshold} must; "
                f"give the files of more of them with --root-key: {missing}"
            )
    return metadata


def _settle(trust: TrustFolder, root: Root) -> None:
    """Gives files the names that the latest root asks for; goes on where an earlier rotation was interrupted."""
    for pending in trust.keys.glob("*.pem.new"):
        signer = load_signer(pending)
        place = pending.with_suffix("")
        if signer.public_key.keyid not in root.keys:  # interrupted before its root was written: nobody knows this key
            pending.unlink()
            continue
        _retire(place, root)
        os.replace(pending, place)
    for name in {RELEASE_KEY, *map(key_name, root.keys.values())}:
        _retire(trust.keys / f"{name}.pem", root)
    sync_folder(trust.keys)
    latest = trust.roots()[-1]
    if (trust.metadata / "root.json").read_bytes() != latest:
        trust.write("root.json", latest)


def _retire(path: Path, root: Root) -> None:
    if path.is_file() and load_signer(path).public_key.keyid not in root.keys:
        os.replace(path, path.with_name(f"{path.stem}.retired-{root.version - 1}.pem"))
